"""Treadle: PyTorch-style Python, recorded into an IR, compiled to machine code. `import treadle as torch`."""
from __future__ import annotations

import gc as _gc

_collects = _gc.isenabled()
_gc.disable()  # an import makes many objects and no garbage: collections would only walk them

# isort: split
import math
from typing import TYPE_CHECKING, Any

from treadle.ir import op as _op_table
from treadle.ir.dtypes import DType as _DType
from treadle.ir.dtypes import bfloat16 as bfloat16
from treadle.ir.dtypes import bool_ as _bool
from treadle.ir.dtypes import complex32 as complex32
from treadle.ir.dtypes import complex64 as complex64
from treadle.ir.dtypes import complex128 as complex128
from treadle.ir.dtypes import float16 as float16
from treadle.ir.dtypes import float32 as float32
from treadle.ir.dtypes import float64 as float64
from treadle.ir.dtypes import int8 as int8
from treadle.ir.dtypes import int16 as int16
from treadle.ir.dtypes import int32 as int32
from treadle.ir.dtypes import int64 as int64
from treadle.ir.dtypes import uint8 as uint8
from treadle.ir.dtypes import uint16 as uint16
from treadle.ir.dtypes import uint32 as uint32
from treadle.ir.dtypes import uint64 as uint64
from treadle.runtime import engine as _engine  # the engine declares the op table and hooks into the recorder
from treadle.version import __version__

# isort: split
from treadle import autograd as autograd
from treadle import tensor as _tensor_module
from treadle.arguments import guard as _guard
from treadle.complex_numbers import *
from treadle.conversions import clone as clone
from treadle.convolution import *
from treadle.counting import *
from treadle.creation import *
from treadle.creation import tensor as tensor
from treadle.device import device as device
from treadle.device import get_default_device as get_default_device
from treadle.device import set_default_device as set_default_device
from treadle.emitter import EMITTER as _EMITTER
from treadle.functions import *
from treadle.gathering import *
from treadle.grad_mode import enable_grad as enable_grad
from treadle.grad_mode import inference_mode as inference_mode
from treadle.grad_mode import is_grad_enabled as is_grad_enabled
from treadle.grad_mode import is_inference_mode_enabled as is_inference_mode_enabled
from treadle.grad_mode import no_grad as no_grad
from treadle.grad_mode import set_grad_enabled as set_grad_enabled
from treadle.interop import from_dlpack as from_dlpack
from treadle.interop import from_numpy as from_numpy
from treadle.joining import *
from treadle.legacy import *
from treadle.legacy import Variable as _Variable
from treadle.linear_algebra import *
from treadle.methods import install as _install
from treadle.order import *
from treadle.printing import get_printoptions as get_printoptions
from treadle.printing import printoptions as printoptions
from treadle.printing import set_printoptions as set_printoptions
from treadle.random import Generator as Generator
from treadle.random import default_generator as default_generator
from treadle.random import fork_rng as fork_rng
from treadle.random import get_rng_state as get_rng_state
from treadle.random import initial_seed as initial_seed
from treadle.random import manual_seed as manual_seed
from treadle.random import seed as seed
from treadle.random import set_rng_state as set_rng_state
from treadle.reductions import *
from treadle.shaping import *
from treadle.statistics import *
from treadle.tensor import Tensor as Tensor
from treadle.types import *

_install()

# isort: split
from treadle import amp as amp
from treadle import cpu as cpu
from treadle import cuda as cuda
from treadle import linalg as linalg
from treadle import nn as nn
from treadle import ops as _ops
from treadle import optim as optim
from treadle import random as random
from treadle import utils as utils
from treadle.amp.autocasting import autocast as autocast
from treadle.amp.autocasting import get_autocast_dtype as get_autocast_dtype
from treadle.amp.autocasting import is_autocast_available as is_autocast_available
from treadle.amp.autocasting import is_autocast_enabled as is_autocast_enabled
from treadle.anomaly import detect_anomaly as _detect_anomaly
from treadle.anomaly import is_anomaly_check_nan_enabled as is_anomaly_check_nan_enabled
from treadle.anomaly import is_anomaly_enabled as is_anomaly_enabled
from treadle.anomaly import set_detect_anomaly as _set_detect_anomaly
from treadle.custom_function import Function as _Function
from treadle.gradcheck import gradcheck as _gradcheck
from treadle.gradcheck import gradgradcheck as _gradgradcheck
from treadle.nn.functional import adaptive_avg_pool1d as adaptive_avg_pool1d
from treadle.nn.functional import avg_pool1d as avg_pool1d
from treadle.nn.functional import bilinear as bilinear
from treadle.nn.functional import channel_shuffle as channel_shuffle
from treadle.nn.functional import cosine_similarity as cosine_similarity
from treadle.nn.functional import group_norm as group_norm
from treadle.nn.functional import layer_norm as layer_norm
from treadle.nn.functional import max_pool1d as max_pool1d
from treadle.nn.functional import max_pool2d as max_pool2d
from treadle.nn.functional import max_pool3d as max_pool3d
from treadle.nn.functional import pairwise_distance as pairwise_distance
from treadle.nn.functional import pdist as pdist
from treadle.nn.functional import pixel_shuffle as pixel_shuffle
from treadle.nn.functional import pixel_unshuffle as pixel_unshuffle
from treadle.nn.functional import relu_ as relu_
from treadle.nn.functional import rms_norm as rms_norm
from treadle.nn.functional import rrelu as rrelu
from treadle.settings import *

