"""NVIDIA's driver through `cuda.bindings.driver`: found on first use, its errors as Python's, devices, streams and events.

Nothing here is imported before somebody asks for a CUDA device. Without cuda-python or a driver, `driver()` says what is missing.
"""
from __future__ import annotations

import os
import threading
from collections import deque
from typing import Any

from treadle.codegen.ptx_target import architecture_for
from treadle.runtime.cuda_memory import DevicePool

HOW = "Install NVIDIA's driver and the extra: pip install 'treadle[cuda]'."


class OutOfMemoryError(RuntimeError):
    """No memory is left on the device, cached blocks included."""


class Absent(RuntimeError):
    """There is no usable CUDA device; the message says why and what to do."""


_DRIVER: Any = None


def driver() -> Any:
    """The initialized module `cuda.bindings.driver`. `Absent` when cuda-python, the driver or a device is missing."""
    global _DRIVER
    if _DRIVER is not None:
        return _DRIVER
    try:
        from cuda.bindings import driver as found
    except ImportError as error:
        raise Absent(f"CUDA is not available: cuda-python is not installed ({error}). {HOW}") from None
    try:
        status = found.cuInit(0)[0]
    except RuntimeError as error:  # cuda-python's DynamicLibNotFoundError is one
        raise Absent(f"CUDA is not available: NVIDIA's driver was not found ({str(error).splitlines()[0]}). {HOW}") from None
    if status != 0:
        raise Absent(f"CUDA is not available: the driver does not start ({describe(found, status)}). {HOW}")
    if found.cuDeviceGetCount()[1] == 0:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "not set")
        raise Absent(f"CUDA is not available: the driver sees no device (CUDA_VISIBLE_DEVICES={visible}).")
    _DRIVER = found
    return found


def describe(cu: Any, status: Any) -> str:
    """A status as the driver words it, with its name."""
    name, text = cu.cuGetErrorName(status), cu.cuGetErrorString(status)
    word = name[1].decode() if name[0] == 0 and name[1] else f"error {int(status)}"
    return f"{text[1].decode()} [{word}]" if text[0] == 0 and text[1] else word


def call(name: str, *args: Any) -> Any:
    """Call a driver function; its results without the status. `RuntimeError` (or `OutOfMemoryError`) when it fails."""
    answer = getattr(_DRIVER or driver(), name)(*args)
    if answer[0] != 0:
        raise failure(answer[0], name)
    return answer[1] if len(answer) == 2 else answer[1:]


# Nodes of the launches that nobody has waited for yet, the last ones: where an error that comes later may come from.
_RECENT: deque[Any] = deque(maxlen=8)
BLOCKING = os.environ.get("CUDA_LAUNCH_BLOCKING", "") not in ("", "0")


def launched(nodes: tuple[Any, ...]) -> None:
    """Note where a launch comes from."""
    _RECENT.append(nodes)


def failure(status: Any, name: str) -> RuntimeError:
    """The exception for a status that `name` returned, with the ops that may have caused it."""
    text = f"CUDA error: {describe(driver(), status)} in {name}"
    if int(status) == 2:
        return OutOfMemoryError(f"CUDA out of memory: {text}")
    places = [_where(node) for nodes in reversed(_RECENT) for node in nodes[-1:]]
    if places and int(status) >= 700:
        text += f"; the last launches were {', '.join(dict.fromkeys(places))}"
        if not BLOCKING and len(places) > 1:
            text += ". Set CUDA_LAUNCH_BLOCKING=1 to wait for each and know which"
    return RuntimeError(text)


def _where(node: Any) -> str:
    name = node.op.name if node.op else "input"
    return f"{name} at {node.loc[0]}:{node.loc[1]}" if node.loc else name


