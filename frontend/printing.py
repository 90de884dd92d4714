"""Tensors as text, in PyTorch's layout. Printing looks at the value, so it flushes."""
from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from treadle.creation import to_array
from treadle.ir import dtypes
from treadle.ir.dtypes import BOOL, FLOAT
from treadle.runtime.recorder import STATE
from treadle.tensor import Tensor, is_batched, read

# precision, threshold, edgeitems, linewidth
PROFILES = {"default": (4, 1000, 3, 80), "short": (2, 1000, 2, 80), "full": (4, math.inf, 3, 80)}
NAMES = ("precision", "threshold", "edgeitems", "linewidth")
OPTIONS: dict[str, Any] = dict(zip(NAMES, PROFILES["default"], strict=True), sci_mode=None)


def set_printoptions(precision: int | None = None, threshold: float | None = None, edgeitems: int | None = None,
                     linewidth: int | None = None, profile: str | None = None, sci_mode: bool | None = None) -> None:
    """Digits after the point, elements before summarising, items at each edge, characters a line, scientific notation."""
    if profile is not None:
        OPTIONS.update(zip(NAMES, PROFILES[profile], strict=True))
    given = zip(NAMES, (precision, threshold, edgeitems, linewidth), strict=True)
    OPTIONS.update({name: value for name, value in given if value is not None}, sci_mode=sci_mode)


def get_printoptions() -> dict[str, Any]:
    """The current options, as arguments of `set_printoptions`."""
    return dict(OPTIONS)


@contextlib.contextmanager
def printoptions(**options: Any) -> Iterator[None]:
    """Other options for a block."""
    before = get_printoptions()
    set_printoptions(**options)
    try:
        yield
    finally:
        set_printoptions(**before)


class Formatter:
    """One notation and width for all elements shown: whole numbers, fixed point or scientific.

    Zeros and non-finite values do not take part in the choice.
    """

    def __init__(self, shown: np.ndarray, floating: bool) -> None:
        self.floating, self.whole, self.scientific, self.width = floating, True, False, 1
        flat = shown.reshape(-1)
        if not floating:
            self.width = max([len(str(v)) for v in flat.tolist()], default=1)
            return
        values = flat.astype(np.float64)
        values = values[np.isfinite(values) & (values != 0)]
        if not values.size:
            return
        size = np.abs(values)
        low, high = size.min(), size.max()
        self.whole = bool((values == np.ceil(values)).all())
        self.scientific = bool(high / low > 1000 or high > 1e8 or low < 1e-4) if OPTIONS["sci_mode"] is None else OPTIONS["sci_mode"]
        self.width = max([len(self._number(v)) for v in values.tolist()])

    def _number(self, value: float) -> str:
        if self.scientific:
            return f"{value:.{OPTIONS['precision']}e}"
        if self.whole:
            return f"{value:.0f}" + ("." if math.isfinite(value) else "")
        return f"{value:.{OPTIONS['precision']}f}"

    def __call__(self, value: Any) -> str:
        return (self._number(value) if self.floating else str(value)).rjust(self.width)


class ComplexFormatter:
    """A notation for the real parts and one for the imaginary parts; `1.+2.j`."""

    def __init__(self, shown: np.ndarray) -> None:
        self.real, self.imag = Formatter(shown.real, True), Formatter(shown.imag, True)
        self.width = self.real.width + self.imag.width + 1

    def __call__(self, value: complex) -> str:
        imag = f"{self.imag(value.imag)}j".lstrip()
        return self.real(value.real) + ("" if imag[0] in "+-" else "+") + imag


def _edges(array: np.ndarray) -> np.ndarray:
    """The elements that are shown of a summarised array."""
    edge = OPTIONS["edgeitems"]
    for axis, n in enumerate(array.shape):
        if n > 2 * edge:
            array = np.take(array, [*range(edge), *range(n - edge, n)], axis)
    return array


