"""Products with windows of an image (convolutions) that are packed from the image itself, never stored."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import treadle
from treadle.codegen.gemm_plan import window_words
from treadle.ir import dtypes, interpreter
from treadle.ir.builder import Builder
from treadle.ir.graph import Graph
from treadle.ir.kernel import UNIT
from treadle.ir.types import tensor_type
from treadle.passes.program import GemmStep, KernelStep, Program
from treadle.runtime import bounds, memory
from treadle.runtime.compiled import compile_graph
from treadle.runtime.memory import array_of


def checked(x: tuple[int, ...], w: tuple[int, ...], dtype: Any = dtypes.float32, **attrs: Any) -> Program:
    """A convolution and its gradients, compiled, against the interpreter; every read inside its buffer."""
    rng = np.random.default_rng(0)
    b = Builder(Graph("windows"))
    arrays = [rng.standard_normal(s).astype(dtype.np) for s in (x, w)]
    image, weight = [b.input(tensor_type(a.shape, dtype)) for a in arrays]
    rank = len(x) - 2
    given = {"stride": (1,) * rank, "padding": (0,) * rank, "dilation": (1,) * rank, "groups": 1} | attrs
    y = b.convolution(image, weight, **given)
    b.graph.outputs = [y, b.convolution_input(y, weight, image.shape, **given), b.convolution_weight(image, y, weight.shape, **given)]
    plan = compile_graph(b.graph)
    assert bounds.check(plan.program)
    found = plan.run([memory.from_numpy(a) for a in arrays], [])
    assert found is not None
    for got, value, want in zip(found, b.graph.outputs, interpreter.run(b.graph, arrays), strict=True):
        np.testing.assert_allclose(array_of(got, value.type), want, rtol=1e-3, atol=1e-5 * np.abs(want).max())
    return plan.program


def in_windows(program: Program) -> list[bool]:
    return [s.b.windows is not None for s in program.steps if isinstance(s, GemmStep)]


@pytest.mark.parametrize(("x", "w", "attrs"), [
    ((2, 3, 9, 20), (16, 3, 3, 3), {"padding": (1, 1)}),
    ((3, 40, 19, 17), (33, 40, 3, 3), {"padding": (1, 1)}),       # more than one block of K, lines in two pieces
    ((5, 30, 4, 4), (20, 30, 3, 3), {"padding": (1, 1)}),
    ((6, 30, 2, 2), (20, 30, 3, 3), {"padding": (1, 1)}),         # lines in nine pieces
    ((2, 5, 20, 40), (16, 5, 1, 11), {"stride": (1, 2)}),         # neighbours along the kernel
    ((4, 16, 7, 7), (20, 16, 3, 3), {"padding": (1, 1)}),         # all images together, lines in four pieces
    ((1, 4, 5, 300), (12, 4, 1, 5), {"dilation": (1, 2)}),
    ((2, 8, 20, 20), (24, 4, 3, 2), {"padding": (1, 1), "groups": 2}),
    ((2, 16, 40), (12, 16, 7), {"padding": (3,)}),
    ((2, 3, 21, 44), (16, 3, 7, 7), {"padding": (3, 3), "stride": (2, 2)}),   # every second element along a line
    ((3, 12, 14, 13), (26, 12, 3, 3), {"padding": (1, 1), "stride": (2, 2)}),  # in several pieces
    ((2, 30, 20, 20), (16, 30, 1, 1), {"stride": (2, 2)}),
    ((2, 6, 9, 10, 11), (20, 6, 3, 3, 3), {"padding": (1, 1, 1)}),            # four digits of rows, and of places
    ((2, 6, 5, 4, 3), (20, 6, 3, 3, 3), {"padding": (1, 1, 1)}),
    ((2, 6, 7, 8, 9), (40, 3, 2, 3, 3), {"padding": (1, 1, 1), "stride": (2, 1, 2), "groups": 2}),
])
def test_convolutions_read_windows_where_they_are(x: tuple[int, ...], w: tuple[int, ...], attrs: dict[str, Any]) -> None:
    assert True in in_windows(checked(x, w, **attrs))


def test_other_types_and_what_stays_as_it_was() -> None:
    assert in_windows(checked((2, 9, 16, 16), (12, 9, 3, 3), dtypes.float64, padding=(1, 1))) == [True, True, True]
    assert in_windows(checked((2, 9, 16, 16), (12, 9, 3, 3), dtypes.float64, padding=(1, 1), stride=(2, 2)))[0] is True
    assert in_windows(checked((2, 3, 20, 20), (16, 3, 3, 3), stride=(3, 3)))[0] is False
    # Few output channels: lines of the image are worth it, lines of the kernel, for the gradient of the weight, are not.
    assert in_windows(checked((2, 3, 20, 20), (4, 3, 3, 3))) == [True, True, False]
    assert in_windows(checked((3, 3, 7, 7), (2, 3, 3, 3), padding=(1, 1))) == [True, True, False]
    assert in_windows(checked((2, 16, 20, 20), (16, 16, 1, 1)))[:2] == [False, False]  # no windows at all


@pytest.mark.parametrize(("shape", "weight", "attrs"), [
    ((3, 6, 9, 16), (6, 5, 4, 4), {"stride": (2, 2), "padding": (1, 1)}),
    ((2, 4, 7, 7), (4, 3, 3, 3), {"stride": (2, 2), "padding": (1, 1), "output_padding": (1, 1)}),
    ((2, 4, 20), (4, 3, 4), {"stride": (2,), "padding": (1,)}),
    ((2, 4, 5, 6), (4, 3, 2, 3), {"stride": (2, 3), "padding": (0, 0)}),
    ((2, 3, 4, 3, 5), (3, 4, 2, 4, 4), {"stride": (1, 2, 2), "padding": (0, 1, 1)}),
])
def test_parts_of_transposed_convolutions_lie_in_turn(shape: tuple[int, ...], weight: tuple[int, ...], attrs: dict[str, Any]) -> None:
    """One padded image for all parts; nothing chooses among them for each element."""
    rank = len(shape) - 2
    stride, padding, more = attrs["stride"], attrs["padding"], attrs.get("output_padding", (0,) * rank)
    places = [(n - 1) * s - 2 * p + k + o for n, s, p, k, o in zip(shape[2:], stride, padding, weight[2:], more, strict=True)]
    b = Builder(Graph("parts"))
    arrays = [np.random.default_rng(1).standard_normal(s).astype(np.float32) for s in (shape, weight)]
    y, w = [b.input(tensor_type(a.shape, dtypes.float32)) for a in arrays]
    b.graph.outputs = [b.convolution_input(y, w, (shape[0], weight[1], *places), stride, padding, (1,) * rank, 1)]
    plan = compile_graph(b.graph)
    assert bounds.check(plan.program)
    found = plan.run([memory.from_numpy(a) for a in arrays], [])
    want = interpreter.run(b.graph, arrays)[0]
    np.testing.assert_allclose(array_of(found[0], b.graph.outputs[0].type), want, rtol=1e-3, atol=1e-5 * np.abs(want).max())
    steps = [s for s in plan.program.steps if isinstance(s, KernelStep)]
    pads = [s for s in steps if any(n.op is not None and n.op.name == "pad" for n in s.nodes)]
    assert len(pads) <= 1
    assert not [s for s in steps if sum(i.opcode == "select" for i in s.kernel.body) > len(pads)]


@pytest.mark.parametrize(("weight", "groups"), [((6, 1, 3, 3), 6), ((6, 3, 3, 3), 2)])
def test_readers_of_parts_do_not_choose_among_them(weight: tuple[int, ...], groups: int) -> None:
    """What reads a gradient of parts, element by element, finds their rows in memory."""
    b = Builder(Graph("reader"))
    shape, channels = (3, 6, 8, 8), weight[1] * groups
    arrays = [np.random.default_rng(2).standard_normal(s).astype(np.float32) for s in (shape, weight, (3, channels, 16, 16))]
    y, w, x = [b.input(tensor_type(a.shape, dtypes.float32)) for a in arrays]
    found = b.convolution_input(y, w, x.shape, (2, 2), (1, 1), (1, 1), groups)
    b.graph.outputs = [b.mul(b.add(found, x), 2.0)]
    plan = compile_graph(b.graph)
    results = plan.run([memory.from_numpy(a) for a in arrays], [])
    want = interpreter.run(b.graph, arrays)[0]
    np.testing.assert_allclose(array_of(results[0], b.graph.outputs[0].type), want, rtol=1e-3, atol=1e-5 * np.abs(want).max())
    readers = [s for s in plan.program.steps if isinstance(s, KernelStep) and any(n.op is not None and n.op.name == "mul" and
               n.out.type.shape == x.shape for n in s.nodes)]
    assert len(readers) == 1 and all(a.strides[-1] == UNIT for a in readers[0].kernel.accesses)


def test_gradients_of_weights_run_along_lines_of_the_image() -> None:
    """Vectors of short lines of a kernel are put together from many pieces; those of an image as short as a few elements are no better."""
    def across(*shapes: tuple[int, ...], **attrs: Any) -> list[bool]:
        treadle.compiler.reset()  # longer lines that were met before would decide for shorter ones too
        steps = [s for s in checked(*shapes, **attrs).steps if isinstance(s, GemmStep)]
        return sorted([s.b.windows is not None and s.b.windows.across for s in steps])
    assert across((2, 12, 9, 16), (20, 12, 3, 3), padding=(1, 1)) == [False, False, True]
    assert across((2, 12, 9, 40), (20, 12, 1, 9), padding=(0, 4)) == [False, False, False]
    assert across((3, 12, 7, 7), (20, 12, 3, 3), padding=(1, 1)) == [False, False, False]
    assert across((2, 6, 5, 8, 9), (20, 6, 3, 3, 3), padding=(1, 1, 1)) == [False, False, True]


def test_windows_take_no_memory() -> None:
    x, w = treadle.randn(2, 16, 32, 32), treadle.randn(16, 16, 3, 3)
    program = treadle.inspect(lambda x, w: treadle.nn.functional.conv2d(x, w, padding=1), x, w).program
    assert program.arena <= 2 * 16 * 34 * 34 * 4 + 4096


def test_words_of_digits() -> None:
    assert window_words(((8, 100), (3, 10), (3, 1)), ((28, 30), (28, 2)), False) == (2, 8, 3, 3, 0, 100, 10, 1, 1, 28, 28, 0, 0, 30, 2)
    assert window_words(((5, 7), (6, 8), (10, 1)), ((9, 4),), True) == (3, 1, 1, 9, 0, 0, 0, 4, 5, 6, 10, 0, 7, 8, 1)
