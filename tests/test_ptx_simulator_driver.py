"""The software driver under the real cuda-python: calls, streams, error paths."""

from __future__ import annotations

import ctypes
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ptx_simulator import OutOfBoundsFault, UninitialisedFault, shim, software_driver
from ptx_simulator.driver_core import SoftwareDriver

cu = pytest.importorskip("cuda.bindings.driver", reason="needs the [cuda] extra")
KERNELS = Path(__file__).parent / "ptx_simulator" / "kernels"
ADD = (KERNELS / "vector_add.ptx").read_bytes() + b"\0"
POINTERS = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int)
N = 1024


@pytest.fixture
def driver() -> Iterator[SoftwareDriver]:
    installed = software_driver.install(memory=1 << 24)
    done(cu.cuInit(0))
    done(cu.cuCtxSetCurrent(done(cu.cuDevicePrimaryCtxRetain(0))))
    yield installed
    installed.reset()


def done(answer: tuple[Any, ...]) -> Any:
    assert answer[0] == cu.CUresult.CUDA_SUCCESS, answer
    return answer[1] if len(answer) == 2 else answer[1:]


def code(answer: tuple[Any, ...]) -> str:
    return str(answer[0].name).removeprefix("CUDA_ERROR_")


def filled(value: float) -> Any:
    address = done(cu.cuMemAlloc(4 * N))
    done(cu.cuMemcpyHtoD(address, np.full(N, value, np.float32), 4 * N))
    return address


def values(address: Any) -> np.ndarray:
    host = np.zeros(N, np.float32)
    done(cu.cuMemcpyDtoH(host, address, 4 * N))
    return host


def function(text: bytes = ADD, name: bytes = b"vector_add") -> Any:
    return done(cu.cuModuleGetFunction(done(cu.cuModuleLoadData(text)), name))


def add(a: Any, b: Any, c: Any, n: int = N, stream: Any = 0) -> Any:
    arguments = ((int(a), int(b), int(c), n), POINTERS)
    return cu.cuLaunchKernel(function(), 2, 1, 1, 64, 1, 1, 0, stream, arguments, 0)


def test_device_describes_itself(driver: SoftwareDriver) -> None:
    attribute = cu.CUdevice_attribute
    assert done(cu.cuDeviceGetCount()) == 1
    assert done(cu.cuDeviceGetName(64, 0)).startswith(b"PTX simulator")
    assert done(cu.cuDeviceTotalMem(0)) == 1 << 24
    assert done(cu.cuDeviceGetAttribute(attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, 0)) == 9
    assert done(cu.cuDeviceGetAttribute(attribute.CU_DEVICE_ATTRIBUTE_WARP_SIZE, 0)) == 32
    assert done(cu.cuDeviceGetAttribute(attribute.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, 0)) == 232448
    assert code(cu.cuDeviceGet(3)) == "INVALID_DEVICE"
    assert int(done(cu.cuCtxGetDevice())) == int(done(cu.cuDeviceGet(0))) == 0


def test_kernel_runs(driver: SoftwareDriver) -> None:
    a, b, c = filled(1), filled(2), filled(0)
    done(add(a, b, c))
    assert (values(c) == 3).all() and not driver.faults


def test_asynchronous_copies_arrive_when_waited_for(driver: SoftwareDriver) -> None:
    address = done(cu.cuMemHostAlloc(4 * N, 0))
    pinned = np.ctypeslib.as_array((ctypes.c_float * N).from_address(int(address)))
    stream, a, c = done(cu.cuStreamCreate(0)), filled(1), filled(0)
    pinned[:] = 5
    done(cu.cuMemcpyHtoDAsync(a, address, 4 * N, stream))
    done(add(a, a, c, stream=stream))
    done(cu.cuMemcpyDtoHAsync(address, c, 4 * N, stream))
    assert (pinned == 5).all()
    assert code(cu.cuStreamQuery(stream)) == "NOT_READY"
    done(cu.cuStreamSynchronize(stream))
    assert (pinned == 10).all() and code(cu.cuStreamQuery(stream)) == "CUDA_SUCCESS"
    del pinned
    done(cu.cuMemFreeHost(address))


