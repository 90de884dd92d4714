"""Walks PyTorch's OpInfo database: which ops, dtypes and samples, and every check on each. For tests marked `pytest.mark.oracle` only."""
from __future__ import annotations

import itertools
import types
import warnings
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import opinfo_adapter as adapter
import torch
from opinfo_checks import Case, describe, error_problem, error_text, tensors
from opinfo_layouts import CRASHES, FACTORED, LAYOUTS, converted, relaid
from torch.testing._internal import common_utils
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.opinfo import core

import treadle

# PyTorch seeds before every sample, and notes a stack for each kind of device that is not there: a tenth of the sweep's time.
for device in (torch.cuda, torch.xpu, torch.mtia):
    device.manual_seed_all = lambda seed: None
# It looks for PyTorch's own test case up the stack, before every sample: under pytest two thirds of the sweep's time.
common_utils.extract_test_fn = core.extract_test_fn = lambda: None

HALVES = (torch.float16, torch.bfloat16)
DTYPES = tuple(adapter.NAMES)
BAREBONES = (torch.uint16, torch.uint32, torch.uint64)  # few of PyTorch's kernels take them: refusals say nothing


class Finding(NamedTuple):
    """One difference: the op's name with its variant, the category, what differs, and on which sample."""

    name: str
    category: str
    text: str
    sample: str


def full_name(op: Any) -> str:
    return f"{op.name}.{op.variant_test_name}" if op.variant_test_name else op.name


def dtypes_for(op: Any) -> list[torch.dtype]:
    """float32, or what there is instead; an integer dtype, bool, and one of float64 and the 16-bit ones, by turns."""
    has = op.supported_dtypes("cpu")
    turn = zlib.crc32(op.name.encode())
    choices = [(torch.float32,), ((torch.int64, torch.int32, torch.uint8, torch.int8)[turn % 4], torch.int64), (torch.bool,),
               ((torch.float64, *HALVES)[turn % 3], torch.float64)]
    found = [next((d for d in choice if d in has), None) for choice in choices]
    return list(dict.fromkeys(d for d in found if d is not None))


def other_dtypes(op: Any) -> list[torch.dtype]:
    """Those that the op takes beside `dtypes_for`."""
    first, has = dtypes_for(op), op.supported_dtypes("cpu")
    return [d for d in DTYPES if d in has and d not in first]


def told(sample: Any) -> str:
    return f"{describe((sample.input, *sample.args))} {describe(sample.kwargs)}"


