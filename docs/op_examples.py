"""A program for each op, made from a sample of its declaration: what its page shows and a test runs."""
from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np

import treadle
from treadle.ir import dtypes
from treadle.ir.dtypes import DType
from treadle.ir.graph import Graph
from treadle.ir.op import Op, result_types
from treadle.ir.samples import samples_of
from treadle.ir.types import SCALARS, TensorType, tensor_type

WRITTEN_OUT = 24  # elements of an operand that are given as a list
SHOWN = 60  # elements of a result that are printed
LINE = 100
# Tried in this order: the first that the op takes is shown.
DTYPES = (dtypes.float32, dtypes.int64, dtypes.uint8, dtypes.int8, dtypes.bool_, dtypes.complex64)


def operand_types(op: Op, sample: Any, dtype: DType) -> tuple[TensorType, ...]:
    """The types of a sample's operands when those given by their shape are of `dtype`."""
    found = []
    for given in sample[0]:
        if isinstance(given, (bool, int, float)):
            found.append(SCALARS[type(given)])
        elif isinstance(given, np.ndarray):
            found.append(tensor_type(given.shape, dtypes.from_numpy(given.dtype)))
        else:
            found.append(tensor_type(tuple(given), dtype))
    return tuple(found)


def accepted_types(op: Op, sample: Any, dtype: DType) -> tuple[TensorType, ...] | None:
    """The results' types, None when the op refuses the dtype."""
    try:
        return result_types(op, operand_types(op, sample, dtype), tuple(sample[1]))
    except (RuntimeError, TypeError, IndexError, ValueError):
        return None


def chosen(op: Op) -> tuple[Any, DType] | None:
    """The sample that shows the op best, and a dtype it takes: float32 if it can be; the fewest elements above one."""
    best: tuple[Any, Any, DType] | None = None
    for place, sample in enumerate(samples_of(op)):
        for rank, dtype in enumerate(DTYPES):
            results = accepted_types(op, sample, dtype)
            if results is None:
                continue
            sizes = [t.numel for t in (*operand_types(op, sample, dtype), *results) if not t.weak]
            cost = (rank, min(sizes, default=1) == 0, max(sizes, default=1) < 3, max(sizes, default=1) > WRITTEN_OUT, place)
            if best is None or cost < best[0]:
                best = cost, sample, dtype
            break
    return None if best is None else best[1:]


def literal(value: Any) -> str:
    """Python source for an attribute or a number."""
    if isinstance(value, DType):
        return f"torch.{value.name}"
    if isinstance(value, tuple):
        return "(" + ", ".join(map(literal, value)) + ("," if len(value) == 1 else "") + ")"
    return repr(value)


def _numbers(shape: tuple[int, ...], dtype: DType, domain: tuple[float, float] | None, seed: int) -> np.ndarray:
    """Short numbers that the op takes: within its domain, one decimal."""
    rng = np.random.default_rng(seed)
    if dtype.category == dtypes.BOOL:
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.category == dtypes.INT:
        return rng.integers(1 if domain or not dtype.signed else -3, 8, shape)
    low, high = domain or (-2.0, 2.0)
    if dtype.category == dtypes.COMPLEX:
        return rng.uniform(low, high, shape).round(1) + 1j * rng.uniform(low, high, shape).round(1)
    return np.clip(rng.uniform(low, high, shape).round(1), low, high) + 0.0


def _tensor(array: np.ndarray, dtype: DType) -> str:
    usual = (dtypes.bool_, dtypes.int64, dtypes.float32, dtypes.complex64)
    named = "" if dtype in usual and array.size else f", dtype=torch.{dtype.name}"
    return f"torch.tensor({array.tolist()}{named})"


def _operand(name: str, given: Any, dtype: DType, op: Op, seed: int) -> list[str]:
    """Lines that make one operand."""
    if isinstance(given, np.ndarray):
        return _wrapped(f"{name} = ", _tensor(given, dtypes.from_numpy(given.dtype)))
    shape = tuple(given)
    if int(np.prod(shape)) > WRITTEN_OUT and dtype.is_floating_point:
        low, high = op.domain or (0.0, 1.0)
        scale = "" if (low, high) == (0.0, 1.0) else f" * {round(high - low, 3)} + {low}"
        return [f"{name} = torch.rand({', '.join(map(str, shape))}){scale}"]
    return _wrapped(f"{name} = ", _tensor(_numbers(shape, dtype, op.domain, seed), dtype))


def _wrapped(start: str, text: str) -> list[str]:
    """A long nested list, one row a line."""
    if len(start) + len(text) <= LINE:
        return [start + text]
    rows = text.split("], [")
    indent = " " * (len(start) + text.index("[") + text.count("[", 0, text.index("[") + 8) - 1)
    return [(start if i == 0 else indent) + row + ("]," if i < len(rows) - 1 else "") if i == 0 else
            indent + "[" + row + ("]," if i < len(rows) - 1 else "") for i, row in enumerate(rows)]


def _call(op: Op, names: list[str], attrs: tuple[Any, ...]) -> str:
    given = [f"{name}={name if isinstance(value, Graph) else literal(value)}" for name, value in zip(op.attrs, attrs, strict=True)]
    return f"torch.ops.{op.name}({', '.join([*names, *given])})"


def program(op: Op) -> str:
    """A Python program that calls the op and prints its results; "" for an op without samples."""
    found = chosen(op)
    if found is None:
        return ""
    sample, dtype = found
    lines, names = [], []
    for i, given in enumerate(sample[0]):
        if isinstance(given, (bool, int, float)):
            names.append(literal(given))
            continue
        variadic = op.operands[-1].endswith("*") and i >= len(op.operands) - 1
        names.append(f"{op.operands[-1][:-1]}{i - len(op.operands) + 1}" if variadic else op.operands[i])
        lines += _operand(names[-1], given, dtype, op, seed=i + 1)
    for name, value in zip(op.attrs, sample[1], strict=True):
        if isinstance(value, Graph):
            lines += [f"{name} = parse('''", *str(value).splitlines(), "''')"]
    results = accepted_types(op, sample, dtype)
    assert results is not None
    call = _call(op, names, tuple(sample[1]))
    if max(t.numel for t in results) > SHOWN:
        shown = ["print(result.shape, result.dtype)"]
    else:
        shown = ["print(result)"]
    if len(results) > 1:
        lines += [f"for result in {call}:", *[f"    {line}" for line in shown]]
    elif "shape" in shown[0]:
        lines += [f"result = {call}", *shown]
    else:
        lines.append(f"print({call})")
    imports = ["import treadle as torch"] + ["from treadle.ir.parse import parse"] * any(isinstance(a, Graph) for a in sample[1])
    seed = ["torch.manual_seed(0)"] * any("torch.rand(" in line for line in lines)
    return "\n".join([*imports, "", *seed, *lines]) + "\n"


def output_of(source: str, name: str = "example.py") -> str:
    """What a program prints; it runs in this process, in a namespace of its own."""
    printed = io.StringIO()
    state = treadle.get_rng_state()
    with contextlib.redirect_stdout(printed):
        exec(compile(source, name, "exec"), {"__name__": "__main__"})
    treadle.set_rng_state(state)
    return printed.getvalue()

