"""Distributions of random draws, the same to the bit wherever they are computed.

Logarithm, cosine and exponential are spelt out in operations that IEEE 754 rounds in one way only, so numpy, kernels for CPUs and kernels
for GPUs give the same numbers. They are within 2e-7 of the true values: of 1 for the cosine, relative for the others.
"""
from __future__ import annotations

import math
from typing import Any

from treadle.ir import dtypes
from treadle.ir.dtypes import DType
from treadle.ir.op import Kind, declare
from treadle.ir.ops.create import uniform
from treadle.ir.types import Shape, tensor_type

_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4  # their sum; products of the first with small integers are exact


def _horner(b: Any, x: Any, coefficients: list[float]) -> Any:
    """The polynomial with these coefficients, highest power first."""
    total = b.mul(x, coefficients[0])
    for c in coefficients[1:-1]:
        total = b.mul(b.add(total, c), x)
    return b.add(total, coefficients[-1])


def log_of_unit(b: Any, x: Any) -> Any:
    """log(x) of float32 multiples of 2^-24 in (0, 1]: x = m 2^-k with m near 1, and log m = 2 artanh((m - 1) / (m + 1))."""
    halvings: Any = 0.0
    for bits, limit in ((16, 2.0 ** -16), (8, 2.0 ** -8), (4, 2.0 ** -4), (2, 2.0 ** -2), (1, 2.0 ** -1), (1, math.sqrt(0.5))):
        small = b.lt(x, limit)
        x = b.where(small, b.mul(x, 2.0 ** bits), x)
        step = b.where(small, b.full(float(bits), x.type.shape, dtypes.float32, x.type.device),
                       b.full(0.0, x.type.shape, dtypes.float32, x.type.device))
        halvings = b.add(step, halvings)
    s = b.div(b.sub(x, 1.0), b.add(x, 1.0))
    artanh = b.mul(s, _horner(b, b.mul(s, s), [2 / 11, 2 / 9, 2 / 7, 2 / 5, 2 / 3, 2.0]))
    return b.sub(b.sub(artanh, b.mul(halvings, _LN2_LOW)), b.mul(halvings, _LN2_HIGH))


def cos_of_turns(b: Any, x: Any) -> Any:
    """cos(2 pi x) of float32 multiples of 2^-24 below 1.5 in size, as the sine of the turns that are missing to a quarter."""
    turns = b.abs(b.sub(x, b.floor(b.add(x, 0.5))))
    angle = b.mul(b.sub(0.25, turns), 2 * math.pi)
    terms = [(-1.0) ** (n // 2) / math.factorial(n) for n in (13, 11, 9, 7, 5, 3, 1)]
    return b.mul(angle, _horner(b, b.mul(angle, angle), terms))


def exp_of(b: Any, x: Any) -> Any:
    """exp(x): 2^n exp(r) with r at most half of log 2 in size."""
    x = b.cast(x, dtypes.float32)
    x = b.where(b.lt(x, -110.0), b.full(-110.0, x.type.shape, dtypes.float32, x.type.device), x)
    x = b.where(b.gt(x, 95.0), b.full(95.0, x.type.shape, dtypes.float32, x.type.device), x)
    n = b.floor(b.add(b.mul(x, 1 / math.log(2)), 0.5))
    r = b.sub(b.sub(x, b.mul(n, _LN2_HIGH)), b.mul(n, _LN2_LOW))
    value = _horner(b, r, [1 / math.factorial(k) for k in range(7, -1, -1)])
    size, down = b.abs(n), b.lt(n, 0.0)
    for bits in (64, 64, 32, 16, 8, 4, 2, 1):
        more = b.ge(size, float(bits))
        value = b.where(more, b.where(down, b.mul(value, 2.0 ** -bits), b.mul(value, 2.0 ** bits)), value)
        size = b.where(more, b.sub(size, float(bits)), size)
    return value


def _exp_of_draws(b: Any, x: Any) -> Any:
    return b.cast(exp_of(b, x), x.type.dtype)


def _radius(b: Any, seed: Any, offset: Any, shape: Shape, device: str, factor: float) -> Any:
    """factor * log(1 - u)."""
    return b.mul(log_of_unit(b, b.sub(1.0, uniform(b, seed, offset, shape, dtypes.float32, device))), factor)


def normal(b: Any, seed: Any, offset: Any, shape: Shape, dtype: DType, device: str) -> Any:
    """Box-Muller from two draws, the second ceil(n / 4) blocks after the first."""
    count = 1
    for n in shape:
        count *= n
    turns = uniform(b, seed, b.add(offset, (count + 3) // 4), shape, dtypes.float32, device)
    value = b.mul(b.sqrt(_radius(b, seed, offset, shape, device, -2.0)), cos_of_turns(b, turns))
    return value if dtype is dtypes.float32 else b.cast(value, dtype)


def exponential(b: Any, seed: Any, offset: Any, shape: Shape, dtype: DType, device: str) -> Any:
    value = _radius(b, seed, offset, shape, device, -1.0)
    return value if dtype is dtypes.float32 else b.cast(value, dtype)


def cauchy(b: Any, seed: Any, offset: Any, shape: Shape, dtype: DType, device: str) -> Any:
    """tan(pi (u - 1/2)), as -cos(pi u) / sin(pi u)."""
    half = b.mul(uniform(b, seed, offset, shape, dtypes.float32, device), 0.5)
    value = b.div(b.neg(cos_of_turns(b, half)), cos_of_turns(b, b.sub(half, 0.25)))
    return value if dtype is dtypes.float32 else b.cast(value, dtype)


for _name, _rule, _doc in (
        ("random_normal", normal, "Floats of mean 0 and variance 1, normally distributed: `random_bits` and the method of Box and Muller."),
        ("random_exponential", exponential, "Floats with density exp(-x) for x >= 0, by `random_bits`."),
        ("random_cauchy", cauchy, "Floats with density 1 / (pi (1 + x^2)), by `random_bits`.")):
    declare(_name, Kind.COMPOSITE, "seed offset", "shape dtype device", batch="draw", decompose=_rule, differentiable=False, doc=_doc,
            type_rule=lambda t, shape, dtype, device: tensor_type(shape, dtype, device),
            samples=[((7, 0), ((4, 3), dtypes.float32, "cpu"))])

declare("exp_of_draws", Kind.COMPOSITE, "x", type_rule=lambda t: t[0], decompose=_exp_of_draws, differentiable=False,
        doc="exp(x) in float32 precision, the same to the bit wherever it is computed.", samples=[(((3, 4),), ())])