def samples(op: Any, dtype: torch.dtype, requires_grad: bool, count: int, limit: int = 400) -> list[Any]:
    torch.manual_seed(0)
    np.random.seed(0)
    every = list(itertools.islice(op.sample_inputs("cpu", dtype, requires_grad=requires_grad), limit))
    if len(every) <= count:
        return every
    places = np.linspace(0, len(every) - 1, count).round().astype(int) if count > 1 else [len(every) // 2]  # first, last and some between
    return [every[i] for i in dict.fromkeys(places)]


def exists(op: Any) -> bool:
    """Whether Treadle has the op: a lambda of the database's is taken at its name."""
    if isinstance(op.op, types.FunctionType) and "<lambda>" in op.op.__qualname__:
        return any(adapter.find(root, name) is not None for root in (treadle, treadle.Tensor) for name in (op.name, f"{op.name}_"))
    return adapter.function(op.op, op.name) is not None


def check_op(op: Any, count: int, values: bool, sightings: int = 2, variants: bool = True,
             dtypes: Sequence[torch.dtype] | None = None) -> Iterator[Finding]:
    """Every check on up to `count` samples of each dtype."""
    name = full_name(op)
    if not exists(op):
        yield Finding(name, "missing", "", "")
        return
    for dtype in dtypes_for(op) if dtypes is None else dtypes:
        grad = op.supports_autograd and dtype in op.supported_backward_dtypes("cpu")
        try:
            found = samples(op, dtype, grad, count if dtype is torch.float32 else max(count // 2, 1))
        except Exception as error:  # a fault of the database's, not ours
            warnings.warn(f"{name}: no samples of {dtype}: {error_text(error)}", stacklevel=1)
            continue
        for sample in found:
            for category, what in check_sample(op, sample, grad, values, sightings, variants):
                yield Finding(name, category, what, told(sample))


def check_sample(op: Any, sample: Any, grad: bool, values: bool, sightings: int, variants: bool) -> Iterator[tuple[str, str]]:
    case = Case(op, sample)
    try:
        case.run_theirs(op.op)
    except (Exception, adapter.Untranslatable):  # this PyTorch refuses its own sample, or the sample is sparse
        return
    failed = False
    for problem in case.forward(op.op, case.ours, "forward", sightings, values):
        failed = failed or problem[0] == "forward"
        yield problem
    if failed:
        return
    if grad and values:
        process = sample.output_process_fn_grad
        mine = adapter._rebound(process) if isinstance(process, types.FunctionType) else process
        yield from case.gradient(process, mine, sightings)
    if not variants:
        return
    m = op.method_variant
    if m is not None:
        mine = adapter.method(m)
        if mine is None:
            yield "method", f"there is no Tensor.{getattr(m, '__name__', m)}"
        else:
            yield from case.forward(m, mine, "method", 1, values)
    i = op.inplace_variant
    if i is not None:
        mine = adapter.method(i)
        if mine is None:
            yield "in-place", f"there is no Tensor.{getattr(i, '__name__', i)}"
        else:
            yield from case.in_place(i, mine, values)
    if op.supports_out:
        yield from case.out(values)


def check_layouts(op: Any, values: bool) -> Iterator[Finding]:
    """One sample of the first dtypes with its tensors transposed, in the middle of a storage, expanded, empty, and 0-d."""
    if not exists(op) or op.name in CRASHES:
        return
    for dtype in dtypes_for(op)[:2]:
        grad = op.supports_autograd and dtype in op.supported_backward_dtypes("cpu")
        for layout, sample in itertools.product(LAYOUTS, samples(op, dtype, grad, 1)):
            if layout == "expanded" and FACTORED.fullmatch(op.name):
                continue
            changed = relaid(sample, layout)
            for category, what in check_sample(op, changed, grad, values, 1, False):
                yield Finding(full_name(op), category, what, f"{layout}: {told(changed)}")


def check_refused(op: Any, values: bool) -> Iterator[Finding]:
    """A sample of each dtype that the op is not said to take: refused by both libraries, or equal results."""
    if not exists(op):
        return
    has = op.supported_dtypes("cpu")
    for dtype in [d for d in DTYPES if d not in has and d not in BAREBONES]:
        try:
            found = samples(op, dtype, False, 20, 20)
        except Exception:  # the database makes none: those of another dtype, converted
            like = dtypes_for(op)[0]
            found = [converted(sample, like, dtype) for sample in samples(op, like, False, 20, 20)]
        # PyTorch takes any dtype where there is nothing to compute, or a single number.
        found = [s for s in found if all(t.numel() > 1 for t in tensors((s.input, s.args, s.kwargs)))] or found[:1]
        for sample in found[len(found) // 2:][:1]:
            case = Case(op, sample)
            try:
                case.run_theirs(op.op)
            except adapter.Untranslatable:
                continue
            except Exception as error:
                problems = case.refusal(error)
            else:
                problems = [("refused", what) for _, what in check_sample(op, sample, False, values, 1, False)]
            for category, what in problems:
                yield Finding(full_name(op), category, what, told(sample))


def check_errors(op: Any) -> Iterator[Finding]:
    """The samples that must raise."""
    name = full_name(op)
    if op.error_inputs_func is None or not exists(op):
        return
    for sample in op.error_inputs("cpu"):
        problem = error_problem(op, sample)
        if problem is not None:
            s = sample.sample_input
            yield Finding(name, "errors", problem, f"{describe((s.input, *s.args))} {describe(s.kwargs)}")


def check_aliases(op: Any) -> Iterator[Finding]:
    """The op's other names exist, as functions and as methods."""
    for alias in op.aliases:
        if adapter.find(treadle, alias.name.removeprefix("torch.")) is None:
            yield Finding(full_name(op), "alias name", f"there is no {alias.name}", "")
        for form in (alias.method_variant, alias.inplace_variant):
            if form is not None and not hasattr(treadle.Tensor, form.__name__):
                yield Finding(full_name(op), "alias name", f"there is no Tensor.{form.__name__}", "")


def check_compiled(op: Any, values: bool) -> Iterator[Finding]:
    """One sample through `treadle.compile`, three calls: captured, captured again where state was made, replayed."""
    name = full_name(op)
    if not exists(op):
        return
    for sample in [s for dtype in dtypes_for(op)[:1] for s in samples(op, dtype, False, 2)[-1:]]:
        case = Case(op, sample)
        try:
            case.run_theirs(op.op)
        except (Exception, adapter.Untranslatable):
            continue
        for category, what in case.forward(op.op, treadle.compile(case.ours), "compiled", 3, values, memory=False):
            yield Finding(name, category, what, told(sample))


def entries() -> list[Any]:
    return list(op_db)
