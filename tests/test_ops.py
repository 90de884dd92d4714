"""Every op on every dtype it takes: results have the declared types, and 16-bit results are close to those in float64."""
from __future__ import annotations

import numpy as np
import pytest
from op_cases import CASES, build, samples_of

from treadle.ir import dtypes
from treadle.ir.builder import Builder
from treadle.ir.interpreter import DataError, decomposed, evaluate, run
from treadle.ir.op import TABLE, Kind
from treadle.ir.types import tensor_type

TOLERANCE = {dtypes.float64: 1e-12, dtypes.float32: 2e-5, dtypes.float16: 2e-2, dtypes.bfloat16: 1e-1}
# A small error of the operand moves these far: a step, a pole, a tie.
DISCONTINUOUS = {"sign", "floor", "ceil", "trunc", "round", "floor_divide", "trunc_divide", "remainder", "fmod", "eq", "ne", "lt", "le",
                 "gt", "ge",
                 "div", "reciprocal", "tan", "atan2", "argmax", "argmin", "max_dim", "min_dim", "sort", "topk", "cummax", "cummin",
                 "hardshrink", "softshrink", "threshold", "where", "cast", "any", "all", "logical_not"}


@pytest.mark.parametrize(("name", "which"), CASES)
def test_results_have_the_declared_types(name: str, which: int) -> None:
    op = TABLE[name]
    accepted = []
    for dtype in dtypes.ALL:
        try:
            graph, arrays = build(op, samples_of(op)[which], dtype)
        except (RuntimeError, TypeError, IndexError, ValueError):
            continue
        accepted.append(dtype)
        for array, value in zip(run(graph, arrays), graph.outputs, strict=True):
            assert array.shape == value.type.shape and array.dtype == value.dtype.np, (dtype, value.type)
    assert accepted, f"no dtype suits sample {which} of {name}"


@pytest.mark.parametrize("name", [n for n, op in TABLE.items() if op.reference is not None and op.decompose is not None])
def test_decomposition_equals_reference(name: str) -> None:
    op = TABLE[name]
    for sample in samples_of(op):
        graph, arrays = build(op, sample, dtypes.float32)
        node = graph.nodes[-1]
        types = tuple([v.type for v in node.inputs])
        if any(t.weak for t in types):
            continue
        expected = evaluate(op, arrays, node.attrs, types, tuple([o.type for o in node.outputs]))
        for got, want in zip(run(decomposed(op, types, node.attrs), arrays), expected, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


NARROW = [n for n, op in TABLE.items()
          if samples_of(op) and n not in DISCONTINUOUS and op.kind not in (Kind.RANDOM, Kind.EXTERN)]  # LAPACK has no 16-bit floats


@pytest.mark.parametrize("name", NARROW)
def test_narrow_floats_are_close_to_float64(name: str) -> None:
    op = TABLE[name]
    for sample in samples_of(op)[:4]:
        try:
            wide, arrays = build(op, sample, dtypes.float64)
            narrow = {d: build(op, sample, d)[0] for d in (dtypes.float32, dtypes.float16, dtypes.bfloat16)}
        except (RuntimeError, TypeError, IndexError, ValueError):
            continue  # not a floating-point op
        for dtype, graph in narrow.items():
            rounded = [a.astype(dtype.np) if a.dtype == np.float64 else a for a in arrays]
            exact = run(wide, [a.astype(np.float64) if a.dtype == dtype.np else a for a in rounded])
            for got, want in zip(run(graph, rounded), exact, strict=True):
                if want.dtype == np.float64:
                    scale = max(1.0, float(np.abs(want[np.isfinite(want)]).max(initial=0)))
                    np.testing.assert_allclose(got.astype(np.float64), want, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] * scale,
                                               err_msg=str(dtype))


