"""What a page says about an op beyond its record, found by asking its type rule and its decomposition."""
from __future__ import annotations

import contextlib
import inspect
import linecache
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from op_examples import DTYPES, chosen, literal, operand_types

from treadle.ir import dtypes
from treadle.ir.autodiff import has_gradient
from treadle.ir.dtypes import DType
from treadle.ir.graph import Graph
from treadle.ir.interpreter import decomposed
from treadle.ir.op import Kind, Op, result_types
from treadle.ir.samples import samples_of
from treadle.ir.types import TensorType, tensor_type

REFUSALS = (RuntimeError, TypeError, IndexError, ValueError)
# What may differ between two messages of one kind.
PARTICULARS = r"-?\d+|\[[^]]*\]|'\w+'|tensor<[^>]*>|(?<=got )\w+|(?<=found )\w+|(cuda:0|cpu)|\b(bool|u?int|float|bfloat)\d*\b"
KINDS = dict(re.findall(r'^    ([A-Z]+) = "\w+"\s+# (.*)$', inspect.getsource(Kind), re.M))


def attribute(value: Any) -> str:
    return "…" if isinstance(value, Graph) else literal(value)


def signature(op: Op) -> str:
    operands = [f"*{name[:-1]}" if name.endswith("*") else name for name in op.operands]
    return f"{op.name}({', '.join([*operands, *op.attrs])})"


def shapes(op: Op) -> list[tuple[str, str]]:
    """(call, result) of each sample, by shapes."""
    rows = []
    for sample in samples_of(op):
        for dtype in DTYPES:
            try:
                types = operand_types(op, sample, dtype)
                results = result_types(op, types, tuple(sample[1]))
            except REFUSALS:
                continue
            given = ["number" if t.weak else str(list(t.shape)) for t in types]
            attrs = [f"{name}={attribute(value)}" for name, value in zip(op.attrs, sample[1], strict=True)]
            row = f"{op.name}({', '.join([*given, *attrs])})", ", ".join([str(list(t.shape)) for t in results])
            if row not in rows:
                rows.append(row)
            break
    return rows


def dtype_rows(op: Op) -> list[tuple[str, str]]:
    """(dtypes of the operands, dtypes of the results): what the type rule says when the operands it leaves open have one dtype."""
    found = chosen(op)
    if found is None:
        return []
    sample = found[0]
    open_ = [i for i, given in enumerate(sample[0]) if isinstance(given, tuple)]
    open_ = open_ or [i for i, given in enumerate(sample[0]) if isinstance(given, np.ndarray) and given.dtype.kind == "f"]
    accepted: dict[DType, list[DType]] = {}
    for dtype in dtypes.ALL if open_ else ():
        types = [t.with_(dtype=dtype) if i in open_ else t for i, t in enumerate(operand_types(op, sample, dtype))]
        with contextlib.suppress(*REFUSALS):
            accepted[dtype] = [t.dtype for t in result_types(op, tuple(types), tuple(sample[1]))]
    count = len(next(iter(accepted.values()), ()))
    follows = [all(results[i] is dtype for dtype, results in accepted.items()) for i in range(count)]
    rows: dict[str, list[str]] = {}
    for dtype, results in accepted.items():
        one = count == 1
        text = ", ".join(["the same" if same or (one and d is dtype) else d.name for same, d in zip(follows, results, strict=True)])
        rows.setdefault(text, []).append(dtype.name)
    return [(", ".join(names), result) for result, names in rows.items()]


def gradient(op: Op) -> str:
    if not op.differentiable or not has_gradient(op):
        return "none"
    if isinstance(op.rules, tuple):
        return "with respect to " + ", ".join([f"`{name.rstrip('*')}`" for name, rule in zip(op.operands, op.rules, strict=False) if rule])
    if op.rules is not None:
        return "with respect to its operands, by one rule"
    return "that of the ops it is made of"


def made_of(op: Op) -> list[str]:
    """Names of the ops that its decomposition records, over all samples."""
    names: dict[str, None] = {}
    if op.decompose is None:
        return []
    for sample in samples_of(op):
        for dtype in DTYPES:
            try:
                graph = decomposed(op, operand_types(op, sample, dtype), tuple(sample[1]))
            except REFUSALS:
                continue
            names.update(dict.fromkeys(node.op.name for node in graph.nodes if node.op is not None))
            break
    return sorted(names.keys() - {"constant", op.name})


# -- errors ----------------------------------------------------------------------------------------------------------------
def _spoilt(op: Op, sample: Any, types: tuple[TensorType, ...]) -> Iterator[tuple[tuple[TensorType, ...], tuple[Any, ...]]]:
    """Calls like the sample, each with one thing wrong with it, maybe."""
    attrs = tuple(sample[1])

    def with_operand(i: int, t: TensorType) -> tuple[TensorType, ...]:
        return (*types[:i], t, *types[i + 1:])
    for dtype in (dtypes.int64, dtypes.float32, dtypes.bool_):
        yield tuple([t if t.weak or isinstance(given, np.ndarray) else t.with_(dtype=dtype)
                     for t, given in zip(types, sample[0], strict=True)]), attrs
    for i, t in enumerate(types):
        if t.weak:
            continue
        yield with_operand(i, t.with_(shape=tuple([n + 1 for n in t.shape]))), attrs
        yield with_operand(i, t.with_(shape=(*t.shape[:-1], 0))), attrs
        yield with_operand(i, t.with_(shape=())), attrs
        yield with_operand(i, t.with_(shape=(1, 2, *t.shape))), attrs
        for dtype in (dtypes.float64, dtypes.int64, dtypes.bool_):
            yield with_operand(i, t.with_(dtype=dtype)), attrs
        yield with_operand(i, tensor_type(t.shape, t.dtype, "cuda:0")), attrs
    for i, value in enumerate(attrs):
        for wrong in ([9, -9] if type(value) is int else ["other"] if isinstance(value, str) and op.attrs[i] != "device" else
                      [tuple([9] * len(value))] if isinstance(value, tuple) and value and type(value[0]) is int else []):
            yield types, (*attrs[:i], wrong, *attrs[i + 1:])


def errors(op: Op) -> list[tuple[str, str]]:
    """(exception, message) that the type rule raises on purpose for calls with a mistake, one of each kind."""
    found: dict[str, tuple[str, str]] = {}
    choice = chosen(op)
    if choice is None:
        return []
    sample, dtype = choice
    for types, attrs in _spoilt(op, sample, operand_types(op, sample, dtype)):
        try:
            result_types(op, types, attrs)
        except Exception as error:
            trace = error.__traceback__
            while trace is not None and trace.tb_next is not None:
                trace = trace.tb_next
            assert trace is not None
            line = linecache.getline(trace.tb_frame.f_code.co_filename, trace.tb_lineno).strip()
            if line.startswith("raise ") and isinstance(error, REFUSALS) and "out of range" != str(error)[-12:]:
                found.setdefault(re.sub(PARTICULARS, "", str(error)), (type(error).__name__, str(error)))
    return list(found.values())
