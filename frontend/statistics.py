"""Covariances and correlations of variables in rows, observed in columns."""
from __future__ import annotations

import builtins
from typing import Any

from treadle.functions import DIV, MUL, SUB, TABLE, floating, tensor_argument
from treadle.ir.dtypes import BOOL, FLOAT
from treadle.linear_algebra import matmul
from treadle.reductions import any, mean, sum
from treadle.shaping import unsqueeze
from treadle.tensor import Tensor, apply

__all__ = ["corrcoef", "cov"]


def _rows(name: str, input: Tensor) -> Tensor:
    ndim = tensor_argument(name, input)._data.type.ndim
    if input._data.type.dtype.category == BOOL:
        raise RuntimeError("cov(): bool dtype is not supported for input")
    if ndim > 2:
        raise RuntimeError(f"{name}(): expected input to have two or fewer dimensions but got an input with {ndim} dimensions")
    return floating(input if ndim == 2 else input.reshape(1, -1))


def _weight(name: str, weights: Tensor | None, count: int, integral: bool) -> Tensor | None:
    """Checked weights of observations. RuntimeError, in PyTorch's words, for others."""
    if weights is None:
        return None
    t = tensor_argument("cov", weights, name)._data.type
    if t.ndim > 1:
        raise RuntimeError(f"cov(): expected {name} to have one or fewer dimensions but got {name} with {t.ndim} dimensions")
    if (t.dtype.category >= FLOAT) is integral:
        raise RuntimeError(f"cov(): expected {name} to have {'integral' if integral else 'floating point'} dtype but got {name} with "
                           f"{t.dtype.name} dtype")
    if t.numel != count:
        raise RuntimeError(f"cov(): expected {name} to have the same numel as there are observations in the input but got {t.numel} "
                           f"!= {count}")
    if bool(any(apply(TABLE["lt"], (weights, 0)))):
        raise RuntimeError(f"cov(): {name} cannot be negative")
    return weights


def cov(input: Tensor, *, correction: int = 1, fweights: Tensor | None = None, aweights: Tensor | None = None) -> Tensor:
    """Covariance matrix (0-d for one variable); fweights (counts) and aweights (importances) weigh the observations."""
    x = _rows("cov", input)
    count = x._data.type.shape[1]
    counts, importances = _weight("fweights", fweights, count, True), _weight("aweights", aweights, count, False)
    w = counts if importances is None else importances if counts is None else apply(MUL, (counts, importances))
    norm: Any
    if w is None:
        centred = right = apply(SUB, (x, mean(x, 1, True)))
        norm = builtins.max(count - correction, 0)
    else:
        total = sum(w)
        centred = apply(SUB, (x, apply(DIV, (sum(apply(MUL, (x, w)), 1, True), total))))
        right = apply(MUL, (centred, w))
        lost: Any = correction
        if importances is not None:
            lost = apply(MUL, (apply(DIV, (sum(apply(MUL, (w, importances))), total)), correction))
        norm = apply(TABLE["clamp_min"], (apply(SUB, (total, lost)), 0))
    out = apply(DIV, (matmul(centred, right.t().conj()), norm))
    return out.squeeze() if out._data.type.numel == 1 else out


def corrcoef(input: Tensor) -> Tensor:
    """Correlation coefficients of variables in rows."""
    c = cov(_rows("corrcoef", input))
    if not c._data.type.shape:
        return apply(DIV, (c, c))
    deviation = apply(TABLE["sqrt"], (c.diagonal().real,))
    scaled = apply(DIV, (apply(DIV, (c, unsqueeze(deviation, 1))), unsqueeze(deviation, 0)))
    if not scaled._data.type.dtype.is_complex:
        return apply(TABLE["clamp"], (scaled, -1.0, 1.0))
    return apply(TABLE["complex"], tuple([apply(TABLE["clamp"], (part, -1.0, 1.0)) for part in (scaled.real, scaled.imag)]))
