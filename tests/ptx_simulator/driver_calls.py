"""Driver functions for devices, contexts and memory. Names and arguments are those of cuda.h."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_int, c_size_t, c_ubyte, c_uint, c_ushort, c_void_p
from typing import Any

import numpy as np

from ptx_simulator.device_state import Device, DriverError, Stream
from ptx_simulator.driver_core import Handle, Pointer, SoftwareDriver, entry
from ptx_simulator.driver_tables import ERRORS, attributes
from ptx_simulator.simulator import Simulator


@entry(c_uint, context=False)
def cuInit(driver: SoftwareDriver, flags: int) -> int | None:
    driver.initialised = True
    return 1 if flags else 0


@entry(POINTER(c_int), context=False)
def cuDriverGetVersion(driver: SoftwareDriver, version: Any) -> None:
    version[0] = 13000


@entry(c_int, POINTER(c_void_p), context=False)
def cuGetErrorName(driver: SoftwareDriver, code: int, result: Any) -> int | None:
    result[0] = driver.text(0, ERRORS.get(code, ("CUDA_ERROR_UNKNOWN", ""))[0].encode())
    return 0 if code in ERRORS else 1


@entry(c_int, POINTER(c_void_p), context=False)
def cuGetErrorString(driver: SoftwareDriver, code: int, result: Any) -> int | None:
    result[0] = driver.text(1, ERRORS.get(code, ("", "unknown error"))[1].encode())
    return 0 if code in ERRORS else 1


@entry(POINTER(c_int), context=False)
def cuDeviceGetCount(driver: SoftwareDriver, count: Any) -> None:
    count[0] = len(driver.devices)


@entry(POINTER(c_int), c_int, context=False)
def cuDeviceGet(driver: SoftwareDriver, result: Any, number: int) -> int | None:
    result[0] = number
    return 0 if 0 <= number < len(driver.devices) else 101


def _device(driver: SoftwareDriver, number: int) -> Device:
    if not 0 <= number < len(driver.devices):
        raise DriverError(101)
    return driver.devices[number]


@entry(c_void_p, c_int, c_int, context=False)
def cuDeviceGetName(driver: SoftwareDriver, name: int, length: int, number: int) -> None:
    _device(driver, number)
    words = f"PTX simulator {number}".encode()[: length - 1] + b"\0"
    ctypes.memmove(name, words, len(words))


@entry(c_void_p, c_int, context=False)
def cuDeviceGetUuid(driver: SoftwareDriver, uuid: int, number: int) -> None:
    _device(driver, number)
    ctypes.memmove(uuid, b"PTX simulator " + bytes([number, 0]), 16)


@entry(POINTER(c_size_t), c_int, context=False)
def cuDeviceTotalMem(driver: SoftwareDriver, result: Any, number: int) -> None:
    result[0] = _device(driver, number).simulator.memory.limit


@entry(POINTER(c_int), c_int, c_int, context=False)
def cuDeviceGetAttribute(driver: SoftwareDriver, result: Any, attribute: int, number: int) -> None:
    _device(driver, number)
    result[0] = attributes(driver.capability).get(attribute, 0)


@entry(POINTER(c_int), c_int, c_int, context=False)
def cuDeviceCanAccessPeer(driver: SoftwareDriver, result: Any, number: int, other: int) -> None:
    result[0] = 0


@entry(POINTER(Handle), c_int, context=False)
def cuDevicePrimaryCtxRetain(driver: SoftwareDriver, result: Any, number: int) -> None:
    device = _device(driver, number)
    device.retained += 1
    result[0] = _context(number)


def _context(number: int) -> int:
    return 0xC0DE00 + number * 16


def _context_device(driver: SoftwareDriver, handle: int | None) -> Device:
    number = ((handle or 0) - 0xC0DE00) // 16
    if not handle or not 0 <= number < len(driver.devices):
        raise DriverError(201)
    return driver.devices[number]


@entry(c_int, context=False)
def cuDevicePrimaryCtxRelease(driver: SoftwareDriver, number: int) -> int | None:
    device = _device(driver, number)
    if device.retained == 0:
        return 201
    device.retained -= 1
    return 0


@entry(c_int, context=False)
def cuDevicePrimaryCtxReset(driver: SoftwareDriver, number: int) -> None:
    device = _device(driver, number)
    device.forget()
    device.simulator = Simulator(driver.memory, **driver.options)


@entry(c_int, POINTER(c_uint), POINTER(c_int), context=False)
def cuDevicePrimaryCtxGetState(driver: SoftwareDriver, number: int, flags: Any, active: Any) -> None:
    flags[0], active[0] = 0, int(_device(driver, number).retained > 0)


@entry(POINTER(Handle), c_void_p, c_uint, c_int, context=False)
def cuCtxCreate(driver: SoftwareDriver, result: Any, parameters: int, flags: int, number: int) -> None:
    """The primary context stands in for a context of its own; it becomes current."""
    driver.stack.append(_device(driver, number))
    result[0] = _context(number)


@entry(Handle, context=False)
def cuCtxDestroy(driver: SoftwareDriver, context: int | None) -> None:
    device = _context_device(driver, context)
    device.synchronize()
    if driver.stack and driver.stack[-1] is device:
        driver.stack.pop()


@entry(Handle, context=False)
def cuCtxSetCurrent(driver: SoftwareDriver, context: int | None) -> None:
    if driver.stack:
        driver.stack.pop()
    if context:
        driver.stack.append(_context_device(driver, context))


@entry(POINTER(Handle), context=False)
def cuCtxGetCurrent(driver: SoftwareDriver, result: Any) -> None:
    result[0] = _context(driver.stack[-1].number) if driver.stack else None


@entry(Handle, context=False)
def cuCtxPushCurrent(driver: SoftwareDriver, context: int | None) -> None:
    driver.stack.append(_context_device(driver, context))


@entry(POINTER(Handle), context=False)
def cuCtxPopCurrent(driver: SoftwareDriver, result: Any) -> None:
    device = driver.device
    driver.stack.pop()
    if result:
        result[0] = _context(device.number)


@entry(POINTER(c_int))
def cuCtxGetDevice(driver: SoftwareDriver, result: Any) -> None:
    result[0] = driver.device.number


@entry()
def cuCtxSynchronize(driver: SoftwareDriver) -> None:
    driver.device.synchronize()


@entry(POINTER(c_int), POINTER(c_int))
def cuCtxGetStreamPriorityRange(driver: SoftwareDriver, least: Any, greatest: Any) -> None:
    for result in (least, greatest):
        if result:
            result[0] = 0


# ---- memory


@entry(POINTER(Pointer), c_size_t)
def cuMemAlloc(driver: SoftwareDriver, result: Any, size: int) -> int | None:
    if size == 0:
        return 1
    result[0] = driver.device.simulator.empty(size)
    return 0


@entry(POINTER(Pointer), c_size_t, Handle)
def cuMemAllocAsync(driver: SoftwareDriver, result: Any, size: int, stream: int | None) -> int | None:
    driver.device.stream(stream)
    return cuMemAlloc(driver, result, size)


@entry(Pointer)
def cuMemFree(driver: SoftwareDriver, address: int) -> int | None:
    if address == 0:
        return 0
    driver.device.synchronize()
    return _free(driver.device, address)


def _free(device: Device, address: int) -> int:
    try:
        device.simulator.memory.free(address)
    except KeyError:
        return 1
    return 0


@entry(Pointer, Handle)
def cuMemFreeAsync(driver: SoftwareDriver, address: int, stream: int | None) -> int | None:
    device = driver.device
    found = device.simulator.memory.find(address)
    if found is None or found.base != address:
        return 1
    device.enqueue(stream, lambda: _raise(_free(device, address)))
    return 0


def _raise(code: int) -> None:
    if code:
        raise DriverError(code)


@entry(POINTER(c_size_t), POINTER(c_size_t))
def cuMemGetInfo(driver: SoftwareDriver, free: Any, total: Any) -> None:
    memory = driver.device.simulator.memory
    free[0], total[0] = memory.limit - memory.used, memory.limit


@entry(POINTER(Pointer), POINTER(c_size_t), Pointer)
def cuMemGetAddressRange(driver: SoftwareDriver, base: Any, size: Any, address: int) -> int | None:
    found = driver.device.simulator.memory.find(address)
    if found is None:
        return 500
    if base:
        base[0] = found.base
    if size:
        size[0] = found.size
    return 0


@entry(POINTER(c_void_p), c_size_t, c_uint)
def cuMemHostAlloc(driver: SoftwareDriver, result: Any, size: int, flags: int) -> None:
    buffer = np.full(size + 64, 0xCD, np.uint8)
    address = -(-buffer.ctypes.data // 64) * 64
    driver.pinned[address] = (size, buffer)
    result[0] = address


@entry(POINTER(c_void_p), c_size_t)
def cuMemAllocHost(driver: SoftwareDriver, result: Any, size: int) -> None:
    cuMemHostAlloc(driver, result, size, 0)


@entry(c_void_p)
def cuMemFreeHost(driver: SoftwareDriver, address: int) -> int | None:
    driver.device.synchronize()
    return 0 if driver.pinned.pop(address, None) else 1


@entry(c_void_p, c_size_t, c_uint)
def cuMemHostRegister(driver: SoftwareDriver, address: int, size: int, flags: int) -> int | None:
    if address in driver.pinned:
        return 712
    driver.pinned[address] = (size, None)
    return 0


@entry(c_void_p)
def cuMemHostUnregister(driver: SoftwareDriver, address: int) -> int | None:
    driver.device.synchronize()
    return 0 if driver.pinned.pop(address, None) else 713


def _is_pinned(driver: SoftwareDriver, address: int, size: int) -> bool:
    return any(start <= address and address + size <= start + length for start, (length, _) in driver.pinned.items())


def _host(address: int, size: int) -> Any:
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))


def _upload(driver: SoftwareDriver, target: int, source: int, size: int, stream: int | None) -> Stream:
    """Pinned host memory is read when the copy runs; other memory is staged at once, as the real driver does."""
    device = driver.device
    device.simulator.memory.span(target, size)
    data = _host(source, size)
    data = data if _is_pinned(driver, source, size) else data.copy()
    return device.enqueue(stream, lambda: device.simulator.memory.write(target, data))


def _download(driver: SoftwareDriver, target: int, source: int, size: int, stream: int | None) -> Stream:
    device = driver.device
    device.simulator.memory.span(source, size)

    def job() -> None:
        _host(target, size)[:] = device.simulator.memory.read(source, size)

    return device.enqueue(stream, job)


@entry(Pointer, c_void_p, c_size_t)
def cuMemcpyHtoD(driver: SoftwareDriver, target: int, source: int, size: int) -> None:
    if size:
        _upload(driver, target, source, size, None).drain()


@entry(c_void_p, Pointer, c_size_t)
def cuMemcpyDtoH(driver: SoftwareDriver, target: int, source: int, size: int) -> None:
    if size:
        _download(driver, target, source, size, None).drain()


@entry(Pointer, c_void_p, c_size_t, Handle)
def cuMemcpyHtoDAsync(driver: SoftwareDriver, target: int, source: int, size: int, stream: int | None) -> None:
    if size:
        _upload(driver, target, source, size, stream)


@entry(c_void_p, Pointer, c_size_t, Handle)
def cuMemcpyDtoHAsync(driver: SoftwareDriver, target: int, source: int, size: int, stream: int | None) -> None:
    if size:
        found = _download(driver, target, source, size, stream)
        if not _is_pinned(driver, target, size):
            found.drain()


def _copy(driver: SoftwareDriver, target: int, source: int, size: int, stream: int | None) -> Stream:
    device = driver.device
    device.simulator.memory.span(target, size)
    device.simulator.memory.span(source, size)
    return device.enqueue(stream, lambda: device.simulator.memory.copy(target, source, size))


@entry(Pointer, Pointer, c_size_t)
def cuMemcpyDtoD(driver: SoftwareDriver, target: int, source: int, size: int) -> None:
    if size:
        _copy(driver, target, source, size, None)


@entry(Pointer, Pointer, c_size_t, Handle)
def cuMemcpyDtoDAsync(driver: SoftwareDriver, target: int, source: int, size: int, stream: int | None) -> None:
    if size:
        _copy(driver, target, source, size, stream)


def _any_copy(driver: SoftwareDriver, target: int, source: int, size: int, stream: int | None) -> Stream | None:
    """Addresses tell by themselves whether they are the device's."""
    find = driver.device.simulator.memory.find
    if find(target) and find(source):
        return _copy(driver, target, source, size, stream)
    if find(target):
        return _upload(driver, target, source, size, stream)
    if find(source):
        return _download(driver, target, source, size, stream)
    ctypes.memmove(target, source, size)
    return None