inverse, pinverse, det, slogdet, logdet, cholesky, qr, matrix_exp, cholesky_solve, cholesky_inverse = (
    linalg.inv, linalg.pinverse, linalg.det, linalg.slogdet, linalg.logdet, linalg.cholesky, linalg.qr, linalg.matrix_exp,
    linalg.cholesky_solve, linalg.cholesky_inverse)
for _name, _value in {"Function": _Function, "gradcheck": _gradcheck, "gradgradcheck": _gradgradcheck, "no_grad": no_grad,
                      "enable_grad": enable_grad, "set_grad_enabled": set_grad_enabled, "Variable": _Variable,
                      "detect_anomaly": _detect_anomaly, "set_detect_anomaly": _set_detect_anomaly}.items():
    setattr(autograd, _name, _value)
_guard(globals(), [name for name in globals() if not name.startswith("_")])
dtype = _DType
bool = _bool
half, float, double = float16, float32, float64
short, int, long = int16, int32, int64
chalf, cfloat, cdouble = complex32, complex64, complex128
pi, e, inf, nan = math.pi, math.e, math.inf, math.nan
newaxis = None

if TYPE_CHECKING:
    from treadle import compiler as compiler
    from treadle.compilation.api import compile as compile
    from treadle.compilation.api import explain as explain
    from treadle.inspection import inspect as inspect
    from treadle.serialization import load as load
    from treadle.serialization import save as save

if _collects:
    _gc.enable()
    _gc.freeze()  # what was imported stays: later collections, and the one at exit, need not walk it

# Imported when first used, so that they cost nothing before.
_LAZY = ("_dynamo", "_inductor", "accelerator", "ao", "backends", "compiler", "distributed", "distributions", "fft", "func", "fx", "hub",
         "jit", "masked", "mps", "multiprocessing", "onnx", "profiler", "quantization", "serialization", "signal", "sparse", "special",
         "testing", "version", "xpu")

_LAZY_FUNCTIONS = {"compile": "compilation.api", "explain": "compilation.api", "inspect": "inspection", "istft": "spectra",
                   "load": "serialization", "save": "serialization", "stft": "spectra", "vmap": "vmapping",
                   **dict.fromkeys(("sparse_coo_tensor", "sparse_csr_tensor", "sparse_csc_tensor", "sparse_compressed_tensor", "dsmm",
                                    "hspmm", "smm", "spmm", "sspaddmm"), "sparse")}


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY, *_LAZY_FUNCTIONS})


def __getattr__(name: str) -> Any:
    import importlib
    if name in _LAZY:
        return importlib.import_module(f"treadle.{name}")
    if name in _LAZY_FUNCTIONS:
        function = globals()[name] = getattr(importlib.import_module(f"treadle.{_LAZY_FUNCTIONS[name]}"), name)
        return function
    if name == "torch":  # the package's own name within it, as PyTorch has it
        return importlib.import_module("treadle")
    if name in ("qint8", "quint8"):
        from treadle.quantization import config
        return getattr(config, name)
    if name.startswith("_foreach_"):
        from treadle.foreach import foreach
        return foreach(name.removeprefix("_foreach_"))
    if name.endswith("_") and not name.startswith("_") and hasattr(Tensor, name):  # in-place methods are functions too
        return getattr(Tensor, name)
    if not name.startswith("__"):
        for module in map(importlib.import_module, ("treadle.checks", "treadle.aten") if name.startswith("_")
                          else ("treadle.older", "treadle.aten", "treadle.rare")):
            if name in module.__all__:
                return getattr(module, name)
    raise AttributeError(f"module 'treadle' has no attribute {name!r}")
