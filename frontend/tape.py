"""The tape's nodes: what a recorded op leaves for the backward pass. `treadle.autograd` walks them.

An edge, `(node, which result)`, says where the gradient of a tensor goes; a tensor carries its own (`Tensor._edge`), so that
recording an op copies references and computes nothing.
"""
from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from treadle.ir import op as op_table
from treadle.ir.autodiff import holds_complex
from treadle.ir.dtypes import FLOAT
from treadle.ir.op import Kind, Op, VjpRule
from treadle.ir.types import TensorType
from treadle.runtime.recorder import Data, Step

EXPAND = op_table.get("expand")

Edge = tuple[Any, int] | None  # (GradNode or LeafNode, which of its outputs)

# Nodes are numbered as they are made: an op comes after everything it used, which orders the backward pass.
next_sequence: Callable[[], int] = itertools.count().__next__


class LeafNode:
    """Where a leaf's gradient arrives: `owner()` is the tensor whose `.grad` it becomes, None once nobody can look at it."""

    __slots__ = ("owner", "strong")
    edges: tuple[Edge, ...] = ()

    def __init__(self, tensor: Any) -> None:
        self.owner: Callable[[], Any] = weakref.ref(tensor)
        self.strong: Any = None  # the tensor itself once it has hooks, which must run even when only the tape knows it

    def name(self) -> str:
        return "AccumulateGrad"

    @property
    def variable(self) -> Any:
        return self.owner()


class Single(NamedTuple):
    """The type of an operand with an axis of size 1 that is so in the result too: it may be one sample of as many, or, being a parameter,
    belong to all of them."""

    type: TensorType


class Keep:
    """What the tape keeps of an op, given which operands need a gradient: decided once per place in the trie.

    operands: a flag per operand, None to keep all; outs: whether the results are kept; flows: the results that gradients flow
    through; rules: when every wanted operand has a rule of its own, there is one result, and nothing has to be conjugated, for each
    (operand, function, arguments, only, its type or a Single), else None. Arguments are ("operand", i), ("out", 0) or ("value", constant);
    `only` is the operand when that is the one argument, -1 when there are none, else None.
    """

    __slots__ = ("flows", "none", "operands", "outs", "rules", "width")

    def __init__(self, step: Step, wanted: Sequence[bool]) -> None:
        op: Op = step.key[0]
        types = step.operand_types
        self.width = len(step.types)
        self.flows = [i for i, t in enumerate(step.types) if t.dtype.category >= FLOAT]
        chosen: list[tuple[int, VjpRule]] = []
        if isinstance(op.rules, VjpRule):
            chosen = [(0, op.rules)]
        elif op.rules:
            last = len(op.rules) - 1
            pairs = [(i, op.rules[min(i, last)]) for i, want in enumerate(wanted) if want and types[i].dtype.category >= FLOAT]
            chosen = [(i, rule) for i, rule in pairs if rule is not None]
        needs = [need for _, rule in chosen for need in rule.needs]
        starred = bool(op.operands) and op.operands[-1].endswith("*")
        every = any(kind == "operands" for kind, _ in needs)
        named = {i for kind, i in needs if kind == "operand"}
        if starred and len(op.operands) - 1 in named:
            named.update(range(len(op.operands) - 1, len(types)))
        self.operands = None if every else tuple([i in named for i in range(len(types))])
        self.none = not every and not named
        self.outs = any(kind == "out" for kind, _ in needs)
        single = self.width == 1 and not isinstance(op.rules, VjpRule) and not starred
        simple = single and not any(kind in ("operands", "operand_types") for kind, _ in needs)
        simple = simple and not holds_complex(op, types, step.types)
        self.rules = [_prepared(step, i, rule) for i, rule in chosen] if simple else None


def _prepared(step: Step, i: int, rule: VjpRule) -> tuple[int, Any, list[tuple[str, Any]], int | None, TensorType | Single]:
    op = step.key[0]
    have, made = step.operand_types[i], step.types[0]
    alike = len(have.shape) == len(made.shape) and (op.kind is Kind.ELEMENTWISE or op is EXPAND)
    if alike and any([n == m == 1 for n, m in zip(have.shape, made.shape, strict=True)]):
        rest = _rule(step, rule) if op is not EXPAND else (lambda b, g: g, [], -1)
        return i, *rest, Single(have)
    return i, *_rule(step, rule), have


