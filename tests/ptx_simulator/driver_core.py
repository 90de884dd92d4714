"""The driver's state and how its functions are called: error codes, sticky errors, injected failures."""

from __future__ import annotations

import ctypes
import threading
import traceback
from collections.abc import Callable
from ctypes import c_int, c_void_p
from typing import Any

from ptx_simulator.device_state import STICKY, Device, DriverError, Registry, code_of
from ptx_simulator.faults import Fault
from ptx_simulator.memory import OutOfMemoryError
from ptx_simulator.simulator import Simulator

Pointer = ctypes.c_uint64
Handle = c_void_p
ENTRIES: dict[str, tuple[tuple[Any, ...], Callable[..., int | None], bool]] = {}


def entry(*types: Any, context: bool = True) -> Callable[[Callable[..., int | None]], Callable[..., int | None]]:
    """A driver function with these C argument types. context: it needs a current context."""

    def register(function: Callable[..., int | None]) -> Callable[..., int | None]:
        ENTRIES[function.__name__] = (types, function, context)
        return function

    return register


class SoftwareDriver:
    """The state behind the functions below. `faults` holds what kernels did wrong, in order."""

    def __init__(self, devices: int, memory: int, capability: tuple[int, int], options: dict[str, Any]) -> None:
        self.capability, self.memory, self.options, self.count = capability, memory, options, devices
        self.faults: list[Fault] = []
        self.calls: dict[str, int] = {}
        self._local = threading.local()
        self._lock = threading.RLock()
        self._injected: list[tuple[str, int, int, int]] = []
        self._callbacks: dict[str, Any] = {}
        self._texts: dict[int, Any] = {}
        self.reset()

    def reset(self) -> None:
        """A fresh driver: no memory, no handles, no error, nothing injected."""
        self.registry = Registry()
        self.initialised = False
        self.devices = [Device(number, Simulator(self.memory, **self.options)) for number in range(self.count)]
        self.pinned: dict[int, Any] = {}
        self.faults.clear()
        self.calls.clear()
        self._injected.clear()
        self._local.stack = []

    def fail(self, name: str, error: int, after: int = 0, times: int = 1) -> None:
        """The `times` calls of `name` (as "cuMemAlloc") after the next `after` ones return `error`; 700 and the like stick."""
        start = self.calls.get(name, 0) + after
        self._injected.append((name, error, start, start + times))

    def check(self) -> None:
        """Raises the first fault, if there was one."""
        if self.faults:
            raise self.faults[0]

    @property
    def stack(self) -> list[Device]:
        """Current contexts of this thread."""
        if not hasattr(self._local, "stack"):
            self._local.stack = []
        return self._local.stack

    @property
    def device(self) -> Device:
        if not self.stack:
            raise DriverError(201)
        return self.stack[-1]

    def invoke(self, name: str, arguments: tuple[Any, ...]) -> int:
        """Calls one of ENTRIES; its CUresult."""
        _, function, context = ENTRIES[name]
        with self._lock:
            number = self.calls.get(name, 0)
            self.calls[name] = number + 1
            try:
                if not self.initialised and name not in ("cuInit", "cuDriverGetVersion", "cuGetErrorName", "cuGetErrorString"):
                    return 3
                if context and self.device.error:
                    return self.device.error
                for injected, error, start, end in self._injected:
                    if injected == name and start <= number < end:
                        raise DriverError(error)
                return function(self, *arguments) or 0
            except DriverError as failure:
                return self._failed(failure.code)
            except Fault as fault:
                self.faults.append(fault)
                return self._failed(code_of(fault))
            except OutOfMemoryError:
                return 2
            except IndexError:
                return 1
            except Exception:
                traceback.print_exc()
                return self._failed(999)

    def _failed(self, code: int) -> int:
        if code in STICKY and self.stack:
            self.device.error = code
        return code

    def callback(self, name: str) -> int:
        """The address of a C function for a name that the program asks for; 0 if there is none."""
        base = name if name in ENTRIES else name.removesuffix("_ptsz").removesuffix("_ptds")
        while base not in ENTRIES and base[-3:-1] == "_v":
            base = base[:-3]
        if base not in ENTRIES:
            return 0
        if base not in self._callbacks:
            prototype = ctypes.CFUNCTYPE(c_int, *ENTRIES[base][0])
            self._callbacks[base] = prototype(lambda *arguments, base=base: self.invoke(base, arguments))
        return ctypes.cast(self._callbacks[base], c_void_p).value or 0

    def text(self, code: int, words: bytes) -> int:
        """The address of a C string that lives as long as the driver."""
        key = hash((code, words))
        self._texts.setdefault(key, ctypes.create_string_buffer(words))
        return ctypes.addressof(self._texts[key])
