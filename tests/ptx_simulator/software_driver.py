"""A CUDA driver in Python under the real cuda-python: install() before the first call of cuda.bindings."""

from __future__ import annotations

import ctypes
import tempfile
from ctypes import POINTER, c_char_p, c_int, c_void_p
from pathlib import Path
from typing import Any

from ptx_simulator import driver_calls, driver_work, shim
from ptx_simulator.driver_core import ENTRIES, SoftwareDriver

_installed: list[tuple[SoftwareDriver, Any]] = []


def install(devices: int = 1, memory: int = 1 << 31, capability: tuple[int, int] = (9, 0), **simulator: Any) -> SoftwareDriver:
    """Puts the software driver under cuda-python for the rest of the process; a second call resets and returns the first.

    memory: bytes per device. simulator: arguments of Simulator (threads, budget, races).
    OSError on a processor without a shim. RuntimeError if the process has loaded a real driver: calls would go there.
    """
    if _installed:
        driver = _installed[0][0]
        driver.count, driver.memory, driver.capability, driver.options = devices, memory, capability, simulator
        driver.reset()
        return driver
    if real := _loaded_driver():
        raise RuntimeError(f"the process has already loaded {real}: install the software driver before the first call of cuda.bindings")
    driver = SoftwareDriver(devices, memory, capability, simulator)
    missing = [name for module in (driver_calls, driver_work) for name in dir(module) if name.startswith("cu") and name not in ENTRIES]
    if missing:
        raise AttributeError(f"driver functions without @entry: {missing}")
    library = ctypes.CDLL(str(shim.write(Path(tempfile.mkdtemp(prefix="libcuda")))), mode=ctypes.RTLD_GLOBAL)
    resolve = _resolver(driver)
    c_void_p.in_dll(library, "slot").value = ctypes.cast(resolve, c_void_p).value
    _installed.append((driver, (library, resolve)))
    return driver


def _loaded_driver() -> str | None:
    """The path of a libcuda in this process (as Linux lists its mapped files)."""
    maps = Path("/proc/self/maps")
    lines = maps.read_text().splitlines() if maps.exists() else []
    return next((line.split()[-1] for line in lines if "/libcuda.so" in line), None)


def _resolver(driver: SoftwareDriver) -> Any:
    """cuGetProcAddress_v2 as a C function."""

    @ctypes.CFUNCTYPE(c_int, c_char_p, POINTER(c_void_p), c_int, ctypes.c_uint64, POINTER(c_int))
    def resolve(symbol: bytes, result: Any, version: int, flags: int, status: Any) -> int:
        name = symbol.decode()
        address = ctypes.cast(resolve, c_void_p).value if name == "cuGetProcAddress" else driver.callback(name)
        result[0] = address or None
        if status:
            status[0] = 0 if address else 1
        return 0 if address else 500

    return resolve
