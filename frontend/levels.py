"""Levels: the running transforms of functions, `vmap` and forward-mode differentiation, one inside the other.

A tensor that a transform gives to its function holds a value of that level: for `vmap` one example's, standing for a tensor of all of
them; in forward mode a primal with a tangent. An op on such tensors goes to the innermost of their levels, which emits what it becomes on
the tensors that they stand for: ops of the level around it, where the same happens again, down to recorded ops. So transforms nest,
and the tape sees each level's values as tensors of their own.
"""
from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from treadle.emitter import EMITTER
from treadle.ir import batching, dtypes
from treadle.ir import op as op_table
from treadle.ir.autodiff import has_gradient, replay
from treadle.ir.dtypes import default_float
from treadle.ir.op import Attrs, Op, result_types
from treadle.ir.pushforward import pushforward
from treadle.ir.types import SCALARS, TensorType, tensor_type
from treadle.runtime import log
from treadle.runtime.recorder import STATE, Data, Step, Wrapped, looped, user_location
from treadle.tensor import Tensor, apply, attach, know_transforms, read, wrap

_numbers = itertools.count(1)
Types = tuple[TensorType, ...]
Operand = tuple[Any, Wrapped | None]  # a tensor or number, and what it is at the level, if it belongs there


class Level:
    """One running transform, a context inside which it is known to what is recorded. Levels made later are inside."""

    __slots__ = ("closed", "number")
    batched = False
    hidden = False  # whether its values cannot be looked at, though they do not stand for many
    composed = False  # whether `compose` takes ops as they are, with a tape of its own

    def __init__(self) -> None:
        self.number = next(_numbers)
        self.closed = False
        know_transforms(transform, check_write)

    def __enter__(self) -> Any:
        STATE.here.levels.append(self)
        return self

    def __exit__(self, *exc: Any) -> None:
        STATE.here.levels.remove(self)

    def run(self, op: Op, operands: Sequence[Operand], types: Types, attrs: Attrs, step: Step) -> Sequence[Tensor]:
        """The results of `op` as tensors of this level."""
        raise NotImplementedError

    def compose(self, op: Op, inputs: Sequence[Any], attrs: Attrs) -> Any:
        """The result of `op`, where the level is `composed`."""
        raise NotImplementedError

    def shown(self, what: Wrapped, reason: str) -> Tensor:
        """What there is to see of a value of this level."""
        raise NotImplementedError

    def detached(self, data: Data) -> Data:
        """The value, off every tape and without a tangent."""
        raise NotImplementedError

    def wrap(self, value: Tensor, type: TensorType, tangent: Tensor | None = None) -> Tensor:
        """A tensor of this level. `type` is one example's."""
        return wrap(_data(type, Wrapped(self, value, tangent)))

    def of(self, x: Any) -> Wrapped | None:
        """What the tensor `x` is at this level, None when it does not belong there."""
        trace = read(x).trace if isinstance(x, Tensor) else None
        return trace if isinstance(trace, Wrapped) and trace.level is self else None


def _data(type: TensorType, what: Wrapped) -> Data:
    data = Data()
    data.type, data.trace, data.slot, data.buffer, data.stale = type, what, 0, None, False
    return data


class Batching(Level):
    """`vmap` over `size` examples. Tensors of all of them have the batch as axis 0.

    randomness: "error", "different" for each example, or the "same".
    """

    __slots__ = ("randomness", "size")
    batched = True

    def __init__(self, size: int, randomness: str) -> None:
        super().__init__()
        self.size, self.randomness = size, randomness

    def run(self, op: Op, operands: Sequence[Operand], types: Types, attrs: Attrs, step: Step) -> Sequence[Tensor]:
        values = [x if w is None else w.value for x, w in operands]
        found = batching.batch(EMITTER, op, values, [w is not None for _, w in operands], types, attrs, self.size, step.types)
        return [self.wrap(x, t) for x, t in zip(found, step.types, strict=True)]

    @contextlib.contextmanager
    def left_for_draws(self) -> Iterator[Callable[[], None]]:
        """For what draws for one example after the other: outside of the level. Gives what to call before each of them.

        RuntimeError at the first draw where the randomness mode is "error".
        """
        from treadle.random import default_generator as stream
        levels, start = STATE.here.levels, (stream._seed, stream._offset)

        def restart() -> None:
            if self.randomness == "same":
                stream._seed, stream._offset = start
        if self.randomness != "error":
            STATE.here.levels = [level for level in levels if level is not self]
        try:
            yield restart
        finally:
            STATE.here.levels = levels

    def shown(self, what: Wrapped, reason: str) -> Tensor:
        if reason == "bool":
            raise RuntimeError("vmap: It looks like you're attempting to use a Tensor in some data-dependent control flow. We don't "
                               "support that yet: choose between values with torch.where.")
        raise RuntimeError(f"vmap: It looks like you're calling .item() on a Tensor ({reason}). We don't support vmap over calling .item() "
                           "on a Tensor, please try to rewrite what you're doing with other operations.")

    def detached(self, data: Data) -> Data:
        what: Any = data.trace
        return _data(data.type, Wrapped(self, what.value.detach()))


