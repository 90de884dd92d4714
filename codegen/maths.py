"""The table of mathematical functions that kernels can use, by name.

An entry takes (function being built, operands) and returns the result with the operands' type and number of lanes;
`isnan`, `isinf` and `isfinite` return i1 per lane. Operands are float or double. Float results lie within 2 units in the
last place (lgamma and digamma: 1e-6 relative) for every input, subnormals and huge arguments included, and follow C99's
special cases; they call no library. Double versions that name a C function call it lane by lane and so need a CPU; the
exponentials, logarithms and hyperbolic functions are polynomials there too.

The definitions live by family: `maths_exp`, `maths_trig`, `maths_pow`, `maths_round`, all written with `maths_core`.
"""
from __future__ import annotations

from collections.abc import Callable

from treadle.codegen import maths_core, maths_exp, maths_pow, maths_round, maths_trig
from treadle.codegen.llvm_text import Val

MATHS: dict[str, Callable[..., Val]] = {
    # exponentials and logarithms
    "exp": maths_exp.exp, "exp2": maths_exp.exp2, "expm1": maths_exp.expm1,
    "log": maths_exp.log, "log2": maths_exp.log2, "log10": maths_exp.log10, "log1p": maths_exp.log1p,
    "sqrt": maths_exp.sqrt, "rsqrt": maths_exp.rsqrt, "pow": maths_pow.pow_,
    # trigonometric functions
    "sin": maths_trig.sin, "cos": maths_trig.cos, "tan": maths_trig.tan,
    "asin": maths_trig.asin, "acos": maths_trig.acos, "atan": maths_trig.atan, "atan2": maths_trig.atan2,
    # hyperbolic functions
    "sinh": maths_exp.sinh, "cosh": maths_exp.cosh, "tanh": maths_exp.tanh, "sigmoid": maths_exp.sigmoid,
    "asinh": maths_pow.asinh, "acosh": maths_pow.acosh, "atanh": maths_pow.atanh,
    # error and gamma functions
    "erf": maths_exp.erf, "erfc": maths_pow.erfc, "erfinv": maths_pow.erfinv,
    "lgamma": maths_pow.lgamma, "digamma": maths_pow.digamma,
    # rounding and remainders
    "floor": maths_round.floor, "ceil": maths_round.ceil, "trunc": maths_round.trunc, "round": maths_round.round_even,
    "fmod": maths_round.fmod, "remainder": maths_round.remainder, "floor_divide": maths_round.floor_divide,
    # signs, comparisons, tests
    "abs": maths_core.fabs, "sign": maths_round.sign, "copysign": maths_core.copysign,
    "maximum": maths_round.maximum, "minimum": maths_round.minimum,
    "isnan": maths_round.isnan, "isinf": maths_round.isinf, "isfinite": maths_round.isfinite,
}

BINARY = frozenset({"pow", "atan2", "fmod", "remainder", "floor_divide", "copysign", "maximum", "minimum"})
PREDICATES = frozenset({"isnan", "isinf", "isfinite"})