@entry(Pointer, Pointer, c_size_t)
def cuMemcpy(driver: SoftwareDriver, target: int, source: int, size: int) -> None:
    if size and (stream := _any_copy(driver, target, source, size, None)):
        stream.drain()


@entry(Pointer, Pointer, c_size_t, Handle)
def cuMemcpyAsync(driver: SoftwareDriver, target: int, source: int, size: int, stream: int | None) -> None:
    if size:
        found = _any_copy(driver, target, source, size, stream)
        if found and not driver.device.simulator.memory.find(target) and not _is_pinned(driver, target, size):
            found.drain()


@entry(c_void_p, c_int, Pointer)
def cuPointerGetAttribute(driver: SoftwareDriver, result: int, attribute: int, address: int) -> int | None:
    """Memory type (2: CU_POINTER_ATTRIBUTE_MEMORY_TYPE) and device (9) of an address."""
    on_device = driver.device.simulator.memory.find(address) is not None
    if not on_device and not _is_pinned(driver, address, 1):
        return 1
    if attribute not in (2, 9):
        return 801
    ctypes.c_int.from_address(result).value = driver.device.number if attribute == 9 else (2 if on_device else 1)
    return 0


@entry(POINTER(Handle), c_int, context=False)
def cuDeviceGetDefaultMemPool(driver: SoftwareDriver, result: Any, number: int) -> None:
    result[0] = 0xB001 + _device(driver, number).number


