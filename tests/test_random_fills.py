"""Tensors filled with random draws in place: distributions, seeds, errors."""
from __future__ import annotations

import math

import numpy as np
import pytest

import treadle
from treadle.ir import dtypes
from treadle.ir.builder import Builder
from treadle.ir.interpreter import run
from treadle.ir.ops.draws import cos_of_turns, exp_of, log_of_unit
from treadle.ir.random_reference import philox_bits
from treadle.ir.types import tensor_type


def draws(name: str, *args: float, count: int = 40_000) -> treadle.Tensor:
    treadle.manual_seed(0)
    return getattr(treadle.empty(count), name)(*args)


def test_distributions() -> None:
    cauchy = draws("cauchy_", 2.0, 3.0)
    quartiles = treadle.quantile(cauchy[:10_000], treadle.tensor([0.25, 0.5, 0.75])).tolist()
    assert all(abs(found - want) < 0.2 for found, want in zip(quartiles, (-1.0, 2.0, 5.0), strict=True))
    trials = draws("geometric_", 0.3)
    assert float(trials.min()) == 1.0 and abs(float(trials.mean()) - 1 / 0.3) < 0.06
    assert abs(float((trials == 2).float().mean()) - 0.3 * 0.7) < 0.01
    whole = treadle.empty(1000, dtype=treadle.int64).geometric_(0.5)
    assert whole.dtype is treadle.int64 and int(whole.min()) == 1
    assert abs(float(draws("exponential_", 2.0).mean()) - 0.5) < 0.01
    assert abs(float(draws("log_normal_", 0.0, 0.5).log().std()) - 0.5) < 0.01


@pytest.mark.parametrize(("name", "args"), [("cauchy_", ()), ("geometric_", (0.5,)), ("normal_", ()), ("random_", (9,))])
def test_same_seed_same_draws(name: str, args: tuple[float, ...]) -> None:
    """To the last bit once compiled; the interpreter's logarithms and sines may end in another bit."""
    interpreted, compiled, again = (draws(name, *args, count=100).tolist() for _ in range(3))
    assert compiled == again and all(map(math.isfinite, compiled))
    assert interpreted == pytest.approx(compiled, rel=1e-5)


@pytest.mark.parametrize(("name", "args", "text"), [
    ("cauchy_", (0.0, 0.0), "sigma > 0"), ("geometric_", (0.0,), r"in \(0, 1\)"), ("geometric_", (1.0,), r"in \(0, 1\)"),
    ("normal_", (0.0, -1.0), "std >= 0")])
def test_mistakes(name: str, args: tuple[float, ...], text: str) -> None:
    with pytest.raises(RuntimeError, match=text):
        draws(name, *args)


def test_shapes_from_others() -> None:
    x = treadle.arange(6.0)
    assert x.resize_as_(treadle.zeros(2, 2)).tolist() == [[0.0, 1.0], [2.0, 3.0]]
    assert x.new_empty_strided((2, 3), (1, 2)).stride() == (1, 2)
    assert treadle.empty_strided((2, 3), (1, 2), dtype=treadle.int64).dtype is treadle.int64


FILLS = {"normal": lambda x: x.normal_(1.0, 2.0), "exponential": lambda x: x.exponential_(0.5), "cauchy": lambda x: x.cauchy_(1.0, 3.0),
         "geometric": lambda x: x.geometric_(0.2), "log_normal": lambda x: x.log_normal_(0.5, 20.0),
         "uniform": lambda x: x.uniform_(-1, 1), "randn": lambda x: treadle.randn(x.shape)}


@pytest.mark.parametrize("name", FILLS)
def test_draws_are_the_same_bits_interpreted_and_compiled(name: str) -> None:
    def draw() -> np.ndarray:
        treadle.manual_seed(5)
        return FILLS[name](treadle.empty(3, 1001)).numpy()
    first, before = draw(), treadle.stats()["compiled_runs"]
    for _ in range(3):
        np.testing.assert_array_equal(draw(), first)
    assert treadle.stats()["compiled_runs"] > before


def test_draws_are_accurate_to_the_ends() -> None:
    """Logarithm and cosine as draws compute them, against float64, at all powers of two and near one, and over all turns."""
    exponents = np.arange(25)
    near = np.concatenate([2.0 ** -exponents, 1 - np.arange(64) * 2.0 ** -24, np.arange(1, 4097) * 2.0 ** -12]).astype(np.float32)
    b = Builder()
    x = b.input(tensor_type(near.shape, dtypes.float32))
    b.graph.outputs = [log_of_unit(b, x), cos_of_turns(b, x)]
    log, cos = run(b.graph, [near])
    np.testing.assert_allclose(log, np.log(near.astype(np.float64)), rtol=2e-7)
    np.testing.assert_allclose(cos, np.cos(2 * np.pi * near.astype(np.float64)), atol=2e-7)
    assert not log[near == 1].any() and not cos[near == 0.25].any()


def test_the_exponential_of_draws_is_accurate() -> None:
    b = Builder()
    given = np.concatenate([np.linspace(-87.3, 88.7, 5001), [-200.0, 200.0, 0.0]]).astype(np.float32)
    b.graph.outputs = [exp_of(b, b.input(tensor_type(given.shape, dtypes.float32)))]
    with np.errstate(over="ignore"):
        found, = run(b.graph, [given])
    np.testing.assert_allclose(found[:-3], np.exp(given[:-3].astype(np.float64)), rtol=2e-7)
    assert found[-3:].tolist() == [0.0, np.inf, 1.0]


@pytest.mark.parametrize("n", [0, 1, 2, 5, 1000, 70_000])
def test_permutations_are_recorded(n: int) -> None:
    """By Philox's definition, interpreted and compiled; a compiled function draws anew at each call."""
    half = (n + 3) // 4
    for seed in (3, 3, 4):
        words = philox_bits(seed, 0, n).astype(np.uint64) << np.uint64(32) | philox_bits(seed, half, n)
        assert treadle.randperm(n, generator=treadle.Generator().manual_seed(seed)).tolist() == words.argsort(kind="stable").tolist()
    step = treadle.compile(lambda: treadle.randperm(n))
    treadle.manual_seed(5)
    expected = [treadle.randperm(n).tolist() for _ in range(4)]
    treadle.manual_seed(5)
    assert [step().tolist() for _ in range(4)] == expected


def test_permutations_fit_their_dtype() -> None:
    assert sorted(treadle.randperm(256, dtype=treadle.uint8).tolist()) == list(range(256))
    assert treadle.randperm(6, dtype=treadle.float16).dtype is treadle.float16
    for n, dtype, error in ((257, treadle.uint8, RuntimeError), (2050, treadle.float16, RuntimeError), (-1, None, RuntimeError),
                            (5, treadle.bool, NotImplementedError), (5, treadle.complex64, NotImplementedError)):
        with pytest.raises(error, match=r"overflow|greater than 2049|not implemented for|negative dimension"):
            treadle.randperm(n, dtype=dtype)
