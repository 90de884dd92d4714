"""`autograd.functional`: derivatives of functions of a tensor or a tuple of tensors, at a point."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import treadle
from treadle.autograd import grad
from treadle.tensor import Tensor

__all__ = ["hessian", "hvp", "jacobian", "jvp", "vhp", "vjp"]


def _tuple(name: str, values: Any, what: str) -> tuple[bool, tuple[Tensor, ...]]:
    """(whether it was a tuple, the tensors). TypeError for anything but tensors."""
    several = isinstance(values, tuple | list)
    found = tuple(values) if several else (values,)
    for i, x in enumerate(found):
        if not isinstance(x, Tensor):
            where = f" at index {i}" if several else ""
            raise TypeError(f"The {what} given to {name} must be either a Tensor or a tuple of Tensors but the value{where} has type "
                            f"{type(x)}.")
    return several, found


def _variables(inputs: Sequence[Tensor], create_graph: bool) -> tuple[Tensor, ...]:
    """New variables: on the tape of the inputs only if the result may be differentiated."""
    return tuple([x.view_as(x) if create_graph and x.requires_grad else x.detach().requires_grad_() for x in inputs])


def _as_given(values: Sequence[Any], several: bool, create_graph: bool) -> Any:
    found = tuple([x if create_graph else x.detach() for x in values])
    return found if several else found[0]


def _evaluated(func: Callable[..., Any], inputs: Sequence[Tensor], strict: bool) -> tuple[bool, tuple[Tensor, ...]]:
    several, outputs = _tuple("the user-provided function", func(*inputs), "outputs")
    if strict:
        for i, out in enumerate(outputs):
            if not out.requires_grad:
                raise RuntimeError(f"Output {i} of the user-provided function does not require gradients. The outputs must be computed in "
                                   "a differentiable manner from the input when running in strict mode.")
    return several, outputs


def _vectors(v: Any, like: Sequence[Tensor], why: str) -> tuple[Tensor, ...]:
    """`v` checked against the tensors it goes with; a one for a single element when it is None. RuntimeError."""
    if v is None:
        if len(like) != 1 or like[0].numel() != 1:
            raise RuntimeError(f"The vector v can only be None if {why}.")
        return (treadle.ones_like(like[0]),)
    _, found = _tuple("v", v, "v")
    if len(found) != len(like):
        raise RuntimeError(f"v is a tuple of invalid length: should be {len(like)} but got {len(found)}.")
    for i, (a, b) in enumerate(zip(found, like, strict=True)):
        if a.shape != b.shape:
            raise RuntimeError(f"Entry {i} in v has invalid size: should be {list(b.shape)} but got {list(a.shape)}.")
    return found


def _gradients(outputs: Sequence[Tensor], inputs: Sequence[Tensor], v: Sequence[Tensor] | None, create_graph: bool, strict: bool,
               what: str) -> list[Tensor]:
    live = [i for i, out in enumerate(outputs) if out.requires_grad]
    found: Sequence[Any] = [None] * len(inputs)
    if live:
        given = None if v is None else [v[i] for i in live]
        found = grad([outputs[i] for i in live], inputs, given, create_graph=create_graph, allow_unused=True)
    for i, g in enumerate(found):
        if g is None and strict:
            raise RuntimeError(f"The output of the user-provided function is independent of input {i}. This is not allowed in strict mode "
                               f"({what}).")
    return [treadle.zeros_like(x) if g is None else g for g, x in zip(found, inputs, strict=True)]


def vjp(func: Callable[..., Any], inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False) -> tuple[Any, Any]:
    """(func(*inputs), v times its Jacobian, in the structure of the inputs). v: like the outputs; None for a single element.

    create_graph: results can be differentiated. strict: RuntimeError for an input on which the outputs do not depend.
    """
    with treadle.enable_grad():
        several, given = _tuple("vjp", inputs, "inputs")
        xs = _variables(given, create_graph)
        many, outputs = _evaluated(func, xs, strict)
        vs = _vectors(v, outputs, "the user-provided function returns a single Tensor with a single element")
        found = _gradients(outputs, xs, vs, create_graph, strict, "vjp")
    return _as_given(outputs, many, create_graph), _as_given(found, several, create_graph)


def jvp(func: Callable[..., Any], inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False) -> tuple[Any, Any]:
    """(func(*inputs), its Jacobian times v, in the structure of the outputs). v: like the inputs; None for a single element."""
    from treadle import func as transforms
    with treadle.enable_grad():
        _, given = _tuple("jvp", inputs, "inputs")
        xs = tuple([x if create_graph else x.detach() for x in given])
        vs = _vectors(v, xs, "the input to the user-provided function is a single Tensor with a single element")
        many = False

        def flat(*args: Tensor) -> tuple[Tensor, ...]:
            nonlocal many
            many, outputs = _tuple("the user-provided function", func(*args), "outputs")
            return outputs
        outputs, found = transforms.jvp(flat, xs, vs, strict=strict)
    return _as_given(outputs, many, create_graph), _as_given(found, many, create_graph)


def _scalar(outputs: Sequence[Tensor], several: bool, name: str) -> Tensor:
    if several or len(outputs) != 1 or outputs[0].numel() != 1:
        raise RuntimeError(f"The function given to {name} should return a single Tensor with a single element")
    return outputs[0]


def vhp(func: Callable[..., Any], inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False) -> tuple[Any, Any]:
    """(func(*inputs), v times the Hessian of the scalar function, in the structure of the inputs)."""
    with treadle.enable_grad():
        several, given = _tuple("vhp", inputs, "inputs")
        xs = _variables(given, create_graph)
        vs = _vectors(v, xs, "the input to the user-provided function is a single Tensor with a single element")
        many, outputs = _evaluated(func, xs, strict)
        value = _scalar(outputs, many, "vhp")
        first = _gradients([value], xs, None, True, strict, "vhp")
        found = _gradients(first, xs, vs, create_graph, strict, "vhp")
    return _as_given([value], False, create_graph), _as_given(found, several, create_graph)


def hvp(func: Callable[..., Any], inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False) -> tuple[Any, Any]:
    """(func(*inputs), the Hessian of the scalar function times v): `vhp`, the Hessian being symmetric."""
    return vhp(func, inputs, v, create_graph, strict)


def jacobian(func: Callable[..., Any], inputs: Any, create_graph: bool = False, strict: bool = False, vectorize: bool = False,
             strategy: str = "reverse-mode") -> Any:
    """The Jacobian: a tensor of output shape + input shape; for tuples of outputs or inputs, tuples of these (outputs first).

    strategy: "reverse-mode" or "forward-mode". Always vectorized. strict: RuntimeError for outputs that do not depend on the inputs.
    """
    from treadle import func as transforms
    if strategy not in ("reverse-mode", "forward-mode"):
        raise ValueError('Expected strategy to be either "reverse-mode" or "forward-mode". Hint: If your function has more outputs than '
                         'inputs, "forward-mode" tends to be more performant. Otherwise, prefer to use "reverse-mode".')
    if strategy == "forward-mode" and create_graph:
        raise NotImplementedError("torch.autograd.functional.jacobian: `create_graph=True` and `strategy=\"forward-mode\"` are not "
                                  "supported together (yet). Please either set `create_graph=False` or `strategy=\"reverse-mode\"`.")
    with treadle.enable_grad():
        several, given = _tuple("jacobian", inputs, "inputs")
        xs = tuple([x if create_graph else x.detach() for x in given])
        if strict:
            variables = _variables(xs, False)
            for out in _evaluated(func, variables, True)[1]:
                _gradients([out], variables, [treadle.ones_like(out)], False, True, "jacobian")

        def checked(*args: Tensor) -> Any:
            many, outputs = _tuple("the user-provided function", func(*args), "outputs")
            return outputs if many else outputs[0]
        transform = transforms.jacrev if strategy == "reverse-mode" else transforms.jacfwd
        found = transform(checked, argnums=tuple(range(len(xs))))(*xs)
    many = not isinstance(found[0], Tensor)
    rows = tuple([_as_given(row, several, create_graph) for row in (found if many else (found,))])
    return rows if many else rows[0]


def hessian(func: Callable[..., Any], inputs: Any, create_graph: bool = False, strict: bool = False, vectorize: bool = False,
            outer_jacobian_strategy: str = "reverse-mode") -> Any:
    """The Hessian of a scalar function: a tensor of input shape + input shape; for a tuple of inputs, a tuple of tuples of these.

    outer_jacobian_strategy: "reverse-mode" or "forward-mode" over the reverse mode of the gradient. Always vectorized.
    """
    from treadle import func as transforms
    if outer_jacobian_strategy not in ("reverse-mode", "forward-mode"):
        raise ValueError('Expected strategy to be either "reverse-mode" or "forward-mode".')
    several, given = _tuple("hessian", inputs, "inputs")
    numbers = tuple(range(len(given)))

    def value(*xs: Tensor) -> Tensor:
        many, outputs = _tuple("the user-provided function", func(*xs), "outputs")
        return _scalar(outputs, many, "hessian").reshape(())
    if strict:
        vhp(func, inputs if several else given, given, strict=True)
    outer = transforms.jacrev if outer_jacobian_strategy == "reverse-mode" else transforms.jacfwd
    with treadle.enable_grad():
        found = outer(transforms.jacrev(value, numbers), numbers)(*[x if create_graph else x.detach() for x in given])
    rows = [_as_given(row, several, create_graph) for row in found]
    return tuple(rows) if several else rows[0]
