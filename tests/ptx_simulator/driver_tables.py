"""Tables of the driver API: error names, device attributes; C structures of the launch and of the linker's options."""

from __future__ import annotations

import ctypes
from typing import Any

from ptx_simulator.parse import Kernel

ERRORS = {
    0: ("CUDA_SUCCESS", "no error"),
    1: ("CUDA_ERROR_INVALID_VALUE", "invalid argument"),
    2: ("CUDA_ERROR_OUT_OF_MEMORY", "out of memory"),
    3: ("CUDA_ERROR_NOT_INITIALIZED", "initialization error"),
    100: ("CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"),
    101: ("CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"),
    201: ("CUDA_ERROR_INVALID_CONTEXT", "invalid device context"),
    209: ("CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device"),
    218: ("CUDA_ERROR_INVALID_PTX", "a PTX JIT compilation failed"),
    222: ("CUDA_ERROR_UNSUPPORTED_PTX_VERSION", "the provided PTX was compiled with an unsupported toolchain."),
    400: ("CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"),
    500: ("CUDA_ERROR_NOT_FOUND", "named symbol not found"),
    600: ("CUDA_ERROR_NOT_READY", "device not ready"),
    700: ("CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"),
    701: ("CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "too many resources requested for launch"),
    702: ("CUDA_ERROR_LAUNCH_TIMEOUT", "the launch timed out and was terminated"),
    712: ("CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED", "part or all of the requested memory range is already mapped"),
    713: ("CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED", "pointer does not correspond to a registered memory region"),
    716: ("CUDA_ERROR_MISALIGNED_ADDRESS", "misaligned address"),
    719: ("CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"),
    801: ("CUDA_ERROR_NOT_SUPPORTED", "operation not supported"),
    999: ("CUDA_ERROR_UNKNOWN", "unknown error"),
}


def attributes(capability: tuple[int, int]) -> dict[int, int]:
    """CUdevice_attribute -> value, of a small device of that compute capability."""
    return {
        1: 1024, 2: 1024, 3: 1024, 4: 64, 5: 2**31 - 1, 6: 65535, 7: 65535, 8: 49152, 9: 65536, 10: 32, 12: 65536, 13: 1_500_000,
        15: 1, 16: 4, 18: 0, 19: 1, 31: 1, 36: 1_500_000, 37: 5120, 38: 4 << 20, 39: 2048, 40: 1, 41: 1,
        75: capability[0], 76: capability[1], 81: 233472, 82: 65536, 83: 1, 95: 0, 97: 232448, 106: 32, 111: 1024, 115: 1, 119: 0,
    }  # fmt: skip


def launch_parameters(kernel: Kernel, pointers: Any, extra: Any) -> bytes:
    """The parameter struct from kernelParams (a pointer to each) or extra (one buffer)."""
    size = max((parameter.offset + parameter.size for parameter in kernel.parameters), default=0)
    packed = bytearray(size)
    if extra:
        buffer = ctypes.string_at(extra[1], ctypes.c_size_t.from_address(extra[3]).value)
        return buffer[:size].ljust(size, b"\0")
    for number, parameter in enumerate(kernel.parameters):
        packed[parameter.offset : parameter.offset + parameter.size] = ctypes.string_at(pointers[number], parameter.size)
    return bytes(packed)


def jit_error_log(options: Any, values: Any, count: int, words: str) -> None:
    """Puts the linker's message into the buffer that the options name (CU_JIT_ERROR_LOG_BUFFER and its size)."""
    given = {options[number]: number for number in range(count)}
    if 5 in given and 6 in given and values[given[5]]:
        room = values[given[6]] or 0
        data = words.encode()[: max(room - 1, 0)] + b"\0"
        ctypes.memmove(values[given[5]], data, min(len(data), room))
