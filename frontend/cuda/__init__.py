"""`treadle.cuda`: NVIDIA devices, their streams, events and memory. Nothing of CUDA is loaded before it is asked for.

Memory is cached: a tensor's block is used again by the next one of its size on the same stream.
"""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from treadle.device import device as device_type
from treadle.runtime import engine


def _index(where: Any) -> int | None:
    """The number that a device argument means; None for the current device. ValueError for the CPU."""
    if where is None or isinstance(where, int):
        return where
    found = where if isinstance(where, device_type) else device_type(where)
    if found.type != "cuda":
        raise ValueError(f"Expected a cuda device, but got: {found}")
    return found.index


def _device(where: Any = None) -> Any:
    from treadle.runtime import cuda_driver
    return cuda_driver.device(_index(where))


# -- devices ---------------------------------------------------------------------------------------------------------------------
def is_available() -> bool:
    """Whether cuda-python, a driver and a device are there. Never raises."""
    return device_count() > 0


def device_count() -> int:
    """How many devices the driver sees; 0 when there is no driver."""
    from treadle.runtime import cuda_driver
    try:
        cuda_driver.driver()
        return int(cuda_driver.call("cuDeviceGetCount"))
    except RuntimeError:
        return 0


def is_initialized() -> bool:
    """Whether this process has used a device."""
    import sys
    found = sys.modules.get("treadle.runtime.cuda_driver")
    return found is not None and bool(found.known_devices())


def init() -> None:
    """Start the driver now; `RuntimeError` says what is missing."""
    _device()


def current_device() -> int:
    """The number of the device that `device="cuda"` means in this thread."""
    from treadle.runtime import cuda_driver
    cuda_driver.driver()
    return cuda_driver.current_index()


def set_device(device: Any) -> None:
    """Make `device` the current one of this thread."""
    from treadle.runtime import cuda_driver
    index = _index(device)
    if index is not None:
        cuda_driver.set_current(index)


@contextmanager
def device(device: Any) -> Iterator[None]:
    """`with cuda.device(1):` makes it the current one inside."""
    before = current_device()
    set_device(device)
    try:
        yield
    finally:
        set_device(before)


class DeviceProperties(NamedTuple):
    """Facts about a device."""

    name: str
    major: int
    minor: int
    total_memory: int
    multi_processor_count: int


def get_device_properties(device: Any = None) -> DeviceProperties:
    """Name, memory, multiprocessors and compute capability of a device."""
    from treadle.runtime import cuda_driver
    found = _device(device)
    cu = cuda_driver.driver()
    count = cuda_driver.call("cuDeviceGetAttribute", cu.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, found.handle)
    return DeviceProperties(found.name, found.capability[0], found.capability[1], found.total_memory, int(count))


def get_device_name(device: Any = None) -> str:
    """The name of a device."""
    name: str = _device(device).name
    return name


def get_device_capability(device: Any = None) -> tuple[int, int]:
    """(major, minor) compute capability."""
    major, minor = _device(device).capability
    return major, minor


def synchronize(device: Any = None) -> None:
    """Compute what is pending and wait for the device. Errors of launches appear here, with the ops that may have caused them."""
    found = _device(device)
    engine.flush("cuda.synchronize")
    found.wait_all()


