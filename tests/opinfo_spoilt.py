"""PyTorch's samples with one argument spoilt. For tests marked `pytest.mark.oracle` or `sweep` only."""
from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import opinfo_adapter as adapter
import opinfo_sweep
import torch
from opinfo_checks import describe, error_text, tensors

DTYPES = (torch.int64, torch.bool, torch.float64, torch.float16, torch.uint8, torch.int32, torch.float32)
# Every value of these kinds in place of a good one. A tensor, a sequence: see below.
SPOILT: dict[type, tuple[Any, ...]] = {
    bool: ("a", None), int: (7, -7, -1, 0, 1, 1.5, "a", None, (0, 0), ()), float: ("a", None, -1.5, 2, (1.0,)), str: ("strange", 3, None)}
NO_TENSORS: tuple[Any, ...] = (2, 2.5, None, "a", [1.0, 2.0])
# What a call may raise. Anything else is our own mistake, not the caller's.
PROPER = (TypeError, ValueError, RuntimeError, IndexError, AssertionError)
# PyTorch itself reads where it may not, and dies.
DEADLY = re.compile(r"lu_unpack|_?native_batch_norm|_segment_reduce")
# Where the exception is not PyTorch's: pattern of the op and what differs: reason. Its functions for its own use are not compared.
INNER = re.compile(r"_|slice$|grid_sampler|torch\.ops\.|native_|max_pool2d_with_indices_backward")
DELIBERATE = {
    r"(linalg\.)?(svd|det|ldl_factor(_ex)?): raises NotImplementedError.*Got float16, where": "PyTorch does not look at empty matrices",
    r"linalg\.solve_triangular: raises RuntimeError.*same dtype.*, where": "nor here",
    r"cholesky: raises RuntimeError.*<0xf32>, where|cum(max|min): raises IndexError.*\[-1, 0\], but got 1\), where": "nor at empty vectors",
    r"masked\.median: raises NotImplementedError.*Bool.*, where|masked\.(amax|amin|logaddexp|logsumexp): computes.*identity": "of bool",
    r"index_(add|copy|fill): computes, .*(out of range|out of bounds)": "an index into nothing is refused when the result is read",
    r"(index_put|tensordot|masked\.normalize|broadcast_shapes): raises .*, PyTorch ": "two things are wrong, and another is named",
    r"logsumexp: computes, .*output with shape \[\]": "over no dims: PyTorch computes it with keepdim only",
    r"nn\.functional\.max_unpool[123]d(\.grad)?: raises TypeError.*must be int or tuple of ints": "PyTorch's Python computes with floats",
    r"nn\.functional\.(interpolate\.area|normalize|gaussian_nll_loss): raises TypeError.*must be float": "PyTorch comes upon it later",
    r"nn\.functional\.gaussian_nll_loss: raises ValueError: var is of incorrect size": "PyTorch adds before it looks",
    r"nn\.functional\.linear_cross_entropy\.chunked.*: cross_entropy: .*, PyTorch ": "PyTorch looks at chunks one by one",
}


def _tensors_for(x: torch.Tensor) -> Iterator[Any]:
    yield from NO_TENSORS
    yield x[None].clone()
    yield x.new_empty((0,))
    if x.dim():
        yield x.narrow(0, 0, 0).clone()
        yield x.reshape(-1)[0].clone() if x.numel() else x.new_zeros(())
        yield from (torch.cat([x, x.narrow(k, 0, min(1, x.shape[k]))], k) for k in range(x.dim()))
    yield from (x.to(dtype) for dtype in DTYPES if dtype != x.dtype)


