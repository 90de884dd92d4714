"""`treadle.testing`: comparing tensors in tests."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import treadle
from treadle.creation import to_array
from treadle.ir.dtypes import FLOAT, plain, to_real
from treadle.tensor import Tensor

_TOLERANCES = {"float16": (1e-3, 1e-5), "bfloat16": (1.6e-2, 1e-5), "float32": (1.3e-6, 1e-5), "float64": (1e-7, 1e-7)}


def assert_close(actual: Any, expected: Any, *, allow_subclasses: bool = True, rtol: float | None = None, atol: float | None = None,
                 equal_nan: bool = False, check_device: bool = True, check_dtype: bool = True, check_layout: bool = True,
                 check_stride: bool = False, msg: Any = None) -> None:
    """AssertionError unless |actual - expected| <= atol + rtol * |expected| everywhere, with equal shapes and dtypes.

    Tensors, numbers, and sequences and mappings of them. Tolerances follow the dtype unless both are given (ValueError for one).
    """
    if (rtol is None) != (atol is None):
        raise ValueError(f"rtol and atol must both be specified or both be unspecified, but got rtol={rtol} and atol={atol} instead.")
    try:
        _compare(actual, expected, rtol, atol, equal_nan, check_dtype, "")
    except AssertionError as error:
        if msg is None:
            raise
        raise AssertionError(msg(str(error)) if callable(msg) else msg) from None


def _compare(a: Any, b: Any, rtol: float | None, atol: float | None, equal_nan: bool, check_dtype: bool, where: str) -> None:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        if set(a) != set(b):
            raise AssertionError(f"The keys of the mappings do not match: {sorted(map(str, a))} and {sorted(map(str, b))}{where}")
        for k in a:
            _compare(a[k], b[k], rtol, atol, equal_nan, check_dtype, f"\nThe failure occurred for item [{k!r}]")
    elif isinstance(a, Sequence) and isinstance(b, Sequence) and not isinstance(a, str):
        if len(a) != len(b):
            raise AssertionError(f"The length of the sequences mismatch: {len(a)} != {len(b)}{where}")
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            _compare(x, y, rtol, atol, equal_nan, check_dtype, f"\nThe failure occurred for item [{i}]")
    else:
        _compare_tensors(a, b, rtol, atol, equal_nan, check_dtype, where)


def _compare_tensors(a: Any, b: Any, rtol: float | None, atol: float | None, equal_nan: bool, check_dtype: bool, where: str) -> None:
    x, y = (v if isinstance(v, Tensor) else treadle.as_tensor(v) for v in (a, b))
    if isinstance(a, Tensor) != isinstance(b, Tensor) and (isinstance(a, Tensor) or isinstance(b, Tensor)):
        raise AssertionError(f"Tensor-likes are not close: comparing a {type(a).__name__} with a {type(b).__name__}{where}")
    if x.shape != y.shape:
        raise AssertionError(f"The values for attribute 'shape' do not match: {x.shape} != {y.shape}.{where}")
    if check_dtype and x.dtype is not y.dtype and isinstance(a, Tensor):
        raise AssertionError(f"The values for attribute 'dtype' do not match: {x.dtype} != {y.dtype}.{where}")
    if rtol is None or atol is None:
        kinds = [_TOLERANCES.get(to_real(t.dtype).name, (0.0, 0.0)) if t.dtype.category >= FLOAT else (0.0, 0.0) for t in (x, y)]
        rtol, atol = max(k[0] for k in kinds), max(k[1] for k in kinds)
    p, q = (np.asarray(plain(to_array(t.detach())), np.float64 if t.dtype.category == FLOAT else None) for t in (x, y))
    with np.errstate(invalid="ignore"):
        wide = np.complex128 if "c" in (p.dtype.kind, q.dtype.kind) else np.float64
        difference = np.abs(np.asarray(p, wide) - np.asarray(q, wide))
        good = (p == q) | (difference <= atol + rtol * np.abs(np.asarray(q, wide)))
    if equal_nan:
        good |= np.isnan(p) & np.isnan(q)
    if good.all():
        return
    wrong = np.argwhere(~good)
    first = tuple(int(i) for i in wrong[0])
    largest = float(np.max(np.nan_to_num(difference, nan=np.inf)))
    share = f"{len(wrong)} / {good.size} ({100 * len(wrong) / good.size:.1f}%)"
    raise AssertionError(f"Tensor-likes are not close!\n\nMismatched elements: {share}\n"
                         f"Greatest absolute difference: {largest} (up to {atol} allowed)\nFirst mismatch at index {first}: "
                         f"{p[first]} and {q[first]} (relative tolerance {rtol}){where}")


def make_tensor(*shape: Any, dtype: Any, device: Any = "cpu", low: Any = None, high: Any = None, requires_grad: bool = False) -> Tensor:
    """Random numbers in [low, high): (-9, 9) unless given; (0, 10) for uint8."""
    size = tuple(shape[0]) if len(shape) == 1 and not isinstance(shape[0], int) else shape
    if dtype.category == FLOAT:
        low, high = -9.0 if low is None else low, 9.0 if high is None else high
        return (treadle.rand(size) * (high - low) + low).to(dtype).requires_grad_(requires_grad)
    if dtype.is_complex:
        parts = [make_tensor(size, dtype=to_real(dtype), low=low, high=high) for _ in range(2)]
        return treadle.complex(*parts).requires_grad_(requires_grad)
    if dtype is treadle.bool:
        return treadle.rand(size) < 0.5
    low = (0 if dtype is treadle.uint8 else -9) if low is None else int(low)
    return treadle.randint(low, 10 if high is None else int(high), size, dtype=dtype)


def assert_allclose(actual: Any, expected: Any, rtol: float | None = None, atol: float | None = None, equal_nan: bool = True,
                    msg: Any = None) -> None:
    """`assert_close` of values alone, by its older name."""
    assert_close(actual, expected, rtol=rtol, atol=atol, equal_nan=equal_nan, check_dtype=False, msg=msg or None)


__all__ = ["assert_allclose", "assert_close", "make_tensor"]
