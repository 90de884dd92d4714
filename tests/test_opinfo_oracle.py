"""PyTorch's OpInfo samples run by both libraries: values, dtypes, shapes, aliasing, gradients, methods, in-place and `out=` forms, errors.

`pytest -m oracle` takes a few samples of every op; `pytest -m sweep` takes more, with every form and all error samples. Names that Treadle
lacks are no failures: `test_enough_names` counts them.
"""
from __future__ import annotations

import re
from typing import Any

import pytest

PARTS = 24
_TIES = "PyTorch does not say which of equal elements comes first; here it is the earliest"
_RANDOM = "draws differ: only dtypes and shapes are compared"
_LAYOUT = "values have one layout: memory_format makes no copy"
_NO_OUT = "`out` is a keyword of PyTorch's binding only, in no documentation"

# What differs deliberately: (pattern of the op's name, category, pattern of "what differs | sample" or None for any): reason.
KNOWN: dict[tuple[str, str, str | None], str] = {
    (r".*", "refused", r"no error instead of NotImplementedError"): "a dtype that PyTorch has no CPU kernel for",
    (r".*", "refused", r"^NotImplementedError(?!.* instead of)"): "PyTorch computes what its own table of dtypes leaves out",
    (r"nn\.functional\.linear_cross_entropy.*", "refused", r"acc_dtype"): "another argument is looked at first",
    (r"nn\.functional\.linear_cross_entropy.*", "grad", r"\| expanded"): "a sum of 16-bit numbers that is 0 but for rounding",
    (r"nn\.functional\.multi_margin_loss", "forward", r"\| empty"): "PyTorch returns memory that nobody has written",
    (r"(special\.)?polygamma.*", "forward", r"got inf"): "a pole is infinite",
    (r"randint", "refused", None): "any dtype takes the integers drawn",
    (r"linalg\..*|svd", "refused", r"^RuntimeError: .*Expected a floating point tensor in float32"): "PyTorch looks only where a matrix is",
    (r"masked\.logsumexp", "forward", r"value.* \| .*\(u?int"): "the logarithm of nothing, -inf, has no integer",
    (r"masked\..*", "refused", r"torch\.iinfo"): "complex numbers under a mask, where PyTorch trips over its own check",
    (r"native_(group|layer)_norm", "forward", r"value.* \| (transposed|expanded)"): "PyTorch reads the memory as if it were contiguous",
    (r".*", "refused", r"ComplexHalf|Unrecognized ScalarType: C"): "32-bit complex numbers, of which PyTorch's CPU leaves out more",
    (r"isin", "refused", r"Unsupported input type"): "all dtypes are compared",
    (r"as_strided_scatter", "forward", r"out of bounds.*expanded"): "the places are those of the input's storage, of which there are fewer",
    (r"_batch_norm_with_update", "forward", r"written-to tensor.*expanded"): "expanded statistics have one place for all channels: refused",
    (r"(sort|msort|kthvalue|topk|mode|median|nanmedian)(\..*)?", "grad|compiled", r"value"): _TIES,
    (r"(bool|byte|char|c?double|c?float|half|bfloat16|int|long|short|to|contiguous|clone)(\..*)?", "alias|strides", None): _LAYOUT,
    (r"nn\.functional\.(avg_pool.*|gelu|hardshrink|linear|logsigmoid|softplus|softshrink)", "out", r"unexpected keyword"): _NO_OUT,
    (r"cholesky_(inverse|solve)", "grad", r"value"): "the factor's other triangle, which is not read, gets a zero gradient",
    (r"as_strided_scatter", "grad", r"value"): "the input's gradient is zero where it was overwritten, and only there",
    (r"as_strided(\.partial_views)?", "alias", r"does not share"):
        "of a leaf that is a view of a larger storage: its own elements, with gradients, are copied among the others",
    (r"nn\.functional\.ctc_loss", "grad", r"value"): "the derivative itself; PyTorch's is the same after log_softmax",
    (r"nn\.functional\.soft_margin_loss", "forward", r"Expected inf|difference: inf"): "does not overflow in 16 bits",
    (r"special\.bessel_(j0|j1|y0|y1)", "forward|compiled|out", r"value"): "scipy's value in float64, nearer to the truth",
    (r"matrix_exp", "forward|compiled", r"value.* \| .*\(b?float16"): "16 bits are computed in float32, which does not overflow on the way",
}
# Results are random, or memory nobody has written: only dtypes and shapes are compared.
RANDOM = re.compile(r"""normal|uniform|cauchy|exponential|geometric|log_normal|bernoulli|multinomial|rand.*|
    nn\.functional\.(.*dropout.*|rrelu|fractional_max_pool[23]d|scaled_dot_product_attention|multi_head_attention_forward)|(new_)?empty.*|svd_lowrank|pca_lowrank""",
                    re.VERBOSE)


