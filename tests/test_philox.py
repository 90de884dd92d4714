"""Philox4x32-10: known answers, the compiled generator against the numpy reference, and the shape of the distributions."""
from __future__ import annotations

import ctypes
import functools

import numpy as np
import pytest

from treadle.codegen.jit import CompiledModule, compile_text
from treadle.codegen.llvm_text import Function, Module, Val, const, vector_type
from treadle.codegen.philox import normal, random_bits, random_block4, uniform
from treadle.ir.random_reference import (
    blocks_used,
    normal_from_bits,
    philox_bits,
    philox_block,
    philox_normal,
    philox_words,
    uniform_from_bits,
)

LANES = (1, 8, 16)
N = 256  # a multiple of 4 * 16
ONES = 0xFFFFFFFF


def test_known_answers() -> None:
    """The vectors published with Random123."""
    assert philox_block((0, 0, 0, 0), (0, 0)) == (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)
    assert philox_block((ONES,) * 4, (ONES,) * 2) == (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)
    pi = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)
    assert philox_block(pi, (0xA4093822, 0x299F31D0)) == (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)


@pytest.mark.parametrize(("seed", "offset"), [(0, 0), (1, 5), (-1, -2), (0x123456789ABCDEF0, 0xFFFFFFFF), (7, 2 ** 40 + 3)])
def test_reference_follows_the_definition(seed: int, offset: int) -> None:
    got = philox_bits(seed, offset, 11)
    for i, word in enumerate(got):
        block = (offset + i // 4) % 2 ** 64
        key = seed % 2 ** 64
        assert int(word) == philox_block((block & ONES, block >> 32, 0, 0), (key & ONES, key >> 32))[i % 4]
    assert got.dtype == np.uint32
    assert np.array_equal(philox_words(seed % 2 ** 64, np.array([offset % 2 ** 64], np.uint64))[0], got[:4])


def test_draws_are_prefixes_and_can_be_empty() -> None:
    assert np.array_equal(philox_bits(3, 4, 5), philox_bits(3, 4, 100)[:5])
    assert philox_bits(3, 4, 0).shape == (0,)
    assert [blocks_used(n) for n in (0, 1, 4, 5)] == [0, 1, 1, 2]


# -- compiled ----------------------------------------------------------------------------------------------------
PARAMS = [Val("ptr", "%out"), Val("i64", "%seed"), Val("i64", "%offset"), Val("i64", "%start"), Val("i64", "%n")]


def emit(module: Module, kind: str, lanes: int) -> None:
    """`void kind(out, seed, offset, start, n)` writes n numbers of the draw from element `start` on."""
    f = Function(module, f"{kind}_{lanes}", PARAMS)
    out, seed, offset, start, n = PARAMS
    steps = Val(vector_type("i64", lanes), "<" + ", ".join(f"i64 {i}" for i in range(lanes)) + ">")
    width = 4 * lanes if kind == "block4" else lanes
    with f.loop(const("i64", 0), n, width) as loop:
        at = f.add(loop.index, start)
        target = f.gep(out, loop.index, "i32")
        if kind == "block4":
            for k, value in enumerate(random_block4(f, seed, offset, at, lanes)):
                f.store(value, f.gep(target, k * lanes, "i32"), 4)
        else:
            index = at if lanes == 1 else f.add(f.splat(at, lanes), steps)
            bits = random_bits(f, seed, offset, index)
            if kind == "uniform":
                bits = uniform(f, bits)
            if kind == "normal":
                second = random_bits(f, seed, f.add(offset, N // 4), index)
                bits = normal(f, bits, second)
            f.store(bits, target, 4)
        loop.next([])
    f.line("ret void")
    f.finish()


@functools.cache
def library() -> CompiledModule:
    module = Module()
    for kind in ("bits", "block4", "uniform", "normal"):
        for lanes in LANES:
            emit(module, kind, lanes)
    return compile_text(module.text())


def run(kind: str, lanes: int, seed: int, offset: int, start: int = 0, n: int = N) -> np.ndarray:
    out = np.empty(n, np.uint32)
    entry = ctypes.CFUNCTYPE(None, ctypes.c_void_p, *[ctypes.c_int64] * 4)(library().address(f"{kind}_{lanes}"))
    entry(out.ctypes.data, seed, offset, start, n)
    return out


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("seed, offset", [(0, 0), (-5, 77), (0x123456789ABCDEF, 2 ** 32 - 3), (42, -2)])
def test_compiled_bits_equal_the_reference(lanes: int, seed: int, offset: int) -> None:
    want = philox_bits(seed, offset, N + 64)
    for kind in ("bits", "block4"):
        assert np.array_equal(run(kind, lanes, seed, offset), want[:N])
        assert np.array_equal(run(kind, lanes, seed, offset, start=64), want[64:])
    assert np.array_equal(run("bits", lanes, seed, offset, start=3), want[3:N + 3])


@pytest.mark.parametrize("lanes", LANES)
def test_compiled_uniform_equals_the_reference(lanes: int) -> None:
    got = run("uniform", lanes, 11, 5).view(np.float32)
    assert np.array_equal(got, uniform_from_bits(philox_bits(11, 5, N)))


@pytest.mark.parametrize("lanes", LANES)
def test_compiled_normal_is_close_to_the_reference(lanes: int) -> None:
    for seed in range(20):
        got, want = run("normal", lanes, seed, 9).view(np.float32), philox_normal(seed, 9, N)
        assert np.all(np.abs(got - want) <= 4 * np.spacing(np.abs(want)))


def test_ends_of_the_distributions() -> None:
    assert uniform_from_bits(np.array([0, ONES], np.uint32)).tolist() == [0.0, 1 - 2.0 ** -24]
    quarter = np.array([0, 1 << 30, 2 << 30, 3 << 30], np.uint32)
    furthest = normal_from_bits(np.full(4, ONES, np.uint32), quarter)
    assert np.allclose(np.abs(furthest), [5.7682, 0, 5.7682, 0], atol=1e-4)
    assert np.all(normal_from_bits(np.zeros(4, np.uint32), quarter) == 0)


def test_moments() -> None:
    u, z = uniform_from_bits(philox_bits(1, 0, 200_000)).astype(np.float64), philox_normal(2, 0, 200_000).astype(np.float64)
    assert abs(u.mean() - 0.5) < 0.003 and abs(u.var() - 1 / 12) < 0.001
    assert abs(z.mean()) < 0.01 and abs(z.std() - 1) < 0.01 and abs((z ** 4).mean() - 3) < 0.1
