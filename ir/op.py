"""The op record: everything Treadle knows about an operation, declared once.

An op's operands are tensors (or Python numbers used as data, which become run-time scalars); its attributes are what
shapes the result: axes, sizes, flags, dtypes. Rules are written against an *emitter* `b`: a recorder (eager code) or a
graph builder (a pass), each offering every op of the table as a method, so one rule serves both.
"""
from __future__ import annotations

import enum
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from treadle.ir.dtypes import FLOAT
from treadle.ir.types import TensorType

Attrs = tuple[Any, ...]


# Attributes that hold sizes of axes, or positions along them: graphs that differ in nothing else are planned alike. Rules compute with
# them; they look nothing up by them.
EXTENTS = frozenset(("shape", "size", "starts", "stops", "low", "high", "strides", "offset", "length"))


class Kind(enum.Enum):
    """The vocabulary of fusion."""

    ELEMENTWISE = "elementwise"  # out[i] depends on operands at i, broadcasting included
    VIEW = "view"                # an affine re-indexing of one operand
    REDUCE = "reduce"            # folds axes
    CONTRACT = "contract"        # matrix product
    ATTENTION = "attention"      # two products with a softmax between them
    GATHER = "gather"            # reads at data-dependent places
    SCATTER = "scatter"          # writes at data-dependent places
    SCAN = "scan"                # prefix operations
    SORT = "sort"
    RANDOM = "random"
    CREATE = "create"            # no operands: constants, ranges
    COMPOSITE = "composite"      # one node in the record, decomposed by a pass
    CONTROL = "control"          # holds sub-graphs
    COMM = "comm"
    EXTERN = "extern"            # computed by a library on the host


class Field(enum.Enum):
    """The numbers that an op is about."""

    REAL = "real"          # complex operands are refused
    ANALYTIC = "analytic"  # complex ones too, and the op is differentiable as a function of them: the vjp rules are those of real numbers
    COMPLEX = "complex"    # complex ones too, and the vjp rules themselves give the gradient, conj(dL/dz)


@dataclass(slots=True, eq=False)
class Op:
    """One operation.

    operands: names, for vjp rules and messages; one ending in `*` takes any number of operands.
    attrs: attribute names, in the order in which they are stored.
    type_rule: `(types, *attrs) -> TensorType` or a tuple of them; raises the user's errors.
    reference: numpy semantics, `(*arrays, *attrs) -> array` or a tuple. Operands arrive already cast and not broadcast.
    vjp: one rule per operand, `(b, g, ...) -> value` or None; further parameters are chosen by name among operands,
        `out` (results), attributes, and `<operand>_type`, `out_type`: only named values are kept for the backward pass.
        A single callable gives all gradients at once as a tuple. Of several results' gradients `g` is a tuple, missing ones filled
        with zeros; a single callable that asks for `given` gets None for those instead, and a bool for each.
    jvp: `(b, tangents, operands, outs, *attrs) -> tangent(s)`, tangents being None where there are none; most follow from the vjp
        (`treadle.ir.pushforward`), which must be linear in g for that.
    decompose: `(b, *operands, *attrs) -> value(s)` in terms of simpler ops; required for COMPOSITE.
    scalar: for ELEMENTWISE, the scalar function's name in the kernel IR; a callable for a user's own op.
    commutative: whether the operands, two, may change places; exactly, so maximum is not (of 0.0 and -0.0 it takes the second).
    compute: dtype in which the operands are combined, given their types: "promote" (result_dtype), "float" (promote,
        integers become the default float), "same" (operands are used as they are).
    exact_number: whether a number, or a 0-d tensor as second operand, is not rounded to the 16-bit floats beside it, as in PyTorch.
    batch: how the op is applied to a batch of operands at once (`treadle.ir.batching`): the name of a family of rules, or a rule;
        None derives it from the kind, or from the decomposition.
    field: whether it takes complex operands, and what its vjp rules say of them.
    tensors: operands that the function of this name takes as tensors only, and never as numbers.
    rewritable: operands, and `out`, that a program may write over before the backward pass, though the vjp reads what was there:
        PyTorch's keeps something else and lets such programs run.
    samples: example calls `[(operand shapes or arrays, attrs)]` from which tests are made.
    """

    name: str
    kind: Kind
    operands: tuple[str, ...]
    attrs: tuple[str, ...]
    type_rule: Callable[..., Any]
    reference: Callable[..., Any] | None = None
    vjp: Any = None
    decompose: Callable[..., Any] | None = None
    scalar: str | Callable[..., Any] | None = None
    commutative: bool = False
    compute: str = "same"
    exact_number: bool = False
    samples: Sequence[Any] = ()
    doc: str = ""
    mlir: str = ""
    onnx: str = ""
    differentiable: bool = True
    domain: tuple[float, float] | None = None  # where samples for gradients may lie
    autocast: bool = False  # whether mixed precision has a say in the operands' types
    batch: str | Callable[..., Any] | None = None
    jvp: Callable[..., Any] | None = None
    field: Field = Field.REAL
    tensors: str = ""
    rewritable: str = ""
    routine: str = ""  # the family of `treadle.ir.routine` that computes it
    rules: tuple[VjpRule | None, ...] | VjpRule | None = None

    def __repr__(self) -> str:
        return f"<op {self.name}>"

    def __reduce__(self) -> tuple:
        return get, (self.name,)