def unexpected(findings: Any) -> list[str]:
    """One line for each finding that is not in the table."""
    lines = {}
    for f in findings:
        told = f"{f.text} | {f.sample}"
        known = any(re.fullmatch(name, f.name) and re.fullmatch(category, f.category) and (what is None or re.search(what, told))
                    for name, category, what in KNOWN)
        if f.category != "missing" and not known:
            lines.setdefault((f.name, f.category, f.text[:40]), f"{f.name} [{f.category}]: {f.text} | {f.sample[:300]}")
    return list(lines.values())


@pytest.fixture(scope="module")
def sweep() -> Any:
    pytest.importorskip("torch", reason="PyTorch, the oracle, is not installed")
    pytest.importorskip("expecttest", reason="PyTorch's test helpers need expecttest")
    import opinfo_sweep
    return opinfo_sweep


def values_compared(op: Any) -> bool:
    return re.fullmatch(RANDOM, op.name) is None


@pytest.mark.oracle
@pytest.mark.parametrize("part", range(PARTS))
def test_two_samples(sweep: Any, part: int) -> None:
    """Two float32 samples of each op twice over, with gradients."""
    found: list[Any] = []
    for op in sweep.entries()[part::PARTS]:
        found += sweep.check_op(op, 2, values_compared(op), dtypes=sweep.dtypes_for(op)[:1], variants=False)
    assert not unexpected(found), "\n".join(unexpected(found))


@pytest.mark.sweep
@pytest.mark.parametrize("part", range(PARTS))
def test_every_form(sweep: Any, part: int) -> None:
    """Samples of several dtypes, with methods, in-place and `out=` forms, other names and the samples that must raise."""
    found: list[Any] = []
    for op in sweep.entries()[part::PARTS]:
        found += [*sweep.check_op(op, 2, values_compared(op)), *sweep.check_errors(op), *sweep.check_aliases(op)]
    assert not unexpected(found), "\n".join(unexpected(found))


@pytest.mark.sweep
@pytest.mark.parametrize("part", range(PARTS))
def test_every_dtype(sweep: Any, part: int) -> None:
    """A sample of each dtype that the other tests leave out, with its forms; other layouts; and dtypes that must be refused."""
    found: list[Any] = []
    for op in sweep.entries()[part::PARTS]:
        values = values_compared(op)
        others = sweep.other_dtypes(op)
        found += [*sweep.check_op(op, 1, values, 1, dtypes=others), *sweep.check_layouts(op, values), *sweep.check_refused(op, values)]
    assert not unexpected(found), "\n".join(unexpected(found))


@pytest.mark.sweep
@pytest.mark.parametrize("part", range(PARTS))
def test_compiled_calls(sweep: Any, part: int) -> None:
    """A sample of each op as a compiled function, captured and replayed."""
    found = [f for op in sweep.entries()[part::PARTS] for f in sweep.check_compiled(op, values_compared(op))]
    assert not unexpected(found), "\n".join(unexpected(found))


@pytest.mark.oracle
def test_enough_names(sweep: Any) -> None:
    """Of the 636 names that PyTorch's tests know, those that Treadle has."""
    names = {op.name: op for op in sweep.entries()}
    missing = sorted(name for name, op in names.items() if not sweep.exists(op))
    assert len(names) - len(missing) >= 627, missing
