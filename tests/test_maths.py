"""Mathematical functions in LLVM IR against numpy and scipy in higher precision: random, special and huge values."""
from __future__ import annotations

import ctypes
import functools
import math

import numpy as np
import pytest

from treadle.codegen.jit import CompiledModule, compile_text
from treadle.codegen.llvm_text import Function, Module, Val, const, vector_type
from treadle.codegen.maths import BINARY, MATHS, PREDICATES
from treadle.codegen.maths_core import call_cold, format_of

special = pytest.importorskip("scipy.special")

LANES = {"float": (1, 8, 16), "double": (1, 4)}
TYPES = {"float": np.float32, "double": np.float64}


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
    near = edge & (np.abs(want.astype(np.float64)) > 0.9999999 * float(np.finfo(ty).max)) & (np.signbit(got) == np.signbit(rounded))
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
    usual = [rng.normal(0, s, n // 2) for s in (0.3, 3.0, 30.0)]
    if math.isfinite(low) and math.isfinite(high):
        usual.append(rng.uniform(low, high, n))
    near = rng.integers(-4, 5, n // 2) + rng.normal(0, 1, n // 2) * 10.0 ** rng.uniform(-8, -1, n // 2)
    x = np.concatenate([specials(scalar), every, *usual, near]).astype(TYPES[scalar])
    return x[~((x < low) | (x > high))]


def wide(function: object) -> object:
    """Evaluate a numpy ufunc on one precision more than the tested type."""
    return lambda *args: function(*[a.astype(np.float64 if a.dtype == np.float32 else np.longdouble) for a in args])  # type: ignore[operator]


@functools.cache
def oracle() -> dict[str, object]:
    big = {name: wide(getattr(np, name)) for name in (
        "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sqrt", "sin", "cos", "tan", "sinh", "cosh", "tanh", "floor", "ceil",
        "trunc", "copysign", "maximum", "minimum", "isnan", "isinf", "isfinite", "fmod", "remainder")}
    big |= {new: wide(getattr(np, old)) for new, old in {
        "asin": "arcsin", "acos": "arccos", "atan": "arctan", "atan2": "arctan2", "asinh": "arcsinh", "acosh": "arccosh",
        "atanh": "arctanh", "abs": "abs", "pow": "power", "round": "rint"}.items()}
    big |= {name: lambda x, fn=getattr(special, name): fn(x.astype(np.float64)) for name in ("erf", "erfc")}
    big["erfinv"] = lambda x: np.copysign(special.erfinv(np.abs(x.astype(np.float64))), x)
    big["lgamma"] = lambda x: np.where(np.isneginf(x), math.inf, special.gammaln(x.astype(np.float64)))
    big["digamma"] = lambda x: np.where(x == 0, -np.copysign(math.inf, x), special.digamma(x.astype(np.float64)))
    big["rsqrt"] = wide(lambda x: 1 / np.sqrt(x))
    big["sigmoid"] = wide(lambda x: np.where(x < 0, np.exp(x), 1) / (1 + np.exp(-np.abs(x))))
    big["sign"] = lambda x: np.where(np.isnan(x), 0, np.sign(x)) + 0.0
    return big


def expected(name: str, *args: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        return np.asarray(oracle()[name](*args), np.longdouble)  # type: ignore[operator]


UNARY = sorted(set(MATHS) - BINARY)
# In double: no room for a wider oracle in some, the C library in others.
DOUBLE_ULPS = {"lgamma": 1e3, "digamma": 1e4, "erfinv": 300.0, "erf": 4.0, "erfc": 10.0}


@pytest.mark.parametrize("name", UNARY)
@pytest.mark.parametrize("lanes", LANES["float"])
def test_float_is_within_two_ulp(name: str, lanes: int) -> None:
    x = samples("float")
    got, want = run(name, "float", lanes, x), expected(name, x)
    error = ulps(got, want)
    if name in ("lgamma", "digamma"):
        with np.errstate(all="ignore"):
            error = np.where(np.abs(got - want) <= 1e-6 * np.abs(want) + 1e-30, 0, error)
    worst = int(np.argmax(error))
    assert error[worst] <= 2, f"{name}({x[worst]!r}) gave {got[worst]!r}, wanted {want[worst]!r}: {error[worst]:.2f} ulp"