# -- errors ------------------------------------------------------------------------------------------------------------------
F, D, L, B = dtypes.float32, dtypes.float64, dtypes.int64, dtypes.bool_
ERRORS = [
    ("gelu", [((3,), L)], ("none",), RuntimeError, "\"gelu\" not implemented for 'Long'"),
    ("gelu", [((3,), F)], ("erf",), RuntimeError, "approximate argument must be either none or tanh"),
    ("softmax", [((3,), F)], (1,), IndexError, r"expected to be in range of \[-1, 0\], but got 1"),
    ("mean", [((3,), L)], ((0,), False, None), RuntimeError, "could not infer output dtype"),
    ("var", [((3,), L)], ((0,), 1, False), RuntimeError, "only support floating point"),
    ("max_dim", [((3, 0), F)], (1, False), IndexError, "Expected reduction dim 1 to have non-zero size"),
    ("masked_fill", [((3,), F), ((3,), L), 0.0], (), RuntimeError, "only supports boolean masks, but got mask with dtype int64"),
    ("clamp", [((3,), F), ((4,), F), 1.0], (), RuntimeError, r"size of tensor a \(3\) must match the size of tensor b \(4\)"),
    ("addmm", [((4,), F), ((3, 5), F), ((4, 4), F), 1, 1], (), RuntimeError, "mat1 and mat2 shapes cannot be multiplied .3x5 and 4x4."),
    ("layer_norm", [((3, 4), F), 1e-5, ((5,), F)], (1,), RuntimeError, "Expected weight to be of same shape as normalized_shape"),
    ("gather", [((3, 4), F), ((3,), L)], (1,), RuntimeError, "Index tensor must have the same number of dimensions as input tensor"),
    ("gather", [((3, 4), F), ((3, 4), F)], (1,), RuntimeError, "Expected dtype int32 or int64 for index"),
    ("gather", [((3, 4), F), ((5, 2), L)], (1,), RuntimeError,
     r"expected index \[5, 2\] to be no larger than self \[3, 4\] apart from dimension 1"),
    ("scatter_add", [((3, 4), F), ((3, 2), L), ((3, 2), D)], (1,), RuntimeError, "Expected self.dtype to be equal to src.dtype"),
    ("index", [((3, 4), F), ((2,), L), ((3,), L)], ((0, 1),), IndexError, "indexing tensors could not be broadcast together"),
    ("index_put", [((3, 4), F), ((5,), F), ((2,), L)], ((0,), False), RuntimeError, "cannot be broadcast|must match"),
    ("embedding", [((3, 4), F), ((2,), F)], (-1, False), RuntimeError, "'indices' to have one of the following scalar types: Long, Int"),
    ("cross_entropy", [((3, 4), F), ((2,), L), 0.0], ("mean", -100), ValueError,
     r"Expected input batch_size \(3\) to match target batch_size \(2\)"),
    ("cross_entropy", [((3, 4), F), ((3,), L), 0.0], ("avg", -100), ValueError, "avg is not a valid value for reduction"),
    ("bce", [((3,), F), ((4,), F)], ("mean",), ValueError, "Using a target size"),
]


@pytest.mark.parametrize(("name", "operands", "attrs", "error", "text"), ERRORS)
def test_type_rules_explain_mistakes(name: str, operands: list, attrs: tuple, error: type[Exception], text: str) -> None:
    b = Builder()
    values = [o if isinstance(o, (int, float)) else b.input(tensor_type(*o)) for o in operands]
    with pytest.raises(error, match=text):
        b.apply(TABLE[name], tuple(values), attrs)


@pytest.mark.parametrize(("name", "shapes", "index", "attrs"), [
    ("gather", [(5, 2)], [[0, 7]], (0,)), ("index_select", [(5, 2)], [7], (0,)), ("index", [(5, 2)], [7], ((0,),)),
    ("embedding", [(5, 2)], [7], (-1, False))])
def test_an_index_out_of_range_is_named(name: str, shapes: list, index: list, attrs: tuple) -> None:
    graph, arrays = build(TABLE[name], ((*shapes, np.array(index)), attrs), dtypes.float32)
    with pytest.raises(DataError, match="index 7 is out of bounds for dimension 0 with size 5") as caught:
        run(graph, arrays)
    assert isinstance(caught.value.error, IndexError)
