"""Floating-point formats and roundings of PTX in numpy: bf16, f16, directed roundings, exact fma, documented errors.

Where PTX gives a maximum error (PTX ISA, 9.7.3) instead of a rounding, the exact result is moved by a fixed
pseudo-random fraction of that error, so that code which needs more than the documentation promises shows it.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

Array = Any  # np.ndarray, or a numpy scalar where a value is the same in all threads

FP8 = {"e4m3": ml_dtypes.float8_e4m3fn, "e5m2": ml_dtypes.float8_e5m2}


def bf16_to_f32(bits: Array) -> Array:
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def f32_to_bf16(values: Array, mode: str = "rn") -> Array:
    """bf16 bits of f32 values; NaN becomes 0x7fff as on the device."""
    values = np.asarray(values, np.float32)
    bits = values.view(np.uint32)
    if mode == "rn":
        bits = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    rounded = (bits >> np.uint32(16)).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FFF), rounded)


def f16_to_f32(bits: Array) -> Array:
    return bits.view(np.float16).astype(np.float32)


def f32_to_f16(values: Array, mode: str = "rn") -> Array:
    values = np.asarray(values)
    half = values.astype(np.float16)
    if mode != "rn":
        half = _directed(values.astype(np.float64), half, mode)
    return np.where(np.isnan(half), np.uint16(0x7FFF), half.view(np.uint16))


def f32_to_tf32(values: Array) -> Array:
    """f32 bits with 10 bits of mantissa, rounded to nearest, ties away (cvt.rna)."""
    bits = np.asarray(values, np.float32).view(np.uint32)
    return np.where(np.isfinite(values), (bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000), bits)


def narrow(values: Array, mode: str) -> Array:
    """f64 to f32 with rounding rn, rz, rm or rp."""
    result = np.asarray(values, np.float64).astype(np.float32)
    return result if mode == "rn" else _directed(values, result, mode)


def _directed(exact: Array, nearest: Array, mode: str) -> Array:
    kind = nearest.dtype.type
    wide = nearest.astype(np.float64)
    down = np.nextafter(nearest, kind(-np.inf))
    up = np.nextafter(nearest, kind(np.inf))
    too_big, too_small = wide > exact, wide < exact
    if mode == "rz":
        too_big, too_small = too_big & (exact >= 0), too_small & (exact < 0)
    elif mode == "rm":
        too_small = np.zeros_like(too_small)
    else:
        too_big = np.zeros_like(too_big)
    return np.where(too_big, down, np.where(too_small, up, nearest))


def flush(values: Array) -> Array:
    """Subnormal f32 values become zero of the same sign (.ftz)."""
    tiny = np.abs(values) < np.float32(2.0**-126)
    return np.where(tiny, np.copysign(np.float32(0), values), values) if np.any(tiny) else values


def to_odd(total: Array, error: Array) -> Array:
    """Round-to-odd: `total` (f64) moved so that a later rounding to a shorter format sees that `error` was lost.

    Boldo and Melquiond, "Emulation of FMA and correctly rounded sums: proved algorithms using rounding to odd" (2008).
    """
    bits = np.asarray(total, np.float64).view(np.int64)
    even = (bits & 1) == 0
    away = (error > 0) == (total > 0)
    moved = np.where(away, bits + 1, bits - 1)
    return np.where(even & (error != 0) & np.isfinite(total), moved, bits).view(np.float64)


def two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """a + b and its rounding error (Knuth)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def fma_f32(a: Array, b: Array, c: Array, mode: str = "rn") -> Array:
    """a * b + c for f32 with one rounding: the product is exact in f64, the sum is rounded to odd where it matters."""
    product = a.astype(np.float64) * b
    wide = c.astype(np.float64)
    total = product + wide
    bits = np.asarray(total).view(np.int64)
    ties = ((bits & 0x1FFFFFFF) == 0x10000000) | ((np.abs(total) < 2.0**-125) & (total != 0))
    if mode == "rn" and not np.any(ties):
        return total.astype(np.float32)
    total, error = two_sum(product, wide)
    return narrow(to_odd(total, np.where(np.isfinite(error), error, 0.0)), mode)


def fma_f64(a: Array, b: Array, c: Array) -> Array:
    """a * b + c for f64, computed with twice the precision (Dekker's product); the last rounding can double in rare ties."""
    product = a * b
    split = 134217729.0
    high_a = a * split - (a * split - a)
    high_b = b * split - (b * split - b)
    low_a, low_b = a - high_a, b - high_b
    lost = ((high_a * high_b - product) + high_a * low_b + low_a * high_b) + low_a * low_b
    total, error = two_sum(product, c)
    exact = total + (error + lost)
    return np.where(np.isfinite(exact) & np.isfinite(lost), exact, product + c)


def perturbed(exact: Array, source: Array, relative: float = 0.0, absolute: float = 0.0) -> Array:
    """f32 result within the documented error: `exact` (f64) moved by a fraction in [-1, 1) that depends on the operand's bits."""
    noise = (np.asarray(source, np.float32).view(np.uint32) * np.uint32(2654435761)) >> np.uint32(8)
    fraction = noise.astype(np.float64) / 2.0**23 - 1.0
    room = max(relative - 2.0**-24, 0.0)
    moved = exact * (1.0 + room * fraction) + absolute * 0.9 * fraction * (exact != 0)
    return np.where(np.isfinite(exact), moved, exact).astype(np.float32)


def float_to_int(values: Array, kind: Any, mode: str) -> Array:
    """Rounded (rni, rzi, rmi, rpi) and clamped to the integer type; NaN gives 0."""
    rounded = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}[mode](np.asarray(values).astype(np.float64))
    limits = np.iinfo(kind)
    low = rounded <= float(limits.min)
    high = rounded >= float(limits.max)
    inside = np.where(low | high | np.isnan(rounded), 0.0, rounded).astype(kind)
    return np.where(high, kind(limits.max), np.where(low, kind(limits.min), inside))


def int_to_float(values: Array, mode: str) -> Array:
    """Integers to f32 with rn, rz, rm, rp (directed roundings go through f64, exact for 32-bit integers)."""
    if mode == "rn":
        return values.astype(np.float32)
    return narrow(values.astype(np.float64), mode)


def to_odd_f32(values: Array) -> Array:
    """f64 to f32, rounded to odd: rounding the result again to a shorter format is then exact."""
    result = values.astype(np.float32)
    lost = values - result
    bits = np.asarray(result).view(np.int32)
    moved = np.where((lost > 0) == (result > 0), bits + 1, bits - 1)
    return np.where(((bits & 1) == 0) & (lost != 0) & np.isfinite(result), moved, bits).view(np.float32)