class Forward(Level):
    """Forward-mode differentiation. A value without a tangent does not depend on what is differentiated by."""

    __slots__ = ()

    def run(self, op: Op, operands: Sequence[Operand], types: Types, attrs: Attrs, step: Step) -> Sequence[Tensor]:
        primals = [x if w is None else w.value for x, w in operands]
        given = tuple([None if w is None else w.tangent for _, w in operands])
        found = apply(op, primals, attrs)
        outs = found if isinstance(found, tuple) else (found,)
        pushed: Sequence[Any] = [None] * len(outs)
        if any(t is not None for t in given) and op.differentiable and has_gradient(op):
            pushed = self._push(op, primals, given, outs, types, attrs, step.types)
        return [self.wrap(x, t, tangent) for x, t, tangent in zip(outs, step.types, pushed, strict=True)]

    def _push(self, op: Op, primals: Sequence[Any], given: Sequence[Any], outs: Sequence[Tensor], types: Types, attrs: Attrs,
              out_types: Types) -> Sequence[Any]:
        graph, live = pushforward(op, types, attrs, out_types, tuple([t is not None for t in given]), default_float())
        env = dict(zip(graph.inputs, [*primals, *outs, *[t for t in given if t is not None]], strict=True))
        replay(EMITTER, graph, env)
        found = iter([env[v] for v in graph.outputs])
        return [next(found) if flag else None for flag in live]

    def shown(self, what: Wrapped, reason: str) -> Tensor:
        value: Tensor = what.value
        return value

    def detached(self, data: Data) -> Data:
        what: Any = data.trace
        return _data(data.type, Wrapped(self, what.value.detach()))


# -- ops on values of a level ----------------------------------------------------------------------------------------------------------
_steps: dict[Any, Step] = {}


def _step(op: Op, attrs: Attrs, types: Types) -> Step:
    """A step in no trace, for the tape: op, attributes and types. Raises the user's errors."""
    key = (op, attrs, types, default_float())
    found = _steps.get(key)
    if found is None:
        if len(_steps) > 4096:
            _steps.clear()
        found = _steps[key] = Step(None, (op, attrs), result_types(op, types, attrs), user_location(), types)
    return found


def _type(x: Any, op: Op) -> TensorType:
    if x.__class__ is Data:
        type: TensorType = x.type
        return type
    try:
        return SCALARS[x.__class__]
    except KeyError:
        raise TypeError(f"{op.name}: an operand is of type {x.__class__.__name__}, expected a Tensor or a number") from None


def transform(op: Op, inputs: Sequence[Any], datas: Sequence[Any], attrs: Attrs, track: bool) -> Any:
    """`apply` for operands of which some belong to a level; on the tape of their level if `track`."""
    marks = [d.trace if d.__class__ is Data and isinstance(d.trace, Wrapped) else None for d in datas]
    level: Level | None = None
    for m in marks:
        if m is not None:
            if m.level.closed:
                return apply(op, [opened(x) for x in inputs], attrs)
            if level is None or m.level.number > level.number:
                level = m.level
    assert level is not None
    if level.composed:
        return level.compose(op, inputs, attrs)
    types = tuple([_type(d, op) for d in datas])
    step = _step(op, attrs, types)
    operands = [(x, m if m is not None and m.level is level else None) for x, m in zip(inputs, marks, strict=True)]
    results = tuple(level.run(op, operands, types, attrs, step))
    if track:
        attach(step, inputs, list(datas), results)
    return results[0] if step.type is not None else results


