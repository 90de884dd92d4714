"""Treadle: PyTorch-style Python, recorded into an IR, compiled to machine code. `import treadle as torch`."""
from __future__ import annotations

import math
from typing import Any

from treadle.ir import op as _op_table
from treadle.ir.dtypes import (
    DType as dtype,
)
from treadle.ir.dtypes import (
    bfloat16,
    float16,
    float32,
    float64,
    int8,
    int16,
    int32,
    int64,
    uint8,
)
from treadle.ir.dtypes import bool_ as bool
from treadle.runtime import engine as _engine  # the engine declares the op table and hooks into the recorder
from treadle.version import __version__

# isort: split
from treadle import autograd
from treadle import tensor as _tensor_module
from treadle.convolution import *
from treadle.creation import *
from treadle.creation import tensor
from treadle.device import device, get_default_device, set_default_device
from treadle.functions import *
from treadle.gathering import *
from treadle.grad_mode import (
    enable_grad,
    inference_mode,
    is_grad_enabled,
    is_inference_mode_enabled,
    no_grad,
    set_grad_enabled,
)
from treadle.interop import from_dlpack, from_numpy
from treadle.legacy import *
from treadle.linear_algebra import *
from treadle.methods import install as _install
from treadle.printing import get_printoptions, printoptions, set_printoptions
from treadle.random import Generator, default_generator, fork_rng, get_rng_state, initial_seed, manual_seed, seed, set_rng_state
from treadle.reductions import *
from treadle.shaping import *
from treadle.tensor import EMITTER as _EMITTER
from treadle.tensor import Tensor
from treadle.types import *

_install()

# isort: split
from treadle import amp, cpu, cuda, linalg, nn, optim, random, utils
from treadle import ops as _ops
from treadle.amp.autocasting import autocast, get_autocast_dtype, is_autocast_available, is_autocast_enabled
from treadle.anomaly import detect_anomaly as _detect_anomaly
from treadle.anomaly import is_anomaly_check_nan_enabled, is_anomaly_enabled
from treadle.anomaly import set_detect_anomaly as _set_detect_anomaly
from treadle.custom_function import Function as _Function
from treadle.gradcheck import gradcheck as _gradcheck
from treadle.gradcheck import gradgradcheck as _gradgradcheck
from treadle.inspection import inspect
from treadle.nn.functional import (
    adaptive_avg_pool1d,
    avg_pool1d,
    channel_shuffle,
    group_norm,
    layer_norm,
    max_pool1d,
    max_pool2d,
    max_pool3d,
    pixel_shuffle,
    pixel_unshuffle,
    rms_norm,
)
from treadle.serialization import load, save
from treadle.settings import *

# isort: split
from treadle import compiler
from treadle.compilation.api import compile, explain

inverse, pinverse, det, slogdet, logdet, cholesky, qr, matrix_exp, cholesky_solve, cholesky_inverse = (
    linalg.inv, linalg.pinv, linalg.det, linalg.slogdet, linalg.logdet, linalg.cholesky, linalg.qr, linalg.matrix_exp,
    linalg.cholesky_solve, linalg.cholesky_inverse)
for _name, _value in {"Function": _Function, "gradcheck": _gradcheck, "gradgradcheck": _gradgradcheck, "no_grad": no_grad,
                      "enable_grad": enable_grad, "set_grad_enabled": set_grad_enabled, "Variable": Tensor,
                      "detect_anomaly": _detect_anomaly, "set_detect_anomaly": _set_detect_anomaly}.items():
    setattr(autograd, _name, _value)
half, float, double = float16, float32, float64
short, int, long = int16, int32, int64
pi, e, inf, nan = math.pi, math.e, math.inf, math.nan
newaxis = None


# Imported when first used, so that they cost nothing before.
_LAZY = ("accelerator", "ao", "backends", "distributed", "distributions", "func", "hub", "jit", "mps", "multiprocessing", "onnx",
         "profiler", "quantization", "serialization", "testing", "version", "xpu")


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        import importlib
        return importlib.import_module(f"treadle.{name}")
    if name in ("qint8", "quint8"):
        from treadle.quantization import config
        return getattr(config, name)
    if name.startswith("_foreach_"):
        from treadle.foreach import foreach
        return foreach(name.removeprefix("_foreach_"))
    raise AttributeError(f"module 'treadle' has no attribute {name!r}")