@entry(Handle, c_int, c_void_p)
def cuMemPoolSetAttribute(driver: SoftwareDriver, pool: int, attribute: int, value: int) -> None:
    """Accepted: the pool keeps nothing, so that its limits change nothing."""


@entry(Handle, c_size_t)
def cuMemPoolTrimTo(driver: SoftwareDriver, pool: int, keep: int) -> None:
    driver.device.synchronize()


def _fill(driver: SoftwareDriver, target: int, value: Any, count: int, stream: int | None) -> None:
    if not count:
        return
    device = driver.device
    device.simulator.memory.span(target, count * value.nbytes)
    if target % value.nbytes:
        raise DriverError(1)
    device.enqueue(stream, lambda: device.simulator.memory.write(target, np.full(count, value)))


@entry(Pointer, c_ubyte, c_size_t)
def cuMemsetD8(driver: SoftwareDriver, target: int, value: int, count: int) -> None:
    _fill(driver, target, np.uint8(value), count, None)


@entry(Pointer, c_ushort, c_size_t)
def cuMemsetD16(driver: SoftwareDriver, target: int, value: int, count: int) -> None:
    _fill(driver, target, np.uint16(value), count, None)


@entry(Pointer, c_uint, c_size_t)
def cuMemsetD32(driver: SoftwareDriver, target: int, value: int, count: int) -> None:
    _fill(driver, target, np.uint32(value), count, None)


@entry(Pointer, c_ubyte, c_size_t, Handle)
def cuMemsetD8Async(driver: SoftwareDriver, target: int, value: int, count: int, stream: int | None) -> None:
    _fill(driver, target, np.uint8(value), count, stream)


@entry(Pointer, c_ushort, c_size_t, Handle)
def cuMemsetD16Async(driver: SoftwareDriver, target: int, value: int, count: int, stream: int | None) -> None:
    _fill(driver, target, np.uint16(value), count, stream)


@entry(Pointer, c_uint, c_size_t, Handle)
def cuMemsetD32Async(driver: SoftwareDriver, target: int, value: int, count: int, stream: int | None) -> None:
    _fill(driver, target, np.uint32(value), count, stream)
