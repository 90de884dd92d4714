"""The array API standard: signatures and results as in array_api_strict, which is numpy behind the standard's rules."""
from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import treadle
from treadle import array_api as xp

strict = pytest.importorskip("array_api_strict", reason="array-api-strict, the oracle of the standard, is not installed")
strict.set_array_api_strict_flags(api_version="2025.12")  # what 2024.12 has, and `isin` and `broadcast_shapes`

SKIPPED = {"uint16", "uint32", "uint64"}  # dtypes that do not exist here
OWN = {"ArrayAPIStrictFlags", "Device", "get_array_api_strict_flags", "reset_array_api_strict_flags", "set_array_api_strict_flags",
       "__version__"}
SPACES = ["", "linalg", "fft"]
NAMES = [(space, name) for space in SPACES for name in (getattr(strict, space) if space else strict).__all__ if name not in OWN | SKIPPED]
RNG = np.random.default_rng(0)
FLOATS = RNG.uniform(0.2, 0.9, (3, 4)).astype(np.float32)
INTS = RNG.integers(1, 6, (3, 4))
BOOLS = RNG.integers(0, 2, (3, 4)).astype(bool)
COMPLEX = (FLOATS + 1j * FLOATS[::-1]).astype(np.complex64)
CUBE = RNG.uniform(-1, 1, (2, 3, 4)).astype(np.float64)
SQUARE = (CUBE[:, :, :3] + 3 * np.eye(3)).copy()
SYMMETRIC = SQUARE + SQUARE.swapaxes(-1, -2)
POSITIVE = SQUARE @ SQUARE.swapaxes(-1, -2) + np.eye(3)


def space_of(module: Any, space: str) -> Any:
    return getattr(module, space) if space else module


