"""cvt: every pair of types, rounding, saturation (PTX ISA: cvt)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ptx_simulator import floating
from ptx_simulator.arithmetic import FLOATS, INTEGER, RULES, Pure, finished, rounding, rule
from ptx_simulator.faults import PtxError
from ptx_simulator.floating import Array
from ptx_simulator.parse import Instruction

__all__ = ["RULES"]


@rule("cvt")
def _cvt(inst: Instruction) -> Pure:
    target, source = inst.types[:2]
    if target.endswith("x2") or source.endswith("x2"):
        return _packed(inst, target, source)
    if target == "tf32":
        return Pure(("b32",), ("f32",), floating.f32_to_tf32)
    if source in FLOATS:
        return _from_float(inst, target, source)
    if target in FLOATS:
        mode = rounding(inst)
        convert: Callable[[Array], Array] = lambda a: floating.int_to_float(a, mode)
        if target == "f64":
            convert = lambda a: a.astype(np.float64)
        return Pure((target,), (source,), finished(inst, target, convert))
    return _between_integers(inst, target, source)


def _between_integers(inst: Instruction, target: str, source: str) -> Pure:
    dtype = INTEGER[target]
    if "sat" not in inst.parts:
        return Pure((target,), (source,), lambda a: a.astype(dtype))
    limits, given = np.iinfo(dtype), np.iinfo(INTEGER[source])
    low, high = max(limits.min, given.min), min(limits.max, given.max)
    return Pure((target,), (source,), lambda a: np.clip(a, INTEGER[source](low), INTEGER[source](high)).astype(dtype))


def _from_float(inst: Instruction, target: str, source: str) -> Pure:
    mode = rounding(inst, "rn")
    if target not in FLOATS:
        dtype = INTEGER[target]
        clean = floating.flush if "ftz" in inst.parts and source == "f32" else lambda a: a
        return Pure((target,), (source,), lambda a: floating.float_to_int(clean(a), dtype, mode))
    whole = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}.get(mode)
    if whole:
        return Pure((target,), (source,), finished(inst, target, whole))
    if target == "f64":
        return Pure(("f64",), (source,), finished(inst, target, lambda a: a.astype(np.float64)))
    if target == "f32":
        convert: Callable[[Array], Array] = (lambda a: floating.narrow(a, mode)) if source == "f64" else (lambda a: a)
        return Pure(("f32",), (source,), finished(inst, "f32", convert))
    pack: Callable[..., Array] = floating.f32_to_bf16 if target == "bf16" else floating.f32_to_f16
    limit = finished(inst, target, lambda a: a)
    shorten = (lambda a: floating.to_odd_f32(a)) if source == "f64" else (lambda a: a)
    return Pure(("b16",), (source,), lambda a: pack(limit(shorten(a)), mode))


def _packed(inst: Instruction, target: str, source: str) -> Pure:
    """Two values at once: the first operand goes to the upper half."""
    if source == "f32" and target in ("f16x2", "bf16x2"):
        pack: Callable[..., Array] = floating.f32_to_bf16 if target == "bf16x2" else floating.f32_to_f16
        mode, limit = rounding(inst), finished(inst, target, lambda a: a)
        half = lambda a: pack(limit(a), mode).astype(np.uint32)
        return Pure(("b32",), ("f32", "f32"), lambda a, b: (half(a) << np.uint32(16)) | half(b))
    if source == "f32" and target in ("e4m3x2", "e5m2x2"):
        kind = floating.FP8[target[:-2]]
        largest = np.float32(448 if target == "e4m3x2" else 57344)
        byte = lambda a: np.clip(np.asarray(a), -largest, largest).astype(kind).view(np.uint8).astype(np.uint16)
        return Pure(("b16",), ("f32", "f32"), lambda a, b: (byte(a) << np.uint16(8)) | byte(b))
    if source in ("e4m3x2", "e5m2x2") and target == "f16x2":
        kind = floating.FP8[source[:-2]]
        wide = lambda a, shift: (a >> np.uint16(shift)).astype(np.uint8).view(kind).astype(np.float16).view(np.uint16).astype(np.uint32)
        return Pure(("b32",), ("b16",), lambda a: wide(a, 0) | (wide(a, 8) << np.uint32(16)))
    raise PtxError(f"cvt from {source} to {target} is not supported")
