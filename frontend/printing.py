"""Tensors as text, in PyTorch's layout."""
from __future__ import annotations

import math
from typing import Any

import numpy as np

from treadle.creation import to_array
from treadle.ir import dtypes
from treadle.ir.dtypes import BOOL, FLOAT
from treadle.tensor import Tensor


class Options:
    """What `set_printoptions` sets."""

    precision = 4
    threshold = 1000
    edgeitems = 3
    linewidth = 80
    sci_mode: bool | None = None


PROFILES = {"default": (4, 1000, 3, 80), "short": (2, 1000, 2, 80), "full": (4, math.inf, 3, 80)}


def set_printoptions(precision: int | None = None, threshold: Any = None, edgeitems: int | None = None, linewidth: int | None = None,
                     profile: str | None = None, sci_mode: bool | None = None) -> None:
    """Digits after the point, elements before summarising, items at each edge, characters a line, scientific notation."""
    if profile is not None:
        Options.precision, Options.threshold, Options.edgeitems, Options.linewidth = PROFILES[profile]  # type: ignore[assignment]
    for name, value in (("precision", precision), ("threshold", threshold), ("edgeitems", edgeitems), ("linewidth", linewidth)):
        if value is not None:
            setattr(Options, name, value)
    Options.sci_mode = sci_mode


class _Formatter:
    """One width and notation for all elements that are shown."""

    def __init__(self, shown: np.ndarray, floating: bool) -> None:
        self.floating = floating
        self.integral, self.sci, self.width = True, False, 1
        flat = shown.reshape(-1)
        if not floating:
            self.width = max([len(str(v)) for v in flat.tolist()], default=1)
            return
        values = flat.astype(np.float64)
        finite = np.abs(values[np.isfinite(values) & (values != 0)])
        if finite.size:
            self.integral = bool(np.all(finite == np.ceil(finite)))
            low, high = finite.min(), finite.max()
            limit = 1e8 if not self.integral else 1e8
            self.sci = high / low > 1000 or high > limit or (not self.integral and low < 1e-4)
            if self.integral:
                self.sci = high / low > 1000.0 and high > 1e8 or high > 1e8
        if Options.sci_mode is not None:
            self.sci = Options.sci_mode
        self.width = max([len(self._text(v)) for v in values.tolist()], default=1) if values.size else 1

    def _text(self, value: float) -> str:
        if not math.isfinite(value):
            return str(value)
        if self.sci:
            return f"{value:.{Options.precision}e}"
        return f"{value:.0f}." if self.integral else f"{value:.{Options.precision}f}"

    def __call__(self, value: Any) -> str:
        text = self._text(float(value)) if self.floating else str(value)
        return text.rjust(self.width)


def _edges(array: np.ndarray) -> np.ndarray:
    """The elements that are shown of a summarised array."""
    for axis in range(array.ndim):
        n = array.shape[axis]
        if n > 2 * Options.edgeitems:
            keep = [*range(Options.edgeitems), *range(n - Options.edgeitems, n)]
            array = np.take(array, keep, axis=axis)
    return array


def _vector(array: np.ndarray, indent: int, summarise: bool, form: _Formatter) -> str:
    per_line = max(1, (Options.linewidth - indent) // max(1, form.width + 2))
    values = array.tolist()
    if summarise and len(values) > 2 * Options.edgeitems:
        words = [form(v) for v in values[:Options.edgeitems]] + [" ..."] + [form(v) for v in values[-Options.edgeitems:]]
    else:
        words = [form(v) for v in values]
    lines = [words[i:i + per_line] for i in range(0, len(words), per_line)]
    return "[" + (",\n" + " " * (indent + 1)).join(", ".join(line) for line in lines) + "]"


def _body(array: np.ndarray, indent: int, summarise: bool, form: _Formatter) -> str:
    if array.ndim == 0:
        return form(array.item() if array.dtype.kind != "V" else float(array))
    if array.ndim == 1:
        return _vector(array, indent, summarise, form)
    rows: list[Any] = list(array)
    if summarise and len(rows) > 2 * Options.edgeitems:
        parts = ([_body(r, indent + 1, summarise, form) for r in rows[:Options.edgeitems]] + ["..."]
                 + [_body(r, indent + 1, summarise, form) for r in rows[-Options.edgeitems:]])
    else:
        parts = [_body(r, indent + 1, summarise, form) for r in rows]
    return "[" + ("," + "\n" * (array.ndim - 1) + " " * (indent + 1)).join(parts) + "]"


def tensor_repr(t: Tensor) -> str:
    """`tensor([1., 2.], requires_grad=True)`, as PyTorch prints it. Looks at the value, so it flushes."""
    array = to_array(t)
    dtype = t._data.type.dtype
    floating = dtype.category == FLOAT
    if dtype is dtypes.bfloat16:
        array = array.astype(np.float32)
    summarise = array.size > Options.threshold
    prefix = "tensor("
    if array.size == 0:
        body = "[]"
    else:
        body = _body(array, len(prefix), summarise, _Formatter(_edges(array) if summarise else array, floating))
    suffixes = []
    if array.size == 0 and array.ndim != 1:
        suffixes.append(f"size={tuple(array.shape)}")
    usual = dtype is dtypes.default_float() or dtype.category == BOOL or dtype is dtypes.int64
    if (not usual) or (array.size == 0 and dtype is not dtypes.default_float()):
        suffixes.append(f"dtype={dtype!r}")
    if t._node is not None:
        suffixes.append(f"grad_fn=<{t._node.name()}>")
    elif t._requires_grad:
        suffixes.append("requires_grad=True")
    return _join(prefix + body, suffixes)


def _join(text: str, suffixes: list[str]) -> str:
    """Append the suffixes, breaking the line where it would grow too long."""
    width = len(text) - text.rfind("\n")
    for suffix in suffixes:
        if width + len(suffix) + 2 > Options.linewidth:
            text += ",\n       " + suffix
            width = 7 + len(suffix)
        else:
            text += ", " + suffix
            width += len(suffix) + 2
    return text + ")"
