"""Reads that are guarded by the lanes alone: lines of planes joined to one axis, guards kept as bits, and what needs no guard."""
from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from test_emit import P, R, check, compiled, load, op, reads, writes
from test_windows import checked

import treadle
from treadle.codegen import emit
from treadle.codegen.kernel_reference import Operand
from treadle.codegen.schedule import loops
from treadle.codegen.target import host
from treadle.ir.kernel import RUNTIME, UNIT, ZERO, Kernel
from treadle.passes.program import KernelStep


def guard(*shift: int) -> tuple[Any, ...]:
    """Instructions 0 to 12: whether both digits of the index along axis `lane`, moved, are at least 0 and below slots 3 and 4."""
    lane, line, down, across, lines, length = shift
    slot = lambda number: op("slot", dtype="int64", params=(number,))
    pair = lambda name, x, y: op(name, x, y, dtype="bool" if name in ("ge", "lt", "logical_and") else "int64")
    return (op("index", dtype="int64", params=(lane,)), slot(line), pair("quotient", 0, 1), pair("mul", 2, 1), pair("sub", 0, 3),
            slot(down), pair("add", 2, 5), slot(across), pair("add", 4, 7), op("const", dtype="int64", params=(0,)),
            pair("ge", 6, 9), slot(lines), pair("lt", 8, 11), pair("logical_and", 10, 12), slot(length), pair("lt", 6, 14),
            pair("logical_and", 13, 15))


BODY = guard(1, 0, 1, 2, 3, 4)
READ = op("load_if", len(BODY) - 1, params=(0,))
SHIFTED = Kernel((P, P), (reads(RUNTIME, UNIT), reads(RUNTIME, UNIT), writes(RUNTIME, UNIT)), (), 5,
                 (*BODY, READ, load(1), op("add", len(BODY), len(BODY) + 1)), ((2, len(BODY) + 2),))
SUMMED = Kernel((P, R, R), (reads(RUNTIME, RUNTIME, UNIT), reads(RUNTIME, RUNTIME, UNIT), writes(UNIT, ZERO, ZERO)), (), 5,
                (*guard(2, 0, 1, 2, 3, 4), READ, load(1), op("mul", len(BODY), len(BODY) + 1),
                 op("reduce", len(BODY) + 2, params=("sum",))), ((2, len(BODY) + 3),))


def planes(kernel: Kernel, lines: int, length: int, down: int, across: int, outer: tuple[int, ...]) -> tuple[Any, ...]:
    """Sizes, operands and slots: the first operand is read `down` lines and `across` places away from the point."""
    size, count = lines * length, int(np.prod(outer))
    rng = np.random.default_rng(0)
    arrays = [rng.integers(-4, 5, count * size).astype(np.float32) for _ in range(2)]
    strides = (*[size * int(np.prod(outer[i + 1:])) for i in range(len(outer))], 1)
    given = [Operand(arrays[0], down * length + across, strides), Operand(arrays[1], 0, strides)]
    reduces = len(outer) == 2
    result = Operand(np.zeros(outer[0] if reduces else count * size, np.float32), 0, (1, 0, 0) if reduces else strides)
    return (*outer, size), [*given, result], [length, down, across, length, lines]


@pytest.mark.parametrize("bits", [128, 256, 512])
@pytest.mark.parametrize("most", [1 << 16, 64])
def test_guards_in_lanes(bits: int, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Vectors of all lengths, lines shorter and longer than those, and axes that are longer than what is kept at once."""
    monkeypatch.setattr(emit, "MOST_LANES", most)
    compiled.cache_clear()
    target = dataclasses.replace(host(), vector_bits=bits)
    assert loops(SHIFTED).guarded and loops(SUMMED).guarded
    for lines, length in ((7, 7), (1, 1), (3, 2), (20, 1), (2, 50), (11, 13), (40, 61)):
        for down, across in ((0, 0), (-1, 0), (1, -1), (0, 1), (lines, 0)):
            for kernel, outer in ((SHIFTED, (5,)), (SUMMED, (3, 4)), (SUMMED, (1, 1))):
                sizes, operands, slots = planes(kernel, lines, length, down, across, outer)
                check(kernel, sizes, operands, slots, rtol=0, atol=0, target=target)


def kernels(x: tuple[int, ...], w: tuple[int, ...], **attrs: Any) -> list[Kernel]:
    """Of a convolution of that many channels apart, computed and compared (see `checked`); that of the forward pass is the first."""
    return [s.kernel for s in checked(x, w, groups=x[1], **attrs).steps if isinstance(s, KernelStep)]


@pytest.mark.parametrize(("x", "w", "attrs"), [
    ((2, 5, 7, 7), (5, 1, 3, 3), {"padding": (1, 1)}),
    ((3, 4, 14, 14), (8, 1, 5, 5), {"padding": (2, 2)}),
    ((2, 3, 30, 17), (3, 1, 3, 5), {"padding": (2, 4), "dilation": (2, 2)}),
    ((2, 6, 40), (6, 1, 7), {"padding": (3,)}),
    ((2, 3, 5, 4, 6), (3, 1, 3, 3, 3), {"padding": (1, 1, 1)}),
    ((1, 3, 9, 9), (3, 1, 3, 3), {"padding": (1, 1)}),
])
def test_convolutions_of_single_channels(x: tuple[int, ...], w: tuple[int, ...], attrs: dict[str, Any]) -> None:
    assert loops(kernels(x, w, **attrs)[0]).guarded


@pytest.mark.parametrize(("x", "w", "attrs"), [
    ((2, 5, 9, 8), (5, 1, 3, 3), {"padding": (0, 0)}),
    ((2, 5, 9, 8), (5, 1, 3, 3), {"padding": (1, 1), "stride": (2, 2)}),
    ((2, 5, 9, 8), (5, 1, 3, 3), {"padding": (2, 2)}),
    ((2, 5, 9, 8), (5, 1, 3, 2), {"padding": (1, 1)}),
])
def test_planes_of_other_sizes_keep_their_lines(x: tuple[int, ...], w: tuple[int, ...], attrs: dict[str, Any]) -> None:
    found = kernels(x, w, **attrs)
    assert not loops(found[0]).guarded and len(found[0].axes) == 4


def test_what_always_holds_is_not_asked() -> None:
    """The tap in the middle lies inside, those beside it ask for one end only; nothing chooses between zeros and zeros."""
    body = kernels((2, 5, 9, 8), (5, 1, 3, 3), padding=(1, 1))[0].body
    names = [i.opcode for i in body]
    assert (names.count("load"), names.count("load_if"), names.count("select")) == (10, 8, 0)
    assert (names.count("ge"), names.count("lt")) == (2, 2)


def test_other_sizes_compile_nothing() -> None:
    def run(n: int, c: int, size: int) -> None:
        x, w = treadle.randn(n, c, size, size).requires_grad_(), treadle.randn(c, 1, 3, 3).requires_grad_()
        for _ in range(2):
            y = treadle.nn.functional.conv2d(x, w, padding=1, groups=c)
            treadle.autograd.grad(y, [x, w], treadle.ones(n, c, size, size))[1].numpy()
    run(2, 3, 8)
    compiles = treadle.stats()["llvm_compiles"]
    for n, c, size in ((3, 5, 8), (4, 7, 7), (2, 3, 100), (5, 16, 14)):
        run(n, c, size)
    assert treadle.stats()["llvm_compiles"] == compiles