@dataclass(slots=True)
class VjpRule:
    """A vjp function with the values it asks for by name, resolved against the op's record."""

    function: Callable[..., Any]
    needs: tuple[tuple[str, int],
                 ...]  # ("operand", i), ("operand_type", i), ("out", 0), ("out_type", 0), ("attr", i), ("operands", 0), ("given", 0)


TABLE: dict[str, Op] = {}


def get(name: str) -> Op:
    return TABLE[name]


def _parameters(function: Callable[..., Any]) -> list[str]:
    """The names of the parameters; of a plain function from its code, which takes a tenth of `inspect.signature`'s time at import."""
    code = getattr(function, "__code__", None)
    if code is None or hasattr(function, "__wrapped__"):
        return list(inspect.signature(function).parameters)
    return list(code.co_varnames[:code.co_argcount + code.co_kwonlyargcount])


def _resolve(op: Op, function: Callable[..., Any]) -> VjpRule:
    needs: list[tuple[str, int]] = []
    plain = [o.rstrip("*") for o in op.operands]
    for name in _parameters(function)[2:]:
        if name in ("out", "out_type", "operands", "operand_types", "given"):
            needs.append((name, 0))
        elif name in plain:
            needs.append(("operand", plain.index(name)))
        elif name.endswith("_type") and name[:-5] in plain:
            needs.append(("operand_type", plain.index(name[:-5])))
        elif name in op.attrs:
            needs.append(("attr", op.attrs.index(name)))
        else:
            raise ValueError(f"op {op.name}: the vjp rule asks for {name!r}, which is no operand, attribute, or out")
    return VjpRule(function, tuple(needs))


def register(op: Op) -> Op:
    """Add `op` to the table; ValueError when the name is taken or the record is incomplete."""
    if op.name in TABLE:
        raise ValueError(f"op {op.name!r} is already declared")
    if op.kind is Kind.COMPOSITE and op.decompose is None:
        raise ValueError(f"composite op {op.name!r} needs a decompose rule")
    if op.kind is Kind.VIEW and op.field is Field.REAL:
        op.field = Field.ANALYTIC  # they move numbers, whatever these are
    if op.vjp is None:
        op.rules = None
    elif callable(op.vjp):
        op.rules = _resolve(op, op.vjp)
    else:
        op.rules = tuple(None if f is None else _resolve(op, f) for f in op.vjp)
    TABLE[op.name] = op
    return op


def declare(name: str, kind: Kind, operands: str, attrs: str = "", **facts: Any) -> Op:
    """`declare("sum", Kind.REDUCE, "x", "dims keepdim", type_rule=..., ...)`: build and register a record."""
    return register(Op(name, kind, tuple(operands.split()), tuple(attrs.split()), **facts))


def _check_devices(op: Op, types: tuple[TensorType, ...]) -> None:
    """Numbers, 0-d tensors and, for ops that take indices, integers may stay on the CPU."""
    indices = op.kind in (Kind.GATHER, Kind.SCATTER)
    free = [t.device == "cpu" and (not t.shape or (indices and t.dtype.category < FLOAT)) for t in types]
    devices = dict.fromkeys(t.device for t, may_stay in zip(types, free, strict=True) if not may_stay)
    if len(devices) > 1:
        raise RuntimeError(f"{op.name}: Expected all tensors to be on the same device, but found at least two devices, "
                           f"{' and '.join(list(devices)[:2])}!")


def _check_flag(op: Op, keepdim: Any) -> None:
    if keepdim is None or isinstance(keepdim, str):  # they would pass as false and true
        raise TypeError(f"{op.name}(): argument 'keepdim' must be bool, not {type(keepdim).__name__}")


def result_types(op: Op, types: tuple[TensorType, ...], attrs: Attrs) -> tuple[TensorType, ...]:
    """Run the type rule; always a tuple. RuntimeError when operands live on different devices, or are complex and may not be."""
    if any([t.device != "cpu" for t in types]):
        _check_devices(op, types)
    if op.field is Field.REAL and any([t.dtype.is_complex for t in types]):
        title = next(t.dtype.title for t in types if t.dtype.is_complex)
        raise NotImplementedError(f'"{op.name}" not implemented for \'{title}\' '
                                  f"(operands: {', '.join(map(str, types))})")
    if "keepdim" in op.attrs and attrs[op.attrs.index("keepdim")].__class__ is not bool:
        _check_flag(op, attrs[op.attrs.index("keepdim")])
    found = op.type_rule(types, *attrs)
    return found if isinstance(found, tuple) else (found,)