def _rule(step: Step, rule: VjpRule) -> tuple[Any, list[tuple[str, Any]], int | None]:
    attrs = step.key[1]
    constant = {"attr": lambda k: attrs[k], "operand_type": lambda k: step.operand_types[k], "out_type": lambda k: step.types[0]}
    arguments = [(kind, k) if kind in ("operand", "out") else ("value", constant[kind](k)) for kind, k in rule.needs]
    only = -1 if not arguments else arguments[0][1] if len(arguments) == 1 and arguments[0][0] == "operand" else None
    return rule.function, arguments, only


class Extra:
    """What few nodes have: hooks and retained gradients by result, versions of the storages of operands that are views."""

    __slots__ = ("hooks", "retained", "versions")

    def __init__(self) -> None:
        self.hooks: dict[int, dict[int, Any]] | None = None
        self.retained: dict[int, Any] | None = None
        self.versions: list[Any] | None = None


def _extra(name: str) -> Any:
    def get(self: GradNode) -> Any:
        return None if self.extra is None else getattr(self.extra, name)

    def put(self: GradNode, value: Any) -> None:
        if self.extra is None:
            self.extra = Extra()
        setattr(self.extra, name, value)
    return property(get, put)


class GradNode:
    """One differentiable op that was recorded: where its gradients go, and the values its rules ask for.

    `step` is the trie node of the op: it knows op, attributes and types, so that the tape need not copy them. There is no
    `__init__`: recording sets `step, keep, edges, saved, outs, sequence, extra` in place.
    """

    __slots__ = ("__weakref__", "edges", "extra", "keep", "outs", "saved", "sequence", "step")

    step: Step
    keep: Keep
    edges: tuple[Edge, ...]
    saved: Sequence[Any] | None      # operands as recorded (Data or numbers), None for those not kept; None when released
    outs: tuple[Data, ...]
    sequence: int
    extra: Extra | None

    hooks, retained, versions = _extra("hooks"), _extra("retained"), _extra("versions")

    @property
    def op(self) -> Op:
        op: Op = self.step.key[0]
        return op

    @property
    def released(self) -> bool:
        return self.saved is None

    @property
    def out_types(self) -> tuple[TensorType, ...]:
        return self.step.types

    def name(self) -> str:
        return "".join(part.capitalize() for part in self.op.name.split("_")) + "Backward0"

    def __repr__(self) -> str:
        return f"<{self.name()} object at {id(self):#x}>"

    @property
    def next_functions(self) -> tuple[tuple[Any, int], ...]:
        return tuple([(None, 0) if e is None else e for e in self.edges])

    def release(self) -> None:
        """Let go of saved values after a backward pass without `retain_graph`."""
        self.saved = None
        self.outs = ()
        if self.extra is not None:
            self.extra.versions = None

    def gradients(self, grads: list[Any]) -> Sequence[Any]:
        """Gradients of the operands that need one, given those of the results."""
        return DIFFERENTIATE(self, grads)


def DIFFERENTIATE(node: GradNode, grads: list[Any]) -> Sequence[Any]:
    """Replaced by `treadle.autograd`, which stands above."""
    raise RuntimeError("autograd is not loaded")


class NoDerivative:
    """In place of an op's node where PyTorch's backward pass raises: `name` is the op's name there."""

    edges: tuple[Edge, ...] = ()
    hooks = retained = versions = None
    released = False
    out_types: tuple[Any, ...] = (None,)

    def __init__(self, name: str) -> None:
        self._name = name
        self.sequence = next_sequence()

    def name(self) -> str:
        return "NotImplemented"

    @property
    def next_functions(self) -> tuple[Any, ...]:
        return ()

    def release(self) -> None:
        """Nothing is kept."""

    def gradients(self, grads: list[Any]) -> Sequence[Any]:
        raise RuntimeError(f"derivative for aten::{self._name} is not implemented")


def pick_keep(step: Step, mask: int, count: int) -> Keep:
    """The recipe of an op at this place for the operands whose bits are set in `mask`, made on first need."""
    keep = step.tape[mask] = Keep(step, [bool(mask >> i & 1) for i in range(count)])
    return keep