def spoilt(x: Any) -> Iterator[Any]:
    """Bad values in place of the argument `x`."""
    if isinstance(x, torch.Tensor):
        yield from _tensors_for(x.detach())
    elif isinstance(x, tuple | list) and not hasattr(x, "_fields"):
        make = list if isinstance(x, torch.Size) else type(x)
        yield from (make(x[:-1]), make([*x, *x[-1:]]), make(), None, "a", 1)
        if x and all(isinstance(v, int) for v in x):
            yield from ([v + 0.5 for v in x], [-v - 5 for v in x], [v + 9 for v in x], [x[0]] * max(2, len(x)), [-1] * len(x))
        yield from (make([*x[:i], bad, *x[i + 1:]]) for i, v in enumerate(x[:2]) for bad in spoilt(v))
    else:
        yield from SPOILT.get(type(x), ())


def calls(sample: Any) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    """The sample's arguments, one of them bad in each call."""
    args = (sample.input, *sample.args)
    for i, a in enumerate(args):
        yield from (((*args[:i], bad, *args[i + 1:]), sample.kwargs) for bad in spoilt(a))
    for name, a in sample.kwargs.items():
        yield from ((args, {**sample.kwargs, name: bad}) for bad in spoilt(a))
    yield args[:-1], sample.kwargs
    yield args, {**sample.kwargs, "strange": 1}


def _raised(function: Any, args: Any, kwargs: Any, read: Callable[[Any], Any]) -> Exception | None:
    try:
        for t in tensors(function(*args, **kwargs)):
            read(t)
    except Exception as error:
        return error
    return None


def _differs(want: Exception | None, got: Exception | None) -> str | None:
    """How our exception differs from PyTorch's; it may be one of a class below."""
    if want is None:
        return None if got is None else f"raises {error_text(got)}, where PyTorch computes"
    if got is None:  # what PyTorch has no kernel for, we may compute
        has_none = isinstance(want, RuntimeError) and re.search("not implemented for|not supported|MKL", str(want))
        return None if has_none else f"computes, where PyTorch raises {error_text(want)}"
    return None if isinstance(got, type(want)) else f"raises {error_text(got)}, PyTorch {error_text(want)}"


def problem(op: Any, function: Any, first: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """What is wrong with a call's outcome. One where a tensor was to come `first`, and something else came, has to be a TypeError."""
    try:
        ours, named = adapter.ours(adapter.fresh(args)), adapter.ours(adapter.fresh(kwargs))
    except adapter.Untranslatable:
        return None
    wants_type_error = isinstance(first, torch.Tensor) and args and (args[0] is None or isinstance(args[0], str))
    error = _raised(function, ours, named, adapter.theirs)
    if error is None and wants_type_error:
        return "takes what is no tensor"
    name = opinfo_sweep.full_name(op)
    compared = not (INNER.match(name) or DEADLY.match(name))
    want = _raised(op.op, adapter.fresh(args), adapter.fresh(kwargs), lambda t: None) if compared else None
    proper = isinstance(error, TypeError) or (isinstance(error, PROPER) and not wants_type_error)
    if error is not None and not proper and (want is None or not isinstance(error, type(want))):
        return error_text(error)
    found = _differs(want, error) if compared else None
    return None if found is None or any(re.match(pattern, f"{name}: {found}") for pattern in DELIBERATE) else found


def findings(op: Any) -> Iterator[str]:
    """Calls of Treadle's function for an op of PyTorch's database that end in something unexpected."""
    function = adapter.function(op.op, op.name)
    if not opinfo_sweep.exists(op) or isinstance(op.op, type(torch.Tensor.add)) or "lambda" in getattr(op.op, "__qualname__", "") \
            or op.name.startswith("__"):
        return  # methods called as functions, and the database's own functions
    for sample in (s for dtype in opinfo_sweep.dtypes_for(op)[:1] for s in opinfo_sweep.samples(op, dtype, False, 1)):
        if any(t.layout is not torch.strided for t in tensors((sample.input, sample.args, sample.kwargs))):
            continue
        for args, kwargs in calls(sample):
            found = problem(op, function, sample.input, args, kwargs)
            if found is not None:
                yield f"{opinfo_sweep.full_name(op)}: {found} | {describe(args)} {describe(kwargs)}"[:300]