def _vector(array: np.ndarray, indent: int, summarise: bool, form: Any) -> str:
    per_line = max(1, (OPTIONS["linewidth"] - indent) // (form.width + 2))
    edge = OPTIONS["edgeitems"]
    if summarise and not edge:
        words = ["..."]
    elif summarise and len(array) > 2 * edge:
        words = [form(v) for v in array[:edge].tolist()] + [" ..."] + [form(v) for v in array[-edge:].tolist()]
    else:
        words = [form(v) for v in array.tolist()]
    lines = [", ".join(words[i:i + per_line]) for i in range(0, len(words), per_line)]
    return "[" + (",\n" + " " * (indent + 1)).join(lines) + "]"


def _body(array: np.ndarray, indent: int, summarise: bool, form: Any) -> str:
    if array.ndim == 0:
        return form(array.item())
    if array.ndim == 1:
        return _vector(array, indent, summarise, form)
    edge, n = OPTIONS["edgeitems"], len(array)
    if summarise and n > 2 * edge:
        rows = [_body(array[i], indent + 1, summarise, form) for i in range(edge)] + ["..."]
        rows += [_body(array[i], indent + 1, summarise, form) for i in range(n - edge, n)]
    else:
        rows = [_body(row, indent + 1, summarise, form) for row in array]
    return "[" + ("," + "\n" * (array.ndim - 1) + " " * (indent + 1)).join(rows) + "]"


def _suffixes(t: Tensor) -> list[str]:
    type = t._data.type
    out = [] if type.device == "cpu" else [f"device='{type.device}'"]
    usual = type.dtype is dtypes.default_float()
    if type.numel:
        usual = usual or type.dtype in (dtypes.int64, dtypes.default_complex()) or type.dtype.category == BOOL
    elif type.ndim != 1:
        out.append(f"size={type.shape}")
    if not usual:
        out.append(f"dtype={type.dtype!r}")
    if t._node is not None:
        out.append(f"grad_fn=<{t._node.name()}>")
    elif t._requires_grad:
        out.append("requires_grad=True")
    return out


def elements(t: Tensor, indent: int) -> str:
    """What stands between `tensor(` and the suffixes, for text that is `indent` characters in."""
    array = dtypes.plain(to_array(t))
    floating = t._data.type.dtype.category == FLOAT
    if floating:  # numpy has no text of its own for 16-bit floats
        array = array.astype(np.float64)
    summarise = array.size > OPTIONS["threshold"]
    shown = _edges(array) if summarise else array
    form = ComplexFormatter(shown) if array.dtype.kind == "c" else Formatter(shown, floating)
    return _body(array, indent, summarise, form) if array.size else "[]"


def tensor_repr(t: Tensor) -> str:
    """`tensor([1., 2.], requires_grad=True)`, as PyTorch prints it."""
    if t._data.type.layout != "strided":
        from treadle.sparse.text import sparse_repr
        return sparse_repr(t)
    if is_batched(t):
        return _level_repr(t)
    kind = type(t).__name__
    prefix = "tensor(" if kind in ("Tensor", "Parameter") else f"{kind}("
    return join(prefix + elements(t, len(prefix)), _suffixes(t), len(prefix))


def _level_repr(t: Tensor) -> str:
    """Inside `vmap`: what all examples hold, level by level."""
    trace: Any = read(t).trace
    value = "\n".join("    " + line for line in tensor_repr(trace.value).splitlines())
    number = 1 + STATE.here.levels.index(trace.level) if trace.level in STATE.here.levels else trace.level.number
    name = f"BatchedTensor(lvl={number}, bdim=0" if trace.level.batched else f"DualTensor(lvl={number}"
    return f"{name}, value=\n{value}\n)"


def join(text: str, suffixes: list[str], indent: int) -> str:
    """Append the suffixes, breaking the line where it would grow too long."""
    width = len(text) - text.rfind("\n") + 1
    for suffix in suffixes:
        if width + len(suffix) + 2 > OPTIONS["linewidth"]:
            text += ",\n" + " " * indent + suffix
            width = indent + len(suffix)
        else:
            text += ", " + suffix
            width += len(suffix) + 2
    return text + ")"