def opened(x: Any) -> Any:
    """`x`, or what is left of it when its level is over."""
    while isinstance(x, Tensor) and isinstance(trace := read(x).trace, Wrapped) and trace.level.closed:
        x = trace.value
    return x


def levels_of(x: Any) -> list[Batching]:
    """The levels of `vmap` to which `x` belongs, the innermost first."""
    found = []
    while isinstance(x, Tensor) and isinstance(trace := read(x).trace, Wrapped):
        if isinstance(trace.level, Batching):
            found.append(trace.level)
        x = trace.value
    return found


def check_write(t: Tensor, value: Tensor, name: str) -> None:
    """RuntimeError when `value` differs between examples, and `t`, to which it is written, does not; or when one of them is sparse."""
    if name == "__setitem__" and t._data.type.layout != "strided":
        raise TypeError("Cannot assign to a sparse tensor")
    if value._data.type.layout != t._data.type.layout:
        raise RuntimeError(f"{name}: copy_() between dense and sparse Tensors is not implemented! Found self layout = "
                           f"treadle.{t._data.type.layout} and src layout = treadle.{value._data.type.layout}")
    if not set(levels_of(value)) <= set(levels_of(t)):
        raise RuntimeError(f"vmap: inplace arithmetic ({name}) is not possible because there exists a Tensor `other` in extra_args that "
                           "has more elements than `self`. This happened due to `other` being vmapped over but `self` not being "
                           "vmapped over in a vmap. Please try to use out-of-place operators instead.")


def like(t: Tensor, x: Tensor) -> Tensor:
    """`t` as a value of the levels of `vmap` to which `x` belongs, so that what is written to it may differ between examples."""
    for level in reversed(levels_of(x)):
        type = t._data.type
        t = level.wrap(apply(EXPAND, (t,), ((level.size, *type.shape),)), type)
    return t


# -- what has no rule, and what is random ------------------------------------------------------------------------------------------------
def report_loop(name: str, size: int) -> None:
    """Note that something ran once for each of `size` examples, for want of a rule (`TREADLE_LOG=recompile`, `treadle.explain`)."""
    looped[name] = looped.get(name, 0) + 1
    if log.enabled("recompile"):
        where = user_location()
        log.log("recompile", f"vmap: {name} has no batching rule: it runs once for each of {size} examples"
                + (f", at {where[0]}:{where[1]}" if where else ""))


batching.on_loop = lambda op, size: report_loop(op.name, size)
_OFFSET = tensor_type((), dtypes.int64)


def reserve_batched(reserve: Callable[[int], tuple[Any, Any]], count: int) -> tuple[Any, Any]:
    """(seed, offset) of a draw of `count` elements inside `vmap`: where examples differ, the offset is a value of its level.

    RuntimeError where the randomness mode is "error".
    """
    levels = [level for level in STATE.here.levels if isinstance(level, Batching)]
    if any(level.randomness == "error" for level in levels):
        raise RuntimeError("vmap: called random operation while in randomness error mode. Please either use the 'same' or 'different' "
                           "randomness flags on vmap or perform the randomness operation out of vmap")
    different = [level for level in levels if level.randomness == "different"]
    for level in different:
        count *= level.size
    seed, offset = reserve(count)
    for level in different:
        offset = level.wrap(offset, _OFFSET)
    return seed, offset


def again(level: Batching) -> Batching:
    """The level, to be entered a second time as the innermost one."""
    level.number = next(_numbers)
    return level


EXPAND, PERMUTE = op_table.get("expand"), op_table.get("permute")


def moved(x: Tensor, source: int, target: int) -> Tensor:
    """`x` with one axis moved; `x` itself when it is there."""
    if source == target:
        return x
    dims = [d for d in range(x._data.type.ndim) if d != source]
    dims.insert(target, source)
    result: Tensor = apply(PERMUTE, (x,), (tuple(dims),))
    return result


def on_tape_of(x: Tensor) -> Tensor:
    """Another tensor with the value of `x` and its place on the tape, which later writes to `x` do not change."""
    t = wrap(read(x))
    t._edge = x._edge
    return t
