"""`autocast`: which operations run in a lower precision, and the casts that bring it about."""
from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from treadle.ir import dtypes
from treadle.ir.dtypes import FLOAT, DType
from treadle.ir.op import TABLE, Attrs, Op
from treadle.modes import R, RecordingMode
from treadle.runtime.recorder import STATE
from treadle.tensor import Tensor, apply

# PyTorch's lists (aten/src/ATen/autocast_mode.h, and autocast_mode.cpp for CPUs) by the names of the op table and of `listed` functions:
# what they name there and is not here is made of these.
_LOWER = ("matmul", "linear", "linear_bias", "addmm", "rnn_layer", "lstm_layer", "gru_layer", "convolution", "convolution_input",
          "scaled_dot_product_attention", "prelu", "vecdot")
_LOSSES = ("bce", "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "kl_div", "nll_loss", "cross_entropy", "cross_entropy_prob")
_LINALG = ("cholesky", "det", "eigh", "inverse", "lstsq", "matrix_exp", "pinverse", "qr", "slogdet", "solve", "solve_triangular", "svd")
_MADE_LOSSES = ("cosine_embedding_loss", "hinge_embedding_loss", "margin_ranking_loss", "multi_margin_loss", "multilabel_margin_loss",
                "poisson_nll_loss", "soft_margin_loss", "triplet_margin_loss")
_CPU_FLOAT32 = ("prod", "bce_with_logits", "bce_with_logits_pos", "ctc_loss", "quantile", "nanquantile", "cdist", "trace", "grid_sample",
                "avg_pool3d", "max_pool3d", "adaptive_avg_pool3d", "adaptive_max_pool3d", "max_unpool2d", "max_unpool3d", "reflection_pad",
                "replication_pad")
_CPU_AS_GIVEN = ("mv", "addmv", "dot")  # products that the list leaves out
_CUDA_FLOAT32 = ("acos", "asin", "cosh", "erfinv", "exp", "expm1", "log", "log10", "log2", "log1p", "reciprocal", "rsqrt", "sinh", "tan",
                 "pow", "softplus", "layer_norm", "normalize", "softmax", "log_softmax", "cumprod", "cumsum", "logsumexp", "prod", "sum",
                 "bce_with_logits", "bce_with_logits_pos")
_PROMOTE = ("cat", "index_copy")
_CUDA_PROMOTE = ("addcdiv", "addcmul", "atan2", "index_put", "scatter_add")
_CAST = TABLE["cast"]
LOWER, FLOAT32, PROMOTE, AS_GIVEN = "lower", "float32", "promote", "as given"


def _lists(lower: tuple[str, ...], float32: tuple[str, ...], promote: tuple[str, ...], given: tuple[str, ...] = ()) -> dict[str, str]:
    return {**dict.fromkeys(lower, LOWER), **dict.fromkeys(float32, FLOAT32), **dict.fromkeys(promote, PROMOTE),
            **dict.fromkeys(given, AS_GIVEN)}


LISTS = {"cpu": _lists(_LOWER, (*_LOSSES, *_MADE_LOSSES, *_LINALG, *_CPU_FLOAT32), _PROMOTE, _CPU_AS_GIVEN),
         "cuda": _lists(_LOWER, (*_LOSSES, *_MADE_LOSSES, *_LINALG, *_CUDA_FLOAT32), (*_PROMOTE, *_CUDA_PROMOTE))}
_DEFAULTS = {"cpu": dtypes.bfloat16, "cuda": dtypes.float16}


class Mode(RecordingMode):
    """What autocast means while it is on; equal modes are one object."""

    def __init__(self, device: str, dtype: DType, policy: dict[str, str]) -> None:
        self.device, self.dtype, self.policy = device, dtype, policy

    def apply(self, op: Op, inputs: Any, attrs: Attrs) -> Any:
        """`op` with its floating operands in the type that the lists want; float64 stays as it is."""
        given = list(inputs)
        target = self._target(op.name, given)
        return apply(op, given if target is None else [_cast(x, target) for x in given], attrs)

    def call(self, function: Callable[..., R], args: Any, kwargs: Any) -> R:
        """`listed` functions have their arguments cast, and what they are made of is not."""
        if function.__name__ not in self.policy:
            return function(*args, **kwargs)
        target = self._target(function.__name__, [*args, *kwargs.values()])
        state = STATE.here
        state.autocast = None
        try:
            if target is not None:
                args, kwargs = [_cast(x, target) for x in args], {name: _cast(x, target) for name, x in kwargs.items()}
            return function(*args, **kwargs)
        finally:
            state.autocast = self

    def _target(self, name: str, given: list[Any]) -> DType | None:
        """The type that the lists want for the operands, None for what each of them has."""
        policy = self.policy.get(name)
        if policy == LOWER:
            return self.dtype
        if policy == FLOAT32:
            return dtypes.float32
        eligible = [x._data.type.dtype for x in given if _eligible(x)] if policy == PROMOTE else []
        return functools.reduce(dtypes.promote, eligible) if eligible else None


@functools.cache
def _mode(device: str, dtype: DType) -> Mode:
    return Mode(device, dtype, LISTS[device])


for _name in {name for policy in LISTS.values() for name in policy if name in TABLE}:
    TABLE[_name].autocast = True


def _cast(x: Any, target: DType) -> Any:
    return apply(_CAST, (x,), (target,)) if _eligible(x) and x._data.type.dtype is not target else x


def _eligible(x: Any) -> bool:
    return isinstance(x, Tensor) and x._data.type.dtype.category == FLOAT and x._data.type.dtype is not dtypes.float64


class autocast:
    """`with autocast("cpu"):`, or a decorator: products of float tensors run in `dtype` (bfloat16 on CPUs, float16 on GPUs).

    RuntimeError for a device without autocast, or a dtype that is not 16-bit floating point. `cache_enabled` is accepted and has nothing
    to do: equal casts of one plan are made once.
    """

    def __init__(self, device_type: str = "cpu", dtype: DType | None = None, enabled: bool = True,
                 cache_enabled: bool | None = None) -> None:
        device = str(device_type).split(":")[0]
        if device not in LISTS:
            raise RuntimeError(f"User specified an unsupported autocast device_type '{device_type}'; supported are {', '.join(LISTS)}")
        self.dtype = dtype or _DEFAULTS[device]
        if self.dtype not in (dtypes.bfloat16, dtypes.float16):
            raise RuntimeError(f"In {device} autocast, but the target dtype is not supported: got {self.dtype}, expected bfloat16 or "
                               "float16")
        self.mode = _mode(device, self.dtype) if enabled else None
        self._before: list[Any] = []

    def __enter__(self) -> autocast:
        state = STATE.here
        self._before.append(state.autocast)
        state.autocast = self.mode
        return self

    def __exit__(self, *exc: Any) -> None:
        STATE.here.autocast = self._before.pop()

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with self:
                return function(*args, **kwargs)
        return wrapped


def is_autocast_available(device_type: str) -> bool:
    """Whether a type of device has autocast."""
    return device_type in LISTS


def is_autocast_enabled(device_type: str = "cpu") -> bool:
    """Whether autocast is on for the device in this thread."""
    mode = STATE.here.autocast
    return isinstance(mode, Mode) and mode.device == device_type


def get_autocast_dtype(device_type: str = "cpu") -> DType:
    """The type that products take under autocast."""
    mode = STATE.here.autocast
    return mode.dtype if isinstance(mode, Mode) and mode.device == device_type else _DEFAULTS[device_type]


def custom_fwd(fwd: Callable[..., Any] | None = None, *, device_type: str = "cpu", cast_inputs: DType | None = None) -> Any:
    """For `autograd.Function.forward`: with `cast_inputs`, floating arguments are cast and autocast is off inside."""
    if fwd is None:
        return functools.partial(custom_fwd, device_type=device_type, cast_inputs=cast_inputs)

    @functools.wraps(fwd)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        args[0]._fwd_used_autocast = STATE.here.autocast
        if cast_inputs is None or STATE.here.autocast is None:
            return fwd(*args, **kwargs)
        move = lambda x: x.to(cast_inputs) if _eligible(x) else x
        with autocast(device_type, enabled=False):
            return fwd(*[move(x) for x in args], **{name: move(x) for name, x in kwargs.items()})
    return wrapped


def custom_bwd(bwd: Callable[..., Any] | None = None, *, device_type: str = "cpu") -> Any:
    """For `autograd.Function.backward`: runs with the autocast that `forward` had."""
    if bwd is None:
        return functools.partial(custom_bwd, device_type=device_type)

    @functools.wraps(bwd)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        state = STATE.here
        before, state.autocast = state.autocast, getattr(args[0], "_fwd_used_autocast", None)
        try:
            return bwd(*args, **kwargs)
        finally:
            state.autocast = before
    return wrapped