def parameters(function: Any) -> list[tuple[str, Any]]:
    return [(p.name, p.kind) for p in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize(("space", "name"), NAMES)
def test_every_name_is_there_with_its_parameters(space: str, name: str) -> None:
    theirs, ours = getattr(space_of(strict, space), name), getattr(space_of(xp, space), name)
    if inspect.isfunction(theirs):
        assert parameters(ours) == parameters(theirs)
        assert ours.__doc__ and ours.__name__ == name


def to(namespace: Any, value: Any) -> Any:
    """Arrays of a call, in either namespace; dtypes by name."""
    if isinstance(value, np.ndarray):
        return namespace.asarray(value.tolist(), dtype=getattr(namespace,
        value.dtype.name)) if namespace is xp else namespace.asarray(value)
    if isinstance(value, (list, tuple)) and any(isinstance(v, np.ndarray) for v in value):
        return type(value)([to(namespace, v) for v in value])
    if isinstance(value, str) and value.startswith("dtype:"):
        return getattr(namespace, value[6:])
    return value


def same(ours: Any, theirs: Any) -> None:
    if isinstance(theirs, (tuple, list)):
        assert len(ours) == len(theirs)
        if hasattr(theirs, "_fields"):
            assert ours._fields == theirs._fields
        for a, b in zip(ours, theirs, strict=True):
            same(a, b)
    elif hasattr(theirs, "dtype"):
        want = np.asarray(theirs)
        got = np.asarray(ours.numpy())
        assert (got.shape, got.dtype) == (want.shape, want.dtype)
        np.testing.assert_allclose(got, want, rtol=3e-5, atol=1e-6)
    else:
        assert ours == theirs


UNARY_FLOAT = ["acos", "asin", "atan", "atanh", "cos", "cosh", "exp", "expm1", "log", "log10", "log1p", "log2", "sin", "sinh", "sqrt",
               "tan", "tanh", "asinh", "reciprocal", "floor", "ceil", "trunc", "round", "abs", "sign", "square", "negative", "positive",
               "isnan", "isinf", "isfinite", "signbit"]
BINARY = ["add", "subtract", "multiply", "divide", "pow", "remainder", "floor_divide", "maximum", "minimum", "atan2", "hypot", "copysign",
          "logaddexp", "nextafter", "less", "less_equal", "greater", "greater_equal", "equal", "not_equal"]
CALLS: list[tuple[str, tuple, dict]] = [
    *[(name, (FLOATS,), {}) for name in UNARY_FLOAT], ("acosh", (FLOATS + 1,), {}),
    *[(name, (INTS,), {}) for name in ("abs", "ceil", "floor", "trunc", "round", "sign", "square", "negative", "bitwise_invert")],
    *[(name, (COMPLEX,), {}) for name in ("abs", "conj", "real", "imag", "exp", "sqrt", "square", "sign", "round", "isfinite")],
    *[(name, (FLOATS, FLOATS[1]), {}) for name in BINARY],
    *[(name, (FLOATS, np.asarray(0.5, np.float64)), {}) for name in ("add", "multiply", "maximum")],  # a 0-d array counts in promotion
    *[(name, (INTS, 2), {}) for name in ("add", "pow", "remainder", "floor_divide", "bitwise_left_shift", "bitwise_and", "less")],
    *[(name, (2, INTS), {}) for name in ("subtract", "greater", "bitwise_or", "bitwise_right_shift", "bitwise_xor", "equal")],
    *[(name, (BOOLS, BOOLS[::-1].copy()), {}) for name in ("logical_and", "logical_or", "logical_xor", "equal", "bitwise_and")],
    ("logical_not", (BOOLS,), {}), ("clip", (FLOATS, 0.3, 0.5), {}), ("clip", (INTS, 2), {}), ("clip", (FLOATS,), {"max": FLOATS[0]}),
    ("arange", (5,), {}), ("arange", (1, 8, 3), {}), ("arange", (5, 1, -2), {}), ("arange", (3, 1), {}),
    ("arange", (4,), {"dtype": "dtype:int8"}),
    ("eye", (3,), {}), ("eye", (2, 4), {"k": 1}), ("eye", (3, 3), {"k": -1, "dtype": "dtype:int64"}),
    ("full", ((2, 3), 7), {}), ("full", (3, True), {}), ("full_like", (INTS, 2), {}), ("linspace", (0.0, 1.0, 5), {}),
    ("linspace", (0.0, 1.0, 5), {"endpoint": False}), ("ones", ((2, 2),), {}), ("zeros_like", (INTS,), {}),
    ("meshgrid", (FLOATS[0], FLOATS[1]), {}),
    ("meshgrid", (FLOATS[0], FLOATS[1]), {"indexing": "ij"}), ("tril", (CUBE,), {"k": 1}), ("triu", (CUBE,), {"k": -1}),
    ("astype", (FLOATS, "dtype:int32"), {}), ("astype", (INTS, "dtype:bool"), {}),
    ("broadcast_arrays", (FLOATS, FLOATS[0]), {}), ("broadcast_to", (FLOATS[0], (2, 4)), {}), ("broadcast_shapes", ((3, 1), (4,)), {}),
    ("concat", ([FLOATS, FLOATS],), {}), ("concat", ([FLOATS, CUBE[0]],), {"axis": None}), ("concat", ((INTS, INTS),), {"axis": -1}),
    ("expand_dims", (FLOATS, 1), {}), ("expand_dims", (FLOATS, -1), {}), ("flip", (FLOATS,), {}), ("flip", (CUBE,), {"axis": (0, -1)}),
    ("moveaxis", (CUBE, 0, -1), {}), ("permute_dims", (CUBE, (2, 0, 1)), {}), ("repeat", (INTS, 2), {}),
    ("repeat", (INTS, 2), {"axis": 1}),
    ("repeat", (INTS, np.array([1, 0, 2])), {"axis": 0}), ("reshape", (CUBE, (4, -1)), {}), ("roll", (INTS, 2), {}),
    ("roll", (INTS, (1, 2)), {"axis": (0, 1)}), ("squeeze", (CUBE[:, :1], 1), {}), ("stack", ([INTS, INTS],), {"axis": 1}),
    ("tile", (INTS, (2, 1, 2)), {}), ("tile", (CUBE, (2,)), {}), ("unstack", (CUBE,), {"axis": 1}),
    ("argmax", (FLOATS,), {}), ("argmax", (FLOATS,), {"axis": 1, "keepdims": True}), ("argmin", (FLOATS,), {"keepdims": True}),
    ("argsort", (FLOATS,), {"descending": True}), ("sort", (INTS,), {"axis": 0}), ("sort", (FLOATS,), {"descending": True}),
    ("count_nonzero", (BOOLS,), {}), ("count_nonzero", (INTS - 1,), {"axis": 1, "keepdims": True}), ("isin", (INTS, INTS[0, :2]), {}),
    ("isin", (INTS, 3), {}), ("nonzero", (BOOLS,), {}), ("searchsorted", (np.array([1, 3, 5]), INTS), {"side": "right"}),
    ("take", (CUBE, np.array([2, 0])), {"axis": 1}), ("take", (INTS[0], np.array([1, 1])), {}),
    ("take_along_axis", (FLOATS, np.array([[0, 2], [1, 1], [3, 0]])), {}), ("unique_all", (INTS,), {}), ("unique_counts", (INTS,), {}),
    ("unique_inverse", (INTS,), {}), ("unique_values", (np.array([2.0, 1.0, 2.0], np.float32),), {}), ("where", (BOOLS, FLOATS, 0.0), {}),
    ("where", (BOOLS, INTS, INTS[0]), {}), ("where", (BOOLS, FLOATS, CUBE[0]), {}),
    *[(name, (BOOLS,), args) for name in ("all", "any") for args in ({}, {"axis": (0, 1)}, {"axis": 1, "keepdims": True})],
    *[(name, (CUBE,), args) for name in ("max", "min", "mean", "sum", "prod", "std", "var")
      for args in ({}, {"axis": 1}, {"axis": (0, -1), "keepdims": True})],
    ("sum", (INTS.astype(np.int8),), {}), ("prod", (INTS.astype(np.int16),), {"axis": 0}),
    ("sum", (BOOLS.astype(np.int64),), {"dtype": "dtype:float64"}),
    ("var", (CUBE,), {"axis": 2, "correction": 1.0}), ("sum", (COMPLEX,), {"axis": 0}), ("mean", (COMPLEX,), {}),
    ("cumulative_sum", (INTS,), {"axis": 1}), ("cumulative_sum", (INTS[0],), {"include_initial": True}),
    ("cumulative_prod", (FLOATS,), {"axis": 0, "include_initial": True}), ("diff", (CUBE,), {"n": 2}),
    ("diff", (INTS,), {"axis": 0, "append": INTS}),
    ("matmul", (CUBE, CUBE[0].T.copy()), {}), ("matrix_transpose", (CUBE,), {}), ("tensordot", (CUBE, CUBE), {"axes": ((0, 2), (0, 2))}),
    ("tensordot", (FLOATS, FLOATS.T.copy()), {"axes": 1}), ("vecdot", (COMPLEX, COMPLEX[0]), {}), ("vecdot", (CUBE, CUBE), {"axis": -2}),
    ("result_type", (FLOATS, "dtype:float64", 1.0), {}), ("can_cast", ("dtype:int8", "dtype:int16"), {}),
    ("can_cast", ("dtype:float64", "dtype:float32"), {}), ("isdtype", ("dtype:int8", "integral"), {}),
    ("isdtype", ("dtype:uint8", ("signed integer", "real floating")), {}),
    ("linalg.cholesky", (POSITIVE,), {}), ("linalg.cholesky", (POSITIVE,), {"upper": True}), ("linalg.cross", (SQUARE, SQUARE[:1]), {}),
    ("linalg.det", (SQUARE,), {}), ("linalg.diagonal", (CUBE,), {"offset": 1}), ("linalg.eigvalsh", (SYMMETRIC,), {}),
    ("linalg.inv", (SQUARE,), {}),
    ("linalg.matrix_norm", (CUBE,), {}), ("linalg.matrix_norm", (CUBE,), {"ord": 2, "keepdims": True}),
    ("linalg.matrix_power", (SQUARE, 3), {}),
    ("linalg.matrix_rank", (CUBE,), {}), ("linalg.outer", (FLOATS[0], FLOATS[1]), {}), ("linalg.pinv", (CUBE,), {}),
    ("linalg.slogdet", (SQUARE,), {}),
    ("linalg.solve", (SQUARE, SQUARE[0]), {}), ("linalg.solve", (SQUARE, SQUARE[0, 0]), {}), ("linalg.svdvals", (CUBE,), {}),
    ("linalg.trace", (INTS,), {}), ("linalg.vector_norm", (CUBE,), {}),
    ("linalg.vector_norm", (CUBE,), {"axis": (0, 1), "ord": 1, "keepdims": True}),
    *[(f"fft.{name}", (COMPLEX,), args) for name in ("fft", "ifft", "hfft", "irfft") for args in ({}, {"n": 3, "axis": 0,
    "norm": "ortho"})],
    *[(f"fft.{name}", (FLOATS,), {}) for name in ("rfft", "ihfft", "rfftn")], ("fft.fftn", (COMPLEX,), {"axes": (0,)}),
    ("fft.fftfreq", (5,), {"d": 0.5}), ("fft.rfftfreq", (5,), {}), ("fft.fftshift", (FLOATS,), {"axes": 1}),
    ("fft.ifftshift", (FLOATS,), {}),
]


@pytest.fixture
def wide_default() -> Iterator[None]:
    """The strict namespace makes float64; the standard leaves it open."""
    treadle.set_default_dtype(treadle.float64)
    yield
    treadle.set_default_dtype(treadle.float32)


@pytest.mark.usefixtures("wide_default")
@pytest.mark.parametrize(("name", "args", "named"), CALLS, ids=[f"{name}-{i}" for i, (name, *_) in enumerate(CALLS)])
def test_results_are_those_of_the_standard(name: str, args: tuple, named: dict) -> None:
    results = []
    for namespace in (xp, strict):
        function = namespace
        for part in name.split("."):
            function = getattr(function, part)
        results.append(function(*[to(namespace, a) for a in args], **{k: to(namespace, v) for k, v in named.items()}))
    ours, theirs = results
    if isinstance(theirs, strict._dtypes.DType):
        assert ours is getattr(xp, theirs._np_dtype.name)
    else:
        same(ours, theirs)


def test_default_real_dtype_is_float32() -> None:
    info = xp.__array_namespace_info__()
    assert info.default_dtypes()["real floating"] is treadle.float32 and info.default_device() == treadle.device("cpu")
    assert set(info.dtypes(kind="integral")) == {"int8", "int16", "int32", "int64", "uint8"}
    assert info.capabilities()["boolean indexing"] and treadle.device("cpu") in info.devices()


def test_decompositions_rebuild_the_matrix() -> None:
    x = xp.asarray(SQUARE)
    u, s, vh = xp.linalg.svd(x)
    q, r = xp.linalg.qr(x)
    values, vectors = xp.linalg.eigh(xp.asarray(SYMMETRIC))
    for found, wanted in ((u * s[:, None, :] @ vh, SQUARE), (q @ r, SQUARE),
                          (vectors * values[:, None, :] @ xp.matrix_transpose(vectors), SYMMETRIC)):
        np.testing.assert_allclose(found.numpy(), wanted, atol=1e-12)


def test_the_array_object() -> None:
    x = treadle.ones(2, 3)
    assert x.__array_namespace__() is x.__array_namespace__(api_version="2024.12") is xp
    with pytest.raises(ValueError, match=r"version '2030.01' .* up to 2024.12"):
        x.__array_namespace__(api_version="2030.01")
    assert x.size == 6 and x.size() == (2, 3) and x.size(-1) == 3 and treadle.Tensor.size(x) == (2, 3)
    assert x.to_device(x.device).device == x.device and x.mT.shape == (3, 2)
    assert complex(treadle.tensor(1 + 2j)) == 1 + 2j


@pytest.mark.parametrize(("call", "error", "text"), [
    (lambda x: xp.squeeze(x, 0), ValueError, r"squeeze: axis 0 of an array of shape \(2, 3\) has size 2, not 1"),
    (lambda x: xp.add(1, 2), TypeError, "add: at least one operand must be an array"),
    (lambda x: xp.add(x, "a"), TypeError, "add: expected arrays or Python numbers, got str"),
    (lambda x: xp.add(xp.astype(x, xp.int32), 1.5), TypeError, "a Python float cannot be combined with an array of int32"),
    (lambda x: xp.sin([1.0]), TypeError, "sin: expected an array, got list"),
    (lambda x: xp.cumulative_sum(x), ValueError, "axis is needed for an array of 2 axes"),
    (lambda x: xp.nonzero(x[0, 0]), ValueError, "nonzero: expected an array of one axis at least"),
    (lambda x: xp.isdtype(x.dtype, "floaty"), ValueError, "unknown kind 'floaty'"),
    (lambda x: xp.asarray([1.0], copy=False), ValueError, "cannot be used without a copy"),
    (lambda x: xp.astype(xp.astype(x, xp.complex64), xp.float32), TypeError, "complex numbers cannot become real ones"),
    (lambda x: xp.broadcast_shapes((2,), (3,)), ValueError, "must match"),
    (lambda x: xp.matrix_transpose(x[0]), ValueError, "expected two axes at least"),
])
def test_mistakes_are_explained(call: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call(xp.ones((2, 3)))


def test_gradients_flow_through_the_namespace() -> None:
    x = treadle.tensor([1.0, 2.0], requires_grad=True)
    xp.sum(xp.square(x) * 3.0).backward()
    assert x.grad.tolist() == [6.0, 12.0]


CONSUMERS = """
import numpy as np, sklearn, scipy.stats, scipy.special, scipy.fft, treadle
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.preprocessing import MinMaxScaler, StandardScaler

plain = np.random.default_rng(0).normal(size=(40, 4))
x = treadle.tensor(plain)

def check(function):
    found, wanted = function(x), function(plain)
    assert isinstance(found, treadle.Tensor), found
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-9, atol=1e-12)

with sklearn.config_context(array_api_dispatch=True):
    check(lambda x: StandardScaler().fit_transform(x))
    check(lambda x: MinMaxScaler().fit_transform(x))
    check(lambda x: PCA(2, svd_solver="full").fit_transform(x))
    check(lambda x: Ridge(solver="svd").fit(x, x[:, 0]).predict(x))
check(lambda x: scipy.stats.zscore(x))
check(lambda x: scipy.stats.skew(x))
check(lambda x: scipy.stats.ttest_1samp(x, 0.1).pvalue)
check(lambda x: scipy.special.logsumexp(x, axis=1))
check(lambda x: scipy.fft.rfft(x, axis=0).real)
"""


def test_scikit_learn_and_scipy_compute_with_tensors() -> None:
    """Programs that know the standard and nothing of Treadle."""
    pytest.importorskip("sklearn")
    environment = {**os.environ, "SCIPY_ARRAY_API": "1"}
    done = subprocess.run([sys.executable, "-c", CONSUMERS], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_array_api_compat_finds_the_namespace() -> None:
    compat = pytest.importorskip("array_api_compat", reason="array-api-compat is not installed")
    x = treadle.tensor(CUBE[0])
    assert compat.array_namespace(x) is xp
    assert compat.size(x) == 12 and compat.device(x) == x.device and compat.is_array_api_obj(x)


def test_importing_treadle_does_not_load_the_namespace() -> None:
    code = "import sys, treadle; sys.exit('treadle.array_api' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
