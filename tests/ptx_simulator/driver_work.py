"""The rest of the driver API: modules, launches, streams, events, pools, occupancy."""

from __future__ import annotations

import ctypes
import time
from ctypes import POINTER, c_char_p, c_float, c_int, c_size_t, c_uint, c_void_p
from typing import Any

from ptx_simulator.device_state import DriverError, Event, Function, Stream
from ptx_simulator.driver_core import Handle, Pointer, SoftwareDriver, entry
from ptx_simulator.driver_tables import jit_error_log, launch_parameters
from ptx_simulator.faults import LaunchFault, PtxError
from ptx_simulator.simulator import MAX_SHARED, check_launch, compiled, parsed


class Module:
    """Loaded PTX text."""

    def __init__(self, text: str) -> None:
        self.text = text


def _load(driver: SoftwareDriver, image: int | None) -> Module:
    """Compiles every kernel at once, as the real driver does. PtxError for what it cannot read."""
    if not image:
        raise DriverError(1)
    data = ctypes.string_at(image)
    if data[:4] == b"\x7fELF":
        raise DriverError(209)
    text = data.decode()
    target = parsed(text).target
    wanted = int("".join(letter for letter in target.removeprefix("sm_") if letter.isdigit()) or 0)
    have = driver.capability[0] * 10 + driver.capability[1]
    if wanted > have or (target.endswith("a") and wanted != have):
        raise DriverError(209)
    for name in parsed(text).entries():
        compiled(text, name)
    return Module(text)


@entry(POINTER(Handle), c_void_p)
def cuModuleLoadData(driver: SoftwareDriver, result: Any, image: int) -> None:
    result[0] = driver.registry.add(_load(driver, image))


@entry(POINTER(Handle), c_void_p, c_uint, POINTER(c_int), POINTER(c_void_p))
def cuModuleLoadDataEx(driver: SoftwareDriver, result: Any, image: int, count: int, options: Any, values: Any) -> None:
    try:
        result[0] = driver.registry.add(_load(driver, image))
    except PtxError as error:
        jit_error_log(options, values, count, str(error))
        raise


@entry(POINTER(Handle), c_void_p, POINTER(c_int), POINTER(c_void_p), c_uint, POINTER(c_int), POINTER(c_void_p), c_uint)
def cuLibraryLoadData(
    driver: SoftwareDriver, result: Any, image: int, options: Any, values: Any, count: int, names: Any, others: Any, more: int
) -> None:
    cuModuleLoadDataEx(driver, result, image, count, options, values)


@entry(Handle)
def cuModuleUnload(driver: SoftwareDriver, handle: int) -> None:
    module = driver.registry.remove(handle, Module)
    assert isinstance(module, Module)
    driver.device.simulator.unload(module.text)


@entry(Handle)
def cuLibraryUnload(driver: SoftwareDriver, handle: int) -> None:
    cuModuleUnload(driver, handle)


@entry(POINTER(Handle), Handle, c_char_p)
def cuModuleGetFunction(driver: SoftwareDriver, result: Any, handle: int, name: bytes) -> int | None:
    module = driver.registry.get(handle, Module)
    assert isinstance(module, Module)
    if name.decode() not in parsed(module.text).entries():
        return 500
    result[0] = driver.registry.add(Function(module.text, name.decode()))
    return 0


@entry(POINTER(Handle), Handle, c_char_p)
def cuLibraryGetKernel(driver: SoftwareDriver, result: Any, handle: int, name: bytes) -> int | None:
    return cuModuleGetFunction(driver, result, handle, name)


@entry(POINTER(Handle), Handle)
def cuKernelGetFunction(driver: SoftwareDriver, result: Any, kernel: int) -> None:
    driver.registry.get(kernel, Function)
    result[0] = kernel


@entry(POINTER(Pointer), POINTER(c_size_t), Handle, c_char_p)
def cuModuleGetGlobal(driver: SoftwareDriver, address: Any, size: Any, handle: int, name: bytes) -> int | None:
    module = driver.registry.get(handle, Module)
    assert isinstance(module, Module)
    symbols = driver.device.simulator.symbols(module.text)
    if name.decode() not in symbols:
        return 500
    if address:
        address[0] = symbols[name.decode()]
    if size:
        size[0] = parsed(module.text).variables[name.decode()].size
    return 0


def _function(driver: SoftwareDriver, handle: int | None) -> Function:
    found = driver.registry.get(handle, Function)
    assert isinstance(found, Function)
    return found