# -- streams and events ------------------------------------------------------------------------------------------------------------
class Stream:
    """A queue of work on a device: work of one stream runs in order, streams run beside each other."""

    def __init__(self, device: Any = None, priority: int = 0, *, handle: Any = None) -> None:
        from treadle.runtime import cuda_driver
        self._device = _device(device).enter()
        self._own = handle is None
        self.cuda_stream = handle
        if handle is None:
            non_blocking = cuda_driver.driver().CUstream_flags.CU_STREAM_NON_BLOCKING
            self.cuda_stream = int(cuda_driver.call("cuStreamCreateWithPriority", non_blocking, priority))

    @property
    def device(self) -> device_type:
        return device_type("cuda", self._device.index)

    def _call(self, name: str, *args: Any) -> Any:
        from treadle.runtime import cuda_driver
        self._device.enter()
        return cuda_driver.call(name, self.cuda_stream, *args)

    def synchronize(self) -> None:
        """Wait for all its work."""
        engine.flush("stream.synchronize")
        self._call("cuStreamSynchronize")

    def query(self) -> bool:
        """Whether all its work is done."""
        from treadle.runtime import cuda_driver
        self._device.enter()
        status = cuda_driver.driver().cuStreamQuery(self.cuda_stream)[0]
        if int(status) not in (0, 600):  # 600: not ready
            raise cuda_driver.failure(status, "cuStreamQuery")
        return int(status) == 0

    def wait_event(self, event: Event) -> None:
        """Work given to it from now on waits for the event."""
        self._call("cuStreamWaitEvent", event._handle(), 0)

    def wait_stream(self, stream: Stream) -> None:
        """Work given to it from now on waits for what the other stream has to do now."""
        self.wait_event(stream.record_event())

    def record_event(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.record(self)
        return event

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and (self._device, self.cuda_stream) == (other._device, other.cuda_stream)

    def __hash__(self) -> int:
        return hash((self._device.index, self.cuda_stream))

    def __repr__(self) -> str:
        return f"<treadle.cuda.Stream device={self.device} cuda_stream={self.cuda_stream:#x}>"

    def __enter__(self) -> Stream:
        from treadle.runtime import cuda_driver
        engine.flush("another stream")
        self._before = cuda_driver.swap_stream(self._device, self.cuda_stream)
        return self

    def __exit__(self, *error: Any) -> None:
        from treadle.runtime import cuda_driver
        if error[0] is None:
            engine.flush("another stream")
        cuda_driver.swap_stream(self._device, self._before)


def stream(stream: Stream | None) -> Any:
    """`with cuda.stream(s):` gives work to `s` inside; None changes nothing."""
    from contextlib import nullcontext
    return nullcontext() if stream is None else stream


def current_stream(device: Any = None) -> Stream:
    """The stream that work of a device goes to."""
    found = _device(device)
    return Stream(found.index, handle=found.stream())


def default_stream(device: Any = None) -> Stream:
    """The stream of a device that work goes to unless told otherwise."""
    return Stream(_device(device).index, handle=0)


class Event:
    """A mark in a stream, to wait for or to measure time with (`enable_timing`)."""

    def __init__(self, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False) -> None:
        self._timing, self._blocking = enable_timing, blocking
        self._event: Any = None
        self._where: Any = None

    def _handle(self) -> Any:
        if self._event is None:
            from treadle.runtime import cuda_driver
            flags = cuda_driver.driver().CUevent_flags
            self._where = _device().enter()
            chosen = 0 if self._timing else int(flags.CU_EVENT_DISABLE_TIMING)
            self._event = cuda_driver.call("cuEventCreate", chosen | (int(flags.CU_EVENT_BLOCKING_SYNC) if self._blocking else 0))
        return self._event

    def record(self, stream: Stream | None = None) -> None:
        """Mark the end of what the stream (by default the current one) has to do now."""
        from treadle.runtime import cuda_driver
        engine.flush("event.record")
        found = stream or current_stream()
        cuda_driver.call("cuEventRecord", self._handle(), found.cuda_stream)

    def wait(self, stream: Stream | None = None) -> None:
        (stream or current_stream()).wait_event(self)

    def synchronize(self) -> None:
        from treadle.runtime import cuda_driver
        cuda_driver.call("cuEventSynchronize", self._handle())

    def query(self) -> bool:
        """Whether the stream has come past the mark."""
        from treadle.runtime import cuda_driver
        status = cuda_driver.driver().cuEventQuery(self._handle())[0]
        if int(status) not in (0, 600):
            raise cuda_driver.failure(status, "cuEventQuery")
        return int(status) == 0

    def elapsed_time(self, end_event: Event) -> float:
        """Milliseconds between two marks that have been passed."""
        from treadle.runtime import cuda_driver
        return float(cuda_driver.call("cuEventElapsedTime", self._handle(), end_event._handle()))

    def __del__(self) -> None:
        if self._event is not None:
            from treadle.runtime import cuda_driver
            if cuda_driver._DRIVER is not None:
                cuda_driver._DRIVER.cuEventDestroy(self._event)


# -- memory ------------------------------------------------------------------------------------------------------------------------
def _pools(device: Any) -> list[Any]:
    return list(_device(device).pools.values()) if is_initialized() else []


def memory_allocated(device: Any = None) -> int:
    """Bytes of the blocks that tensors and plans hold."""
    return sum(p.in_use for p in _pools(device))


def max_memory_allocated(device: Any = None) -> int:
    """The most that `memory_allocated` has been (the sum of the streams' peaks)."""
    return sum(p.peak for p in _pools(device))


def reset_peak_memory_stats(device: Any = None) -> None:
    """Let the peak begin anew from what is allocated now."""
    for pool in _pools(device):
        pool.peak = pool.in_use


def memory_reserved(device: Any = None) -> int:
    """Bytes taken from the driver, the cached ones included."""
    return sum(p.reserved for p in _pools(device))


def max_memory_reserved(device: Any = None) -> int:
    """The most that `memory_reserved` has been: what is reserved is kept until `empty_cache`, so what it is now."""
    return memory_reserved(device)


def mem_get_info(device: Any = None) -> tuple[int, int]:
    """(free, total) bytes of the device."""
    from treadle.runtime import cuda_driver
    _device(device).enter()
    free, total = cuda_driver.call("cuMemGetInfo")
    return int(free), int(total)


def empty_cache() -> None:
    """Give cached blocks back to the driver."""
    if is_initialized():
        from treadle.runtime import cuda_driver
        for found in cuda_driver.known_devices():
            for pool in list(found.pools.values()):
                pool.trim(0)


def manual_seed(seed: int) -> None:
    """Seed the generator: there is one for all devices, which give the same numbers."""
    from treadle.random import manual_seed as seed_all
    seed_all(seed)


def manual_seed_all(seed: int) -> None:
    """Seed the generators of all devices."""
    manual_seed(seed)


def __getattr__(name: str) -> Any:
    if name == "OutOfMemoryError":
        from treadle.runtime.cuda_driver import OutOfMemoryError
        return OutOfMemoryError
    if name == "amp":
        import importlib
        return importlib.import_module("treadle.cuda.amp")
    from treadle import legacy
    if name in legacy.NAMES:
        return legacy.on_cuda(name)
    raise AttributeError(f"module 'treadle.cuda' has no attribute {name!r}")


def is_bf16_supported(including_emulation: bool = True) -> bool:
    """Whether the current device has bfloat16 products (compute capability 8.0 or later); False without a device."""
    return is_available() and get_device_capability() >= (8, 0)
