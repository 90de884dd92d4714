"""Mathematical functions in LLVM IR against numpy and scipy in higher precision: random, special and huge values."""
from __future__ import annotations

import ctypes
import functools
import math
from typing import Any

import numpy as np
import pytest

from treadle.codegen.jit import CompiledModule, compile_text
from treadle.codegen.llvm_text import Function, Module, Val, const, vector_type
from treadle.codegen.maths import BINARY, MATHS, PREDICATES
from treadle.codegen.maths_core import format_of

special = pytest.importorskip("scipy.special")

LANES = {"float": (1, 8, 16), "double": (1, 4)}
TYPES: dict[str, Any] = {"float": np.float32, "double": np.float64}


def emit(module: Module, name: str, scalar: str, lanes: int) -> None:
    """`void name(ptr out, ptr a, ptr b, i64 n)`: n a multiple of the lanes."""
    params = [Val("ptr", "%out"), Val("ptr", "%a"), Val("ptr", "%b"), Val("i64", "%n")]
    f = Function(module, f"{name}_{scalar}_{lanes}", params)
    ty = vector_type(scalar, lanes)
    align = 4 if scalar == "float" else 8
    with f.loop(const("i64", 0), params[3], lanes) as loop:
        args = [f.load(f.gep(p, loop.index, scalar), ty, align) for p in params[1:3 if name in BINARY else 2]]
        y = MATHS[name](f, *args)
        if name in PREDICATES:
            y = f.cast("uitofp", y, scalar)
        f.store(y, f.gep(params[0], loop.index, scalar), align)
        loop.next([])
    f.line("ret void")
    f.finish()


@functools.cache
def library(scalar: str) -> CompiledModule:
    module = Module()
    for name in MATHS:
        for lanes in LANES[scalar]:
            emit(module, name, scalar, lanes)
    return compile_text(module.text(), passes=False)


def run(name: str, scalar: str, lanes: int, a: np.ndarray, b: np.ndarray | None = None) -> np.ndarray:
    """Apply the compiled function to arrays, padding to full vectors."""
    n = -(-a.size // 16) * 16
    padded = [np.resize(v if v is not None else a, n).astype(TYPES[scalar]) for v in (a, b)]
    out = np.empty(n, TYPES[scalar])
    entry = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3, ctypes.c_int64)(library(scalar).address(f"{name}_{scalar}_{lanes}"))
    entry(out.ctypes.data, padded[0].ctypes.data, padded[1].ctypes.data, n)
    return out[:a.size]


def ulps(got: np.ndarray, want: np.ndarray) -> np.ndarray:
    """Distance in units in the last place of the result's type; inf where NaN, infinity or the sign of zero differ."""
    ty = got.dtype
    with np.errstate(all="ignore"):
        rounded = want.astype(ty)
        unit = np.spacing(np.abs(rounded)).astype(np.float64)
        distance = np.abs(got.astype(np.longdouble) - want.astype(np.longdouble)).astype(np.float64) / unit
    same = (got == rounded) & (np.signbit(got) == np.signbit(rounded)) | np.isnan(got) & np.isnan(rounded)
    # An overflow at the edge of the range is an error of one unit, not of infinitely many.
    edge = np.isinf(got) != np.isinf(rounded)
    near = edge & (np.abs(want) > np.longdouble(0.9999999) * np.finfo(ty).max) & (np.signbit(got) == np.signbit(rounded))
    wrong_zero = (rounded == 0) & (got == 0) & (np.signbit(got) != np.signbit(rounded))
    distance = np.where(near, 1.0, np.where(np.isfinite(distance) & ~wrong_zero, distance, np.inf))
    return np.where(same & ~np.isfinite(distance), 0.0, distance)


def specials(scalar: str) -> np.ndarray:
    info = np.finfo(TYPES[scalar])
    values = [0.0, float(info.smallest_subnormal), float(info.tiny), float(info.tiny) * 0.7, float(info.max), 1.0, 0.5, 2.0, 3.0, 1.5, 2.5,
              4.0, 0.25, 1 - float(info.epsneg), 1 + float(info.eps), math.pi, math.pi / 2, 10.0, 100.0, 1e30, 1e-30, math.inf, math.nan]
    return np.array(values + [-v for v in values], TYPES[scalar])


