"""A write through a view as a new value of the whole storage: one inverse for each op that makes views."""
from __future__ import annotations

from treadle import layout, tensor
from treadle.ir import op as op_table
from treadle.ir.op import Attrs, Op
from treadle.ir.ops.view import inverse_permutation
from treadle.tensor import Tensor, apply


def put(base: Tensor, chain: tuple[tuple[Op, Attrs], ...], value: Tensor) -> Tensor:
    """The value of the whole storage after `value` is written through the view `chain`.

    RuntimeError when elements of the view are one place of memory.
    """
    steps = [base]
    for op, attrs in chain[:-1]:
        steps.append(apply(op, (steps[-1],), attrs))
        if op.name == "expand" and steps[-1]._data.type.numel > steps[-2]._data.type.numel:
            return _put_apart(base, chain, value)
    for (op, attrs), whole in zip(reversed(chain), reversed(steps), strict=True):
        value = INVERSES[op.name](whole, value, attrs)
    return value


def _put_apart(base: Tensor, chain: tuple[tuple[Op, Attrs], ...], value: Tensor) -> Tensor:
    """`put` through a view of an expanded tensor, which need not hold a place of memory twice."""
    if any([op.name in ("view_as_real", "view_as_complex", "conj") for op, _ in chain]):
        refuse_overlap()
    return _inverse_as_strided(base, value, layout.layout_of_chain(base._data.type.shape, chain))


def _inverse_permute(whole: Tensor, value: Tensor, attrs: Attrs) -> Tensor:
    return apply(op_table.get("permute"), (value,), (inverse_permutation(attrs[0]),))


def refuse_overlap() -> None:
    """PyTorch's error for writing to a tensor some of whose elements are one place of memory."""
    raise RuntimeError("unsupported operation: more than one element of the written-to tensor refers to a single memory location. "
                       "Please clone() the tensor before performing the operation.")


def _inverse_expand(whole: Tensor, value: Tensor, attrs: Attrs) -> Tensor:
    if whole._data.type.numel != value._data.type.numel:
        refuse_overlap()
    return apply(op_table.get("reshape"), (value,), (whole._data.type.shape,))


def _inverse_as_strided(whole: Tensor, value: Tensor, attrs: Attrs) -> Tensor:
    if any([n > 1 and not stride for n, stride in zip(attrs[0], attrs[1], strict=True)]):  # as PyTorch, which looks no further
        refuse_overlap()
    return apply(op_table.get("as_strided_scatter"), (whole, value), attrs)


# How a write through a view changes the whole: one inverse per view op.
INVERSES = {
    "reshape": lambda whole, value, attrs: apply(op_table.get("reshape"), (value,), (whole._data.type.shape,)),
    "permute": _inverse_permute,
    "expand": _inverse_expand,
    "slice": lambda whole, value, attrs: apply(op_table.get("slice_scatter"), (whole, value), attrs),
    "as_strided": _inverse_as_strided,
    "view_as_real": lambda whole, value, attrs: apply(op_table.get("view_as_complex"), (value,)),
    "view_as_complex": lambda whole, value, attrs: apply(op_table.get("view_as_real"), (value,)),
    "conj": lambda whole, value, attrs: apply(op_table.get("conj"), (value,)),
}


tensor.PUT = put