def test_streams_are_ordered_by_events_only(driver: SoftwareDriver) -> None:
    """Without the event, the newer stream runs first and reads what was not written yet."""
    a, flags = filled(1), cu.CUstream_flags.CU_STREAM_NON_BLOCKING
    first, second = done(cu.cuStreamCreate(flags)), done(cu.cuStreamCreate(flags))
    middle, out = done(cu.cuMemAlloc(4 * N)), done(cu.cuMemAlloc(4 * N))
    done(add(a, a, middle, stream=first))
    event = done(cu.cuEventCreate(0))
    done(cu.cuEventRecord(event, first))
    done(cu.cuStreamWaitEvent(second, event, 0))
    done(add(middle, a, out, stream=second))
    done(cu.cuCtxSynchronize())
    assert (values(out) == 3).all()
    fresh = done(cu.cuMemAlloc(4 * N))
    done(add(a, a, fresh, stream=first))
    done(add(fresh, a, out, stream=second))
    assert code(cu.cuCtxSynchronize()) == "LAUNCH_FAILED"
    assert isinstance(driver.faults[0], UninitialisedFault)


def test_default_stream_waits_for_blocking_streams(driver: SoftwareDriver) -> None:
    stream, a, c = done(cu.cuStreamCreate(0)), filled(2), filled(0)
    done(add(a, a, c, stream=stream))
    assert (values(c) == 4).all()


def test_events_measure(driver: SoftwareDriver) -> None:
    start, end, a = done(cu.cuEventCreate(0)), done(cu.cuEventCreate(0)), filled(1)
    done(cu.cuEventRecord(start, 0))
    done(add(a, a, filled(0)))
    done(cu.cuEventRecord(end, 0))
    assert code(cu.cuEventElapsedTime(start, end)) == "NOT_READY"
    done(cu.cuEventSynchronize(end))
    assert done(cu.cuEventElapsedTime(start, end)) > 0
    untimed = done(cu.cuEventCreate(cu.CUevent_flags.CU_EVENT_DISABLE_TIMING))
    assert code(cu.cuEventElapsedTime(start, untimed)) == "INVALID_HANDLE"


