"""Functions that look at their arguments, inside `vmap`: one example after the other, which is reported."""
from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from treadle.arguments import refuse_misfits
from treadle.ir import op as op_table
from treadle.runtime.recorder import STATE
from treadle.tensor import Tensor, apply, is_batched

RESHAPE, SLICE, CAT = op_table.get("reshape"), op_table.get("slice"), op_table.get("cat")


def for_each_example(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorates a function without gradients that looks at tensors, and whose result's shape does not depend on their elements."""
    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        if STATE.here.levels and any(isinstance(x, Tensor) and is_batched(x) for x in (*args, *kwargs.values())):
            return _one_by_one(run, args, kwargs)
        try:
            return function(*args, **kwargs)
        except Exception as error:
            refuse_misfits(function, args, kwargs, error)
            raise
    return run


def _one_by_one(function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    from treadle.levels import Batching, report_loop
    level = max([found for found in STATE.here.levels if isinstance(found, Batching) and any(
        found.of(x) is not None for x in (*args, *kwargs.values()))], key=lambda found: found.number)
    report_loop(function.__name__, level.size)
    found = []
    with level.left_for_draws() as restart:
        for i in range(level.size):
            restart()
            found.append(function(*[_example(level, x, i) for x in args], **{k: _example(level, x, i) for k, x in kwargs.items()}))
    type = found[0]._data.type
    rows = [apply(RESHAPE, (x,), ((1, *type.shape),)) for x in found]
    return level.wrap(apply(CAT, rows, (0,)), type)


def _example(level: Any, x: Any, i: int) -> Any:
    what = level.of(x)
    if what is None:
        return x
    shape = x._data.type.shape
    row = apply(SLICE, (what.value,), ((i,) + (0,) * len(shape), (i + 1, *shape), (1,) * (1 + len(shape))))
    return apply(RESHAPE, (row,), (shape,))