@entry(POINTER(c_int), c_int, Handle)
def cuFuncGetAttribute(driver: SoftwareDriver, result: Any, attribute: int, handle: int) -> None:
    function = _function(driver, handle)
    program = compiled(function.text, function.name)
    most = 1
    for size in program.kernel.limits.get("maxntid", (1024,)):
        most *= size
    registers = min(255, sum(max(1, bits // 32) for bits in program.registers))
    result[0] = {0: most, 1: program.shared_size, 2: 0, 3: program.local_size, 4: registers, 8: function.dynamic_limit}.get(attribute, 0)


@entry(Handle, c_int, c_int)
def cuFuncSetAttribute(driver: SoftwareDriver, handle: int, attribute: int, value: int) -> int | None:
    function = _function(driver, handle)
    if attribute == 8:
        if not 0 <= value <= MAX_SHARED - compiled(function.text, function.name).shared_size:
            return 1
        function.dynamic_limit = value
    return 0


@entry(Handle, *[c_uint] * 7, Handle, POINTER(c_void_p), POINTER(c_void_p))
def cuLaunchKernel(driver: SoftwareDriver, handle: int, *rest: Any) -> int | None:
    (gx, gy, gz, bx, by, bz, shared, stream, pointers, extra) = rest
    function, device = _function(driver, handle), driver.device
    program = compiled(function.text, function.name)
    grid, block = (gx, gy, gz), (bx, by, bz)
    try:
        check_launch(program, grid, block, shared)
    except LaunchFault as fault:
        driver.faults.append(fault)
        return 1
    if shared > function.dynamic_limit:
        return 1
    parameters = launch_parameters(program.kernel, pointers, extra)
    simulator = device.simulator
    device.enqueue(stream, lambda: simulator.launch_raw(function.text, function.name, grid, block, parameters, shared))
    return 0


class _LaunchConfig(ctypes.Structure):
    _fields_ = [
        ("gx", c_uint), ("gy", c_uint), ("gz", c_uint), ("bx", c_uint), ("by", c_uint), ("bz", c_uint), ("shared", c_uint),
        ("stream", c_void_p), ("attributes", c_void_p), ("count", c_uint),
    ]  # fmt: skip


@entry(POINTER(_LaunchConfig), Handle, POINTER(c_void_p), POINTER(c_void_p))
def cuLaunchKernelEx(driver: SoftwareDriver, config: Any, handle: int, pointers: Any, extra: Any) -> int | None:
    c = config[0]
    return cuLaunchKernel(driver, handle, c.gx, c.gy, c.gz, c.bx, c.by, c.bz, c.shared, c.stream, pointers, extra)


@entry(POINTER(c_int), Handle, c_int, c_size_t)
def cuOccupancyMaxActiveBlocksPerMultiprocessor(driver: SoftwareDriver, result: Any, handle: int, block: int, shared: int) -> None:
    function = _function(driver, handle)
    used = compiled(function.text, function.name).shared_size + shared + 1024
    result[0] = max(0, min(2048 // max(32, -(-block // 32) * 32), 233472 // used, 32))


@entry(POINTER(Handle), c_uint)
def cuStreamCreate(driver: SoftwareDriver, result: Any, flags: int) -> None:
    device = driver.device
    stream = Stream(0, blocking=not flags & 1)
    stream.handle = driver.registry.add(stream)
    device.streams[stream.handle] = stream
    result[0] = stream.handle


@entry(POINTER(Handle), c_uint, c_int)
def cuStreamCreateWithPriority(driver: SoftwareDriver, result: Any, flags: int, priority: int) -> None:
    cuStreamCreate(driver, result, flags)


@entry(Handle)
def cuStreamDestroy(driver: SoftwareDriver, handle: int) -> None:
    driver.device.stream(handle).drain()
    driver.registry.remove(handle, Stream)
    driver.device.streams.pop(handle)


@entry(Handle)
def cuStreamSynchronize(driver: SoftwareDriver, handle: int | None) -> None:
    driver.device.stream(handle).drain()


@entry(Handle)
def cuStreamQuery(driver: SoftwareDriver, handle: int | None) -> int | None:
    """Each question lets one piece of work run, so that polling ends."""
    stream = driver.device.stream(handle)
    if not stream.work:
        return 0
    stream.drain(stream.done + 1)
    return 600


@entry(Handle, Handle, c_uint)
def cuStreamWaitEvent(driver: SoftwareDriver, handle: int | None, event_handle: int, flags: int) -> None:
    event = _event(driver, event_handle)
    stream, number = event.stream, event.number
    if stream is not None:
        driver.device.enqueue(handle, lambda: stream.drain(number))


def _event(driver: SoftwareDriver, handle: int | None) -> Event:
    found = driver.registry.get(handle, Event)
    assert isinstance(found, Event)
    return found


@entry(POINTER(Handle), c_uint)
def cuEventCreate(driver: SoftwareDriver, result: Any, flags: int) -> None:
    result[0] = driver.registry.add(Event(timed=not flags & 2))


@entry(Handle)
def cuEventDestroy(driver: SoftwareDriver, handle: int) -> None:
    driver.registry.remove(handle, Event)


@entry(Handle, Handle)
def cuEventRecord(driver: SoftwareDriver, handle: int, stream: int | None) -> None:
    event = _event(driver, handle)

    def job() -> None:
        event.time = time.perf_counter()

    event.stream = driver.device.enqueue(stream, job)
    event.number = event.stream.given


@entry(Handle)
def cuEventSynchronize(driver: SoftwareDriver, handle: int) -> None:
    event = _event(driver, handle)
    if event.stream is not None:
        event.stream.drain(event.number)


@entry(Handle)
def cuEventQuery(driver: SoftwareDriver, handle: int) -> int | None:
    event = _event(driver, handle)
    if event.stream is None or event.stream.done >= event.number:
        return 0
    event.stream.drain(event.stream.done + 1)
    return 600


@entry(POINTER(c_float), Handle, Handle)
def cuEventElapsedTime(driver: SoftwareDriver, result: Any, start: int, end: int) -> int | None:
    first, last = _event(driver, start), _event(driver, end)
    if first.stream is None or last.stream is None or not (first.timed and last.timed):
        return 400
    if first.stream.done < first.number or last.stream.done < last.number:
        return 600
    result[0] = (last.time - first.time) * 1e3
    return 0


@entry(Handle, ctypes.CFUNCTYPE(None, c_void_p), c_void_p)
def cuLaunchHostFunc(driver: SoftwareDriver, stream: int | None, function: Any, data: int) -> None:
    driver.device.enqueue(stream, lambda: function(data))