def test_memory_runs_out_and_comes_back(driver: SoftwareDriver) -> None:
    total = done(cu.cuMemGetInfo())[1]
    half = done(cu.cuMemAlloc(total // 2))
    assert code(cu.cuMemAlloc(total // 2 + 1)) == "OUT_OF_MEMORY"
    done(cu.cuMemFree(half))
    done(cu.cuMemFree(done(cu.cuMemAlloc(total // 2 + 1))))
    assert code(cu.cuMemFree(half)) == "INVALID_VALUE"
    assert done(cu.cuMemGetInfo()) == (total, total)


def test_injected_failure_happens_when_it_should(driver: SoftwareDriver) -> None:
    driver.fail("cuMemAlloc", 2, after=1, times=2)
    assert [code(cu.cuMemAlloc(64)) for _ in range(4)] == ["CUDA_SUCCESS", "OUT_OF_MEMORY", "OUT_OF_MEMORY", "CUDA_SUCCESS"]


def test_injected_launch_failure_sticks(driver: SoftwareDriver) -> None:
    a = filled(1)
    driver.fail("cuLaunchKernel", 719)
    assert code(add(a, a, a)) == "LAUNCH_FAILED"
    assert code(cu.cuMemAlloc(64)) == code(cu.cuCtxSynchronize()) == code(cu.cuMemFree(a)) == "LAUNCH_FAILED"
    done(cu.cuDevicePrimaryCtxReset(0))
    done(cu.cuMemAlloc(64))


def test_illegal_address_shows_at_the_next_wait_and_sticks(driver: SoftwareDriver) -> None:
    a, c = filled(1), filled(0)
    done(add(a, a, c, n=N + 4))
    assert code(cu.cuCtxSynchronize()) == "ILLEGAL_ADDRESS"
    assert code(cu.cuStreamCreate(0)) == "ILLEGAL_ADDRESS"
    assert isinstance(driver.faults[0], OutOfBoundsFault) and "kernel vector_add, line 33" in str(driver.faults[0])
    with pytest.raises(OutOfBoundsFault):
        driver.check()
    name, words = done(cu.cuGetErrorName(cu.CUresult(700))), done(cu.cuGetErrorString(cu.CUresult(700)))
    assert (name, words) == (b"CUDA_ERROR_ILLEGAL_ADDRESS", b"an illegal memory access was encountered")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (ADD.replace(b"add.rn.f32", b"plus.rn.f32"), "INVALID_PTX"),
        (ADD.replace(b"sm_80", b"sm_100"), "NO_BINARY_FOR_GPU"),
        (ADD.replace(b"sm_80", b"sm_80a"), "NO_BINARY_FOR_GPU"),
        (b"\x7fELF\0", "NO_BINARY_FOR_GPU"),
        (b"hello\0", "INVALID_PTX"),
    ],
)
def test_bad_module_is_refused(driver: SoftwareDriver, text: bytes, expected: str) -> None:
    assert code(cu.cuModuleLoadData(text)) == expected
    assert code(cu.cuMemAlloc(64)) == "CUDA_SUCCESS"


def test_the_log_says_what_is_wrong_with_a_module(driver: SoftwareDriver) -> None:
    log, options = bytearray(400), cu.CUjit_option
    keys = [options.CU_JIT_ERROR_LOG_BUFFER, options.CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES]
    answer = cu.cuModuleLoadDataEx(ADD.replace(b"add.rn.f32", b"plus.rn.f32"), 2, keys, [log, len(log)])
    assert code(answer) == "INVALID_PTX" and b"line 35: `plus.rn.f32" in bytes(log)


def test_missing_function_and_wrong_launches(driver: SoftwareDriver) -> None:
    module, a = done(cu.cuModuleLoadData(ADD)), filled(1)
    assert code(cu.cuModuleGetFunction(module, b"nothing")) == "NOT_FOUND"
    arguments = ((int(a), int(a), int(a), N), POINTERS)
    assert code(cu.cuLaunchKernel(function(), 1, 1, 1, 512, 1, 1, 0, 0, arguments, 0)) == "INVALID_VALUE"
    assert code(cu.cuLaunchKernel(function(), 1, 1, 1, 64, 1, 1, 60_000, 0, arguments, 0)) == "INVALID_VALUE"
    assert code(cu.cuLaunchKernel(0, 1, 1, 1, 64, 1, 1, 0, 0, arguments, 0)) == "INVALID_HANDLE"
    wide = function()
    done(cu.cuFuncSetAttribute(wide, cu.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 60_000))
    done(cu.cuLaunchKernel(wide, 1, 1, 1, 64, 1, 1, 60_000, 0, arguments, 0))


def test_copies_stay_inside_their_allocations(driver: SoftwareDriver) -> None:
    a, host = filled(1), np.zeros(2 * N, np.float32)
    assert code(cu.cuMemcpyDtoH(host, a, 4 * N + 1)) == "INVALID_VALUE"
    assert code(cu.cuMemcpyHtoD(int(a) + 4, host, 4 * N)) == "INVALID_VALUE"
    assert code(cu.cuMemsetD32(int(a) + 2, 0, 1)) == "INVALID_VALUE"
    done(cu.cuMemsetD32(a, 0x40000000, N))
    b = done(cu.cuMemAlloc(4 * N))
    done(cu.cuMemcpyDtoDAsync(b, a, 4 * N, 0))
    assert (values(b) == 2).all()


def test_copies_between_any_two_addresses(driver: SoftwareDriver) -> None:
    a, b, host = filled(3), filled(0), np.zeros(N, np.float32)
    kind = cu.CUpointer_attribute.CU_POINTER_ATTRIBUTE_MEMORY_TYPE
    assert done(cu.cuPointerGetAttribute(kind, a)) == cu.CUmemorytype.CU_MEMORYTYPE_DEVICE
    assert code(cu.cuPointerGetAttribute(kind, host.ctypes.data)) == "INVALID_VALUE"
    done(cu.cuMemcpy(b, a, 4 * N))
    done(cu.cuMemcpyAsync(host.ctypes.data, b, 4 * N, 0))
    assert (host == 3).all()


def test_allocations_in_the_order_of_a_stream(driver: SoftwareDriver) -> None:
    stream, a, c = done(cu.cuStreamCreate(0)), filled(1), filled(0)
    b = done(cu.cuMemAllocAsync(4 * N, stream))
    done(cu.cuMemcpyDtoDAsync(b, a, 4 * N, stream))
    done(add(a, b, c, stream=stream))
    done(cu.cuMemFreeAsync(b, stream))
    done(cu.cuStreamSynchronize(stream))
    assert (values(c) == 2).all()
    assert code(add(a, b, c, stream=stream)) == "CUDA_SUCCESS"
    assert code(cu.cuStreamSynchronize(stream)) == "ILLEGAL_ADDRESS"


def test_module_variables(driver: SoftwareDriver) -> None:
    module = done(cu.cuModuleLoadData((KERNELS / "last_block.ptx").read_bytes() + b"\0"))
    address, size = done(cu.cuModuleGetGlobal(module, b"finished"))
    host = np.ones(1, np.uint32)
    done(cu.cuMemcpyDtoH(host, address, size))
    assert size == 4 and host[0] == 0
    done(cu.cuModuleUnload(module))
    assert code(cu.cuModuleGetFunction(module, b"last_block")) == "INVALID_HANDLE"


def test_calls_need_initialisation_and_a_context(driver: SoftwareDriver) -> None:
    driver.reset()
    assert code(cu.cuDeviceGetCount()) == "NOT_INITIALIZED"
    done(cu.cuInit(0))
    assert code(cu.cuMemAlloc(64)) == "INVALID_CONTEXT"


def test_two_devices_have_their_own_memory() -> None:
    driver = software_driver.install(devices=2, memory=1 << 20)
    done(cu.cuInit(0))
    contexts = [done(cu.cuDevicePrimaryCtxRetain(number)) for number in range(2)]
    done(cu.cuCtxSetCurrent(contexts[0]))
    done(cu.cuMemAlloc(1 << 19))
    done(cu.cuCtxPushCurrent(contexts[1]))
    assert done(cu.cuMemGetInfo())[0] == 1 << 20 and int(done(cu.cuCtxGetDevice())) == 1
    done(cu.cuCtxPopCurrent())
    assert done(cu.cuMemGetInfo())[0] == 1 << 19
    driver.reset()


def test_installing_after_a_first_failure_works() -> None:
    """A program may have looked for a driver, found none, and then got the simulated one."""
    program = (
        "from cuda.bindings import driver as cu\n"
        "try: print(cu.cuInit(0)[0].name)\n"
        "except RuntimeError as error: print('none')\n"
        "from ptx_simulator import software_driver\n"
        "software_driver.install()\n"
        "print(cu.cuInit(0)[0].name, cu.cuDeviceGetCount()[1])\n"
    )
    done_process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=Path(__file__).parent, timeout=120)
    assert done_process.returncode == 0, done_process.stderr
    assert done_process.stdout.splitlines()[-1] == "CUDA_SUCCESS 1"


def test_a_process_with_another_driver_is_refused(tmp_path: Path) -> None:
    program = (
        "import ctypes, sys\n"
        "from pathlib import Path\n"
        "from ptx_simulator import shim, software_driver\n"
        "ctypes.CDLL(str(shim.write(Path(sys.argv[1]))))\n"
        "software_driver.install()\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    found = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent, timeout=120)
    assert found.returncode == 1 and f"RuntimeError: the process has already loaded {tmp_path}" in found.stderr


@pytest.mark.parametrize(("machine", "number"), [("x86_64", 62), ("aarch64", 183)])
def test_shim_is_a_shared_object_whose_code_jumps_through_its_slot(machine: str, number: int) -> None:
    image = shim.shared_object(machine)
    assert image[:4] == b"\x7fELF" and struct.unpack_from("<HH", image, 16) == (3, number)
    symbols = image.index(struct.pack("<IBBHQQ", 1, 0x12, 0, 1, 64 + 56 * 4 + 32, 8))
    code_at = struct.unpack_from("<Q", image, symbols + 8)[0]
    slot = struct.unpack_from("<Q", image, symbols + 24 + 8)[0]
    if machine == "x86_64":
        assert image[code_at : code_at + 2] == b"\xff\x25" and code_at + 6 + struct.unpack_from("<i", image, code_at + 2)[0] == slot
    else:
        load, jump = struct.unpack_from("<II", image, code_at)
        assert load >> 24 == 0x58 and code_at + (load >> 5 & 0x7FFFF) * 4 == slot and jump == 0xD61F0200
