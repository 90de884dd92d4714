"""PyTorch's `_foreach_*` functions: one operation on every tensor of a list. Recording them together is what fuses them."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import treadle
from treadle.tensor import Tensor


def foreach(name: str) -> Callable[..., Any]:
    """The function `_foreach_<name>`; AttributeError when tensors have no such operation.

    Arguments that are lists (or tuples) give each tensor its own; others are the same for all. Names ending in `_` write in place and
    return nothing.
    """
    in_place = name.endswith("_")
    base = name.removesuffix("_")
    function = getattr(Tensor, base, None) or getattr(treadle, base, None)
    if base not in ("zero", "copy") and function is None:
        raise AttributeError(f"module 'treadle' has no attribute '_foreach_{name}'")
    writer = getattr(Tensor, name, None) if in_place else None

    def one(t: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if writer is not None:
            return writer(t, *args, **kwargs)
        assert function is not None
        found = function(t, *args, **kwargs)
        return t.copy_(found) if in_place else found

    def run(tensors: Sequence[Tensor], *args: Any, **kwargs: Any) -> Any:
        for value in (*args, *kwargs.values()):
            if isinstance(value, list | tuple) and len(value) != len(tensors):
                raise RuntimeError(f"_foreach_{name}: tensor lists must have the same number of tensors, "
                                   f"got {len(tensors)} and {len(value)}")
        if base in ("addcmul", "addcdiv") and len(args) == 3:  # the only functions whose factor has no name here
            kwargs = {**kwargs, "value": args[2]}
            args = args[:2]

        def at(value: Any, i: int) -> Any:
            return value[i] if isinstance(value, list | tuple) else value
        found = [one(t, tuple(at(a, i) for a in args), {k: at(v, i) for k, v in kwargs.items()}) for i, t in enumerate(tensors)]
        return None if in_place else found
    run.__name__ = run.__qualname__ = f"_foreach_{name}"
    return run