class Device:
    """A device's primary context, its memory and what is loaded there."""

    def __init__(self, index: int) -> None:
        cu = driver()
        count = call("cuDeviceGetCount")
        if not 0 <= index < count:
            raise RuntimeError(f"CUDA error: invalid device ordinal: there {'is 1 device' if count == 1 else f'are {count} devices'}, "
                               f"got cuda:{index}")
        self.index = index
        self.name_in_ir = f"cuda:{index}"
        self.handle = call("cuDeviceGet", index)
        self.context = call("cuDevicePrimaryCtxRetain", self.handle)
        attribute = cu.CUdevice_attribute
        self.capability = tuple(int(call("cuDeviceGetAttribute", getattr(attribute, f"CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_{part}"),
                                         self.handle)) for part in ("MAJOR", "MINOR"))
        self.architecture = architecture_for(*self.capability)
        self.functions: dict[Any, Any] = {}
        self.modules: list[Any] = []
        self.pools: dict[int, DevicePool] = {}
        self.lock = threading.RLock()

    @property
    def name(self) -> str:
        return bytes(call("cuDeviceGetName", 256, self.handle)).split(b"\0")[0].decode()

    @property
    def total_memory(self) -> int:
        return int(call("cuDeviceTotalMem", self.handle))

    def enter(self) -> Device:
        """Make this the device of the calling thread's driver calls."""
        if _HERE.context is not self:
            call("cuCtxSetCurrent", self.context)
            _HERE.context = self
        return self

    @property
    def pool(self) -> DevicePool:
        """The memory of the current stream: blocks are reused in its order."""
        stream = _HERE.streams.get(self.index, 0)
        found = self.pools.get(int(stream))
        if found is None:
            found = self.pools.setdefault(int(stream), DevicePool(self))
        return found

    def allocate(self, nbytes: int) -> Any:
        self.enter()
        return self.pool.allocate(nbytes)

    def stream(self) -> Any:
        """The handle of the stream this thread works on; 0 is the default stream."""
        return _HERE.streams.get(self.index, 0)

    def wait(self, stream: Any = None) -> None:
        """Until the stream's (by default, the current one's) work is done; errors of launches appear here."""
        self.enter()
        call("cuStreamSynchronize", self.stream() if stream is None else stream)

    def wait_all(self) -> None:
        self.enter()
        call("cuCtxSynchronize")
        _RECENT.clear()

    def load(self, ptx: str, name: str) -> Any:
        """The function `name` of a module in PTX. RuntimeError with the assembler's words when the driver refuses it."""
        self.enter()
        cu = driver()
        log = bytearray(8192)
        options = [cu.CUjit_option.CU_JIT_ERROR_LOG_BUFFER, cu.CUjit_option.CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES]
        status, module = cu.cuModuleLoadDataEx(ptx.encode() + b"\0", 2, options, [log, len(log)])
        if status != 0:
            text = bytes(log).split(b"\0")[0].decode(errors="replace")
            raise RuntimeError(f"CUDA error: {describe(cu, status)} for kernel {name}: {text}")
        self.modules.append(module)
        return call("cuModuleGetFunction", module, name.encode())


class _Local(threading.local):
    def __init__(self) -> None:
        self.context: Device | None = None
        self.index = 0
        self.streams: dict[int, Any] = {}


_HERE = _Local()
_DEVICES: dict[int, Device] = {}
_LOCK = threading.Lock()
RESETS = 0  # how often the devices were dropped: what was loaded before is gone


def device(index: int | None = None) -> Device:
    """A device, by default the thread's current one. RuntimeError when there is none of this number."""
    number = _HERE.index if index is None else index
    found = _DEVICES.get(number)
    if found is None:
        with _LOCK:
            found = _DEVICES.get(number) or _DEVICES.setdefault(number, Device(number))
    return found


def device_named(name: str) -> Device:
    """The device that the IR calls `cuda:1`."""
    return device(int(name.partition(":")[2] or 0))


def known_devices() -> list[Device]:
    """The devices used so far."""
    return list(_DEVICES.values())


def current_index() -> int:
    return _HERE.index


def set_current(index: int) -> None:
    _HERE.index = device(index).index


def swap_stream(where: Device, handle: Any) -> Any:
    """Make `handle` the thread's stream on the device; the one before."""
    before = _HERE.streams.get(where.index, 0)
    _HERE.streams[where.index] = handle
    return before


def forget() -> None:
    """Drop every device, as after a reset of the driver: tensors that live there are lost."""
    global _DRIVER, RESETS
    RESETS += 1
    _DEVICES.clear()
    _HERE.__init__()  # type: ignore[misc]
    _RECENT.clear()
    _DRIVER = None
