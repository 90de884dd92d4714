"""LLVM text to PTX: the machine, the pipeline, and what of LLVM may be used.

LLVM's NVPTX backend ends the process when it meets something it cannot select (`llvm.exp`, say), so nothing outside a list
reaches it: a text that needs more is refused with `Unsupported`, before and after the pipeline.
"""
from __future__ import annotations

import functools
import re

import llvmlite.binding as llvm

from treadle.codegen import jit
from treadle.codegen.forking import compiling

TRIPLE = "nvptx64-nvidia-cuda"
ARCHITECTURES = ("sm_80", "sm_90", "sm_100")
# Launch parameters of a kernel may take this many bytes on every architecture.
PARAMETER_BYTES = 4096
WARP = 32


class Unsupported(Exception):
    """A kernel that has no PTX form; the message says what it needs."""


# Intrinsics that the backend has on every architecture, without their types.
INTRINSICS = frozenset("""fma fabs copysign floor ceil trunc roundeven sqrt smax smin umax umin abs ctlz cttz ctpop bswap bitreverse
    fshl fshr scmp ucmp uadd.sat usub.sat is.fpclass assume lifetime.start lifetime.end memcpy memset""".split())
THREAD_INTRINSICS = re.compile(r"""nvvm\.(read\.ptx\.sreg\.(tid|ntid|ctaid|nctaid)\.[xyz]|barrier0|barrier\.cta\.sync\.aligned\.all|
    bar\.warp\.sync|shfl\.sync\.(bfly|up|idx)\.i32|idp4a\.u\.s|cp\.async\.(cg\.shared\.global\.16\.s|commit\.group|wait\.group)|
    ldmatrix\.sync\.aligned\.m8n8\.x4\.b16\.p3|mma\.m16n8k16\.row\.col\.bf16)$""".replace("\n    ", ""))
_DECLARED = re.compile(r"^declare [^@\n]*@([\w.$]+)\(", re.MULTILINE)
_TYPES = re.compile(r"(\.(v\d+)?(f16|bf16|f32|f64|i\d+|p\d*))+$")
_WIDE = re.compile(r"^(?!target ).*(?<![%@\w.])i(128|256)\b", re.MULTILINE)


def check(text: str) -> None:
    """`Unsupported` when the LLVM text declares what the backend does not have."""
    for name in _DECLARED.findall(text):
        if not name.startswith("llvm."):
            raise Unsupported(f"it calls {name!r}, a function of the C library")
        short = name.removeprefix("llvm.")
        if _TYPES.sub("", short) not in INTRINSICS and not THREAD_INTRINSICS.match(short):
            raise Unsupported(f"it needs the intrinsic {name!r}")
    if _WIDE.search(text):
        raise Unsupported("it needs integers wider than 64 bits")


@functools.cache
def _machine(architecture: str) -> llvm.TargetMachine:
    if architecture not in ARCHITECTURES:
        raise ValueError(f"PTX is generated for {', '.join(ARCHITECTURES)}, got {architecture!r}")
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    return llvm.Target.from_triple(TRIPLE).create_target_machine(cpu=architecture, opt=3)


def architecture_for(major: int, minor: int) -> str:
    """The newest architecture that a device of this compute capability runs. RuntimeError for one that is too old."""
    fits = [a for a in ARCHITECTURES if int(a[3:]) <= 10 * major + minor]
    if not fits:
        raise RuntimeError(f"a device of compute capability {major}.{minor} is too old: Treadle needs 8.0 or newer")
    return fits[-1]


def to_ptx(text: str, architecture: str = "sm_80") -> str:
    """PTX of a module whose kernels are `ptx_kernel` functions. `Unsupported` when LLVM has no way to express it."""
    check(text)
    with compiling(), jit._lock:
        machine = _machine(architecture)
        module = llvm.parse_assembly(text)
        module.triple = TRIPLE
        module.data_layout = str(machine.target_data)
        module.verify()
        _run_pipeline(module, machine)
        check(str(module))
        return machine.emit_assembly(module)


def _run_pipeline(module: llvm.ModuleRef, machine: llvm.TargetMachine) -> None:
    options = llvm.create_pipeline_tuning_options(2)
    options.loop_vectorization = options.slp_vectorization = options.loop_unrolling = False
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