def samples(scalar: str, low: float = -math.inf, high: float = math.inf, n: int = 20000) -> np.ndarray:
    """Values of every exponent, ordinary values, values near small integers and special ones, within [low, high]."""
    rng = np.random.default_rng(7)
    integer = np.uint32 if scalar == "float" else np.uint64
    every = rng.integers(0, np.iinfo(integer).max, n, dtype=integer, endpoint=True).view(TYPES[scalar])
    usual = [rng.normal(0, s, n // 2) for s in (0.3, 3.0, 30.0, 3e4)]
    if math.isfinite(low) and math.isfinite(high):
        usual.append(rng.uniform(low, high, n))
    near = rng.integers(-4, 5, n // 2) + rng.normal(0, 1, n // 2) * 10.0 ** rng.uniform(-8, -1, n // 2)
    with np.errstate(all="ignore"):  # some random bits are signalling NaNs
        x = np.concatenate([specials(scalar), every, *usual, near]).astype(TYPES[scalar])
    return x[~((x < low) | (x > high))]


def wide(function: object) -> object:
    """Evaluate a numpy ufunc on one precision more than the tested type."""
    return lambda *args: function(*[a.astype(np.float64 if a.dtype == np.float32 else np.longdouble) for a in args])  # type: ignore[operator]


def floor_divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Python's a // b on the values as they are, a / b where b is 0 or a is infinite."""
    def one(x: float, y: float) -> float:
        return float(np.float64(x) / np.float64(y)) if y == 0 else (math.nan if math.isinf(x) else x // y)
    return np.vectorize(one, otypes=[float])(a.astype(np.float64), b.astype(np.float64))


@functools.cache
def oracle() -> dict[str, object]:
    big = {name: wide(getattr(np, name)) for name in (
        "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sqrt", "sin", "cos", "tan", "sinh", "cosh", "tanh", "floor", "ceil",
        "trunc", "copysign", "maximum", "minimum", "isnan", "isinf", "isfinite", "fmod", "remainder")}
    big |= {new: wide(getattr(np, old)) for new, old in {
        "asin": "arcsin", "acos": "arccos", "atan": "arctan", "atan2": "arctan2", "asinh": "arcsinh", "acosh": "arccosh",
        "atanh": "arctanh", "abs": "abs", "pow": "power", "round": "rint"}.items()}
    big |= {"erf": np.vectorize(math.erf, otypes=[float]), "erfc": np.vectorize(math.erfc, otypes=[float])}
    big["erfinv"] = lambda x: np.copysign(special.erfinv(np.abs(x.astype(np.float64))), x)
    big["lgamma"] = lambda x: np.where(np.isneginf(x), math.inf, special.gammaln(x.astype(np.float64)))
    big["digamma"] = lambda x: np.where(x == 0, -np.copysign(math.inf, x), special.digamma(x.astype(np.float64)))
    big["rsqrt"] = wide(lambda x: 1 / np.sqrt(x))
    big["sigmoid"] = wide(lambda x: np.where(x < 0, np.exp(x), 1) / (1 + np.exp(-np.abs(x))))
    big["floor_divide"] = floor_divide
    big["sign"] = lambda x: np.where(np.isnan(x), 0, np.sign(x)) + 0.0
    return big


def expected(name: str, *args: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        return np.asarray(oracle()[name](*args), np.longdouble)  # type: ignore[operator]


UNARY = sorted(set(MATHS) - BINARY)


def check(name: str, scalar: str, lanes: int, limit: float, *args: np.ndarray) -> None:
    got, want = run(name, scalar, lanes, *args), expected(name, *args)
    if name in ("maximum", "minimum"):
        got, want = (np.where(v == 0, 0, v) for v in (got, want))  # which zero comes out is not specified
    error = ulps(got, want)
    worst = int(np.argmax(error))
    where = ", ".join(repr(a[worst]) for a in args)
    assert error[worst] <= limit, f"{name}({where}) gave {got[worst]!r}, wanted {want[worst]!r}: {error[worst]:.2f} ulp"


@pytest.mark.parametrize("name", UNARY)
@pytest.mark.parametrize("lanes", LANES["float"])
def test_float_is_within_two_ulp(name: str, lanes: int) -> None:
    check(name, "float", lanes, 2.0, samples("float"))


def pairs(scalar: str, n: int = 20000) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of special values, random pairs of every exponent and pairs that make interesting powers."""
    rng = np.random.default_rng(3)
    grid = np.meshgrid(specials(scalar), specials(scalar))
    every = samples(scalar, n=n)
    a = [grid[0].ravel(), every, rng.uniform(0, 20, n), 1 + rng.normal(0, 1e-3, n), rng.normal(0, 20, n), rng.integers(-20, 20, n)]
    b = [grid[1].ravel(), rng.permutation(every), rng.normal(0, 20, n), rng.normal(0, 2e4, n), rng.normal(0, 5, n), rng.integers(-9, 9, n)]
    return np.concatenate(a).astype(TYPES[scalar]), np.concatenate(b).astype(TYPES[scalar])


@pytest.mark.parametrize("name", sorted(BINARY))
@pytest.mark.parametrize("lanes", LANES["float"])
def test_float_pairs(name: str, lanes: int) -> None:
    a, b = pairs("float")
    if name == "floor_divide":
        # Beyond 2^24 the quotient in float is a rounded one, as in PyTorch.
        with np.errstate(all="ignore"):
            keep = ~(np.abs(a.astype(np.float64) / b) > 2.0 ** 24) | ~np.isfinite(a) | (b == 0)
        a, b = a[keep], b[keep]
    check(name, "float", lanes, 2.0, a, b)


def test_pow_special_cases() -> None:
    inf, nan = math.inf, math.nan
    table = [
        (0.0, -1.0, inf), (-0.0, -1.0, -inf), (-0.0, -2.0, inf), (-0.0, 3.0, -0.0), (-0.0, 0.5, 0.0), (nan, 0.0, 1.0), (1.0, nan, 1.0),
        (-1.0, inf, 1.0), (-1.0, -inf, 1.0), (0.5, inf, 0.0), (0.5, -inf, inf), (2.0, -inf, 0.0), (-inf, 3.0, -inf), (inf, -0.5, 0.0),
        (-inf, -3.0, -0.0), (-inf, 0.5, inf), (-2.0, 3.0, -8.0), (-2.0, 0.5, nan), (-8.0, 2.0 ** 24 + 2, inf), (-1.0, 2.0 ** 23 + 1, -1.0)]
    a, b, want = (np.array(column, np.float32) for column in zip(*table, strict=True))
    got = run("pow", "float", 16, a, b)
    assert np.array_equal(got, want, equal_nan=True) and np.array_equal(np.signbit(got[~np.isnan(want)]), np.signbit(want[~np.isnan(want)]))


def test_huge_angles_are_reduced() -> None:
    """Every float exponent above the fast path's limit, and the worst cases of float argument reduction."""
    rng = np.random.default_rng(5)
    x = np.ldexp(rng.uniform(1, 2, 20000), rng.integers(15, 128, 20000)).astype(np.float32)
    worst = np.array([-25465.75, -1119.9778, 16367173 * 2.0 ** 72, 8397500 * 2.0 ** 21, 1e5, 100000.01, 131072.0, 2.0 ** 25, 2.0 ** 127,
                      3.4028235e38], np.float32)
    x = np.concatenate([x, -x, worst, -worst])
    for name in ("sin", "cos", "tan"):
        check(name, "float", 16, 2.0, x)


def test_rare_lanes_do_not_disturb_the_others() -> None:
    usual = np.linspace(-3, 3, 16).astype(np.float32)
    mixed = usual.copy()
    mixed[5], mixed[11] = 1e30, np.inf
    keep = np.delete(np.arange(16), [5, 11])
    for name in ("sin", "cos", "tan"):
        assert np.array_equal(run(name, "float", 16, usual)[keep], run(name, "float", 16, mixed)[keep])


# The C library's own functions in double: the oracle is the same library, so this tests the calls.
C_LIBRARY = frozenset({"erf", "erfc"})


@pytest.mark.parametrize("name", [n for n in UNARY if n not in ("digamma", "erfinv")])
@pytest.mark.parametrize("lanes", LANES["double"])
def test_double_is_within_two_ulp(name: str, lanes: int) -> None:
    x = samples("double", n=5000)
    if name == "lgamma":  # Python has its own
        x = x[(x > 0) & (x < 1e300)]
        assert np.allclose(run(name, "double", lanes, x), [math.lgamma(v) for v in x], rtol=1e-13, atol=1e-14)
        return
    check(name, "double", lanes, 0.5 if name in C_LIBRARY else 2.0, x)


@pytest.mark.parametrize("name", sorted(BINARY))
def test_double_pairs(name: str) -> None:
    a, b = pairs("double", n=3000)
    if name == "floor_divide":
        with np.errstate(all="ignore"):
            keep = ~(np.abs(a / b) > 2.0 ** 52) | ~np.isfinite(a) | (b == 0)
        a, b = a[keep], b[keep]
    check(name, "double", 4, 2.0, a, b)


def test_double_digamma_and_erfinv() -> None:
    x = np.random.default_rng(1).uniform(-30, 60, 5000)
    x = x[np.abs(x - np.rint(x)) > 1e-3]
    assert np.allclose(run("digamma", "double", 4, x), special.digamma(x), rtol=1e-12, atol=1e-12)
    near_one, near_zero = 1 - 10.0 ** -np.linspace(2, 15.5, 200), 10.0 ** -np.linspace(1, 300, 50)
    y = np.concatenate([np.linspace(-1, 1, 2001), near_one, near_zero, [np.nan, 1.5, -0.0]])
    got = run("erfinv", "double", 4, y)
    assert np.allclose(got, special.erfinv(y), rtol=1e-14, atol=0, equal_nan=True) and np.signbit(got[-1])


def test_other_types_are_refused() -> None:
    with pytest.raises(TypeError, match="take float or double, got <8 x half>"):
        format_of(Val("<8 x half>", "%x"))


def test_float_functions_call_no_library() -> None:
    module = Module()
    for name in MATHS:
        emit(module, name, "float", 16)
    assert all(name.startswith("llvm.") for name in module.declarations)
