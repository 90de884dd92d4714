"""Numerical checks of gradients."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from treadle.autograd import grad
from treadle.creation import adopt, to_array
from treadle.ir.dtypes import FLOAT
from treadle.tensor import Tensor


class GradcheckError(RuntimeError):
    """Numerical and analytical gradients disagree."""


def _outputs(func: Callable[..., Any], inputs: Sequence[Any]) -> list[Tensor]:
    result = func(*inputs)
    found = list(result) if isinstance(result, list | tuple) else [result]
    return [t for t in found if isinstance(t, Tensor) and t.dtype.category >= FLOAT]


def _numeric_column(func: Callable[..., Any], inputs: list[Any], which: int, at: int, step: Any) -> list[np.ndarray]:
    """Central difference of every output along `step` (real or imaginary) in one element of one input, per unit of its size."""
    results = []
    for sign in (1, -1):
        moved = to_array(inputs[which]).copy()
        moved.reshape(-1)[at] += sign * step
        trial = list(inputs)
        trial[which] = adopt(moved)
        results.append([to_array(t).astype(np.complex128 if t.is_complex() else np.float64).copy() for t in _outputs(func, trial)])
    return [(hi - lo) / (2 * abs(step)) for hi, lo in zip(*results, strict=True)]


def gradcheck(func: Callable[..., Any], inputs: Any, *, eps: float = 1e-6, atol: float = 1e-5, rtol: float = 1e-3,
              raise_exception: bool = True, **ignored: Any) -> bool:
    """Compare backward's gradients with central differences, element by element; inputs should be float64 or
    complex128.

    Raises GradcheckError (or returns False when `raise_exception` is False) where they differ by more than atol + rtol * |numeric|.
    """
    inputs = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    targets = [i for i, t in enumerate(inputs) if isinstance(t, Tensor) and t.requires_grad]
    if not targets:
        raise ValueError("gradcheck expects at least one input tensor to require gradient, but none of them have requires_grad=True.")
    outputs = _outputs(func, inputs)
    for i in targets:
        for at in range(inputs[i].numel()):
            for step in (eps, eps * 1j) if inputs[i].is_complex() else (eps,):
                numeric = _numeric_column(func, inputs, i, at, step)
                for k, out in enumerate(outputs):
                    message = _compare(out, inputs[i], at, numeric[k], atol, rtol, step)
                    if message is not None:
                        if raise_exception:
                            raise GradcheckError(f"Jacobian mismatch for output {k} with respect to input {i}, element {at},\n{message}")
                        return False
    return True


def _compare(out: Tensor, x: Tensor, at: int, numeric: np.ndarray, atol: float, rtol: float, step: Any) -> str | None:
    """Each element of the output, and of a complex one each part: the gradient of Re(conj(seed) * out) along `step`."""
    for j in range(out.numel()):
        for unit in (1, 1j) if out.is_complex() else (1,):
            seed = np.zeros(out.numel(), to_array(out).dtype)
            seed[j] = unit
            found = grad(out, x, adopt(seed.reshape(out.shape)), retain_graph=True, allow_unused=True)[0] if out.requires_grad else None
            gradient = 0.0 if found is None else to_array(found).reshape(-1)[at]
            analytic = float(np.imag(gradient) if isinstance(step, complex) else np.real(gradient))
            expected = float(np.real(np.conj(unit) * numeric.reshape(-1)[j]))
            if not abs(analytic - expected) <= atol + rtol * abs(expected):
                return f"numerical: {expected}\nanalytical: {analytic}"
    return None


def gradgradcheck(func: Callable[..., Any], inputs: Any, **options: Any) -> bool:
    """`gradcheck` of the gradients themselves."""
    inputs = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    targets = [t for t in inputs if isinstance(t, Tensor) and t.requires_grad]

    def gradients(*args: Any) -> tuple[Any, ...]:
        chosen = [a for a, t in zip(args, inputs, strict=True) if any(t is x for x in targets)]
        for a in chosen:
            if not a.requires_grad:
                a.requires_grad_()
        parts = [o.real.sum() + o.imag.sum() if o.is_complex() else o.sum() for o in _outputs(func, args)]
        return grad(parts, chosen, create_graph=True)
    return gradcheck(gradients, inputs, **options)
