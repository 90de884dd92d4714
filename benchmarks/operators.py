"""Single operators against PyTorch eager, forward and gradient, interleaved in one process (ratio above 1: Treadle is faster).

Needs the [oracle] extra. `python benchmarks/operators.py [word ...]` runs the cases whose names hold a word; use a quiet machine.
`--repeats N` sets how many samples the medians are of; `--fastest` takes the fastest sample instead, for a busy machine.
"""
from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import against_torch
import numpy as np
import torch
from against_torch import Run, median_times

import treadle

Call = Callable[..., Any]
Floats = tuple[int, ...]


class Whole:
    """Whole numbers below `high`, as an operand of a case."""

    def __init__(self, high: int, *shape: int, dtype: str = "int64") -> None:
        self.array = np.random.randint(0, high, shape).astype(dtype)


class Pairs:
    """Complex numbers, as an operand of a case."""

    def __init__(self, *shape: int) -> None:
        parts = np.random.randn(2, *shape).astype("float32")
        self.array = (parts[0] + 1j * parts[1]).astype("complex64")


def nn(library: Any) -> Any:
    return library.nn.functional


def convolution(shape: Floats, weight: Floats, **options: Any) -> tuple[Any, ...]:
    name = f"conv{len(shape) - 2}d"
    return (lambda lib, x, w: getattr(nn(lib), name)(x, w, **options), shape, weight)


CONVOLUTIONS: dict[str, tuple[Any, ...]] = {
    "conv stem 7x7/2 3->64 @224 b4": convolution((4, 3, 224, 224), (64, 3, 7, 7), stride=2, padding=3),
    "conv 3x3/2 128->256 @28 b4": convolution((4, 128, 28, 28), (256, 128, 3, 3), stride=2, padding=1),
    "conv 3x3 64->64 @56 b4": convolution((4, 64, 56, 56), (64, 64, 3, 3), padding=1),
    "conv 3x3 256->256 @14 b4": convolution((4, 256, 14, 14), (256, 256, 3, 3), padding=1),
    "conv 3x3 512->512 @7 b4": convolution((4, 512, 7, 7), (512, 512, 3, 3), padding=1),
    "conv depthwise 3x3 192 @28 b8": convolution((8, 192, 28, 28), (192, 1, 3, 3), padding=1, groups=192),
    "conv depthwise 3x3/2 96 @112 b4": convolution((4, 96, 112, 112), (96, 1, 3, 3), stride=2, padding=1, groups=96),
    "conv depthwise 3x3 960 @7 b8": convolution((8, 960, 7, 7), (960, 1, 3, 3), padding=1, groups=960),
    "conv 1x1 32->192 @28 b8": convolution((8, 32, 28, 28), (192, 32, 1, 1)),
    "conv 1x1 192->32 @28 b8": convolution((8, 192, 28, 28), (32, 192, 1, 1)),
    "conv 1x1 960->160 @7 b8": convolution((8, 960, 7, 7), (160, 960, 1, 1)),
    "conv 1x1/2 256->512 @28 b4": convolution((4, 256, 28, 28), (512, 256, 1, 1), stride=2),
    "conv1d 64->128 k5 @1000 b8": convolution((8, 64, 1000), (128, 64, 5), padding=2),
    "conv1d depthwise 256 k7 @512 b8": convolution((8, 256, 512), (256, 1, 7), padding=3, groups=256),
    "conv grouped 3x3 128 g4 @28 b4": convolution((4, 128, 28, 28), (128, 32, 3, 3), padding=1, groups=4),
    "conv3d 16->32 k3 @16 b2": convolution((2, 16, 16, 16, 16), (32, 16, 3, 3, 3), padding=1),
    "conv_transpose2d 4x4/2 128->64 @16 b8":
        (lambda lib, x, w: nn(lib).conv_transpose2d(x, w, stride=2, padding=1), (8, 128, 16, 16), (128, 64, 4, 4)),
    "conv_transpose2d 2x2/2 64->32 @32 b8":
        (lambda lib, x, w: nn(lib).conv_transpose2d(x, w, stride=2), (8, 64, 32, 32), (64, 32, 2, 2)),
}

NORMS: dict[str, tuple[Any, ...]] = {
    "batch_norm train [16,64,56,56]":
        (lambda lib, x, w, b: nn(lib).batch_norm(x, None, None, w, b, True), (16, 64, 56, 56), (64,), (64,)),
    "layer_norm [2048,768]": (lambda lib, x, w, b: nn(lib).layer_norm(x, (768,), w, b), (2048, 768), (768,), (768,)),
    "rms_norm [2048,768]": (lambda lib, x, w: nn(lib).rms_norm(x, (768,), w), (2048, 768), (768,)),
    "group_norm [8,64,56,56] 8":
        (lambda lib, x, w, b: nn(lib).group_norm(x, 8, w, b), (8, 64, 56, 56), (64,), (64,)),
    "instance_norm [8,64,56,56]": (lambda lib, x: nn(lib).instance_norm(x), (8, 64, 56, 56)),
    "softmax last [2048,1000]": (lambda lib, x: lib.softmax(x, -1), (2048, 1000)),
    "softmax axis 1 [64,21,64,64]": (lambda lib, x: lib.softmax(x, 1), (64, 21, 64, 64)),
    "softmax axis 0 [1000,1024]": (lambda lib, x: lib.softmax(x, 0), (1000, 1024)),
    "log_softmax axis 1 [16,21,128,128]": (lambda lib, x: lib.log_softmax(x, 1), (16, 21, 128, 128)),
    "cross_entropy [2048,32000]":
        (lambda lib, x, y: nn(lib).cross_entropy(x, y), (2048, 32000), Whole(32000, 2048)),
    "cross_entropy [4,21,128,128]":
        (lambda lib, x, y: nn(lib).cross_entropy(x, y), (4, 21, 128, 128), Whole(21, 4, 128, 128)),
    "var last [2048,1000]": (lambda lib, x: lib.var(x, -1), (2048, 1000)),
    "var axes 0,2,3 [16,64,56,56]": (lambda lib, x: lib.var(x, (0, 2, 3)), (16, 64, 56, 56)),
    "std axis 0 [2048,1000]": (lambda lib, x: lib.std(x, 0), (2048, 1000)),
    "sum all 4M": (lambda lib, x: lib.sum(x), (1 << 22,)),
    "sum axis 0 [2048,1000]": (lambda lib, x: lib.sum(x, 0), (2048, 1000)),
    "sum axis 1 [64,128,256]": (lambda lib, x: lib.sum(x, 1), (64, 128, 256)),
    "mean axes 2,3 [16,64,56,56]": (lambda lib, x: lib.mean(x, (2, 3)), (16, 64, 56, 56)),
    "amax axis 1 [64,128,256]": (lambda lib, x: lib.amax(x, 1), (64, 128, 256)),
    "max with indices axis 1 [64,128,256]": (lambda lib, x: lib.max(x, 1)[0], (64, 128, 256)),
    "norm last [2048,1000]": (lambda lib, x: lib.linalg.vector_norm(x, dim=-1), (2048, 1000)),
    "logsumexp last [2048,1000]": (lambda lib, x: lib.logsumexp(x, -1), (2048, 1000)),
    "normalize [2048,1000]": (lambda lib, x: nn(lib).normalize(x, dim=1), (2048, 1000)),
}

WINDOWS: dict[str, tuple[Any, ...]] = {
    "max_pool2d 3/2 [8,64,112,112]": (lambda lib, x: nn(lib).max_pool2d(x, 3, 2, 1), (8, 64, 112, 112)),
    "max_pool2d 2/2 [8,64,56,56]": (lambda lib, x: nn(lib).max_pool2d(x, 2), (8, 64, 56, 56)),
    "max_pool2d indices 2/2 [8,64,56,56]":
        (lambda lib, x: nn(lib).max_pool2d(x, 2, return_indices=True)[0], (8, 64, 56, 56)),
    "avg_pool2d 2/2 [8,64,56,56]": (lambda lib, x: nn(lib).avg_pool2d(x, 2), (8, 64, 56, 56)),
    "adaptive_avg_pool2d 1 [16,512,7,7]": (lambda lib, x: nn(lib).adaptive_avg_pool2d(x, 1), (16, 512, 7, 7)),
    "adaptive_avg_pool2d 7 [8,64,28,28]": (lambda lib, x: nn(lib).adaptive_avg_pool2d(x, 7), (8, 64, 28, 28)),
    "adaptive_avg_pool2d 6 [8,64,28,28]": (lambda lib, x: nn(lib).adaptive_avg_pool2d(x, 6), (8, 64, 28, 28)),
    "adaptive_max_pool2d 7 [8,64,28,28]": (lambda lib, x: nn(lib).adaptive_max_pool2d(x, 7), (8, 64, 28, 28)),
    "pad constant [8,64,56,56]": (lambda lib, x: nn(lib).pad(x, (1, 1, 1, 1)), (8, 64, 56, 56)),
    "pad reflect [8,64,56,56]": (lambda lib, x: nn(lib).pad(x, (3, 3, 3, 3), mode="reflect"), (8, 64, 56, 56)),
    "grid_sample bilinear [8,16,64,64]":
        (lambda lib, x, g: nn(lib).grid_sample(x, lib.tanh(g), align_corners=False), (8, 16, 64, 64), (8, 64, 64, 2)),
    "interpolate bilinear x2 [8,32,32,32]":
        (lambda lib, x: nn(lib).interpolate(x, scale_factor=2, mode="bilinear"), (8, 32, 32, 32)),
    "interpolate nearest x2 [8,32,32,32]": (lambda lib, x: nn(lib).interpolate(x, scale_factor=2), (8, 32, 32, 32)),
    "interpolate bicubic x2 [4,3,64,64]":
        (lambda lib, x: nn(lib).interpolate(x, scale_factor=2, mode="bicubic"), (4, 3, 64, 64)),
    "unfold 3x3 [4,32,28,28]": (lambda lib, x: nn(lib).unfold(x, 3, padding=1), (4, 32, 28, 28)),
    "pixel_shuffle 2 [4,64,64,64]": (lambda lib, x: nn(lib).pixel_shuffle(x, 2), (4, 64, 64, 64)),
}

INDEXING: dict[str, tuple[Any, ...]] = {
    "embedding 32000x512 b8x256": (lambda lib, w, i: nn(lib).embedding(i, w), (32000, 512), Whole(32000, 8, 256)),
    "index_add [10000,64] 50000":
        (lambda lib, x, i, v: lib.index_add(x, 0, i, v), (10000, 64), Whole(10000, 50000), (50000, 64)),
    "scatter_add [10000,64] 50000":
        (lambda lib, x, i, v: lib.scatter_add(x, 0, i, v), (10000, 64), Whole(10000, 50000, 64), (50000, 64)),
    "gather [2048,1000] 64": (lambda lib, x, i: lib.gather(x, 1, i), (2048, 1000), Whole(1000, 2048, 64)),
    "index_select 0 [10000,64] 50000": (lambda lib, x, i: lib.index_select(x, 0, i), (10000, 64), Whole(10000, 50000)),
    "index_select 1 [2048,1000] 500": (lambda lib, x, i: lib.index_select(x, 1, i), (2048, 1000), Whole(1000, 500)),
    "x[mask] 1M": (lambda lib, x, m: x[m > 0], (1 << 20,), Whole(2, 1 << 20)),
    "x[i, j] [1000,1000] 100k": (lambda lib, x, i, j: x[i, j], (1000, 1000), Whole(1000, 100000), Whole(1000, 100000)),
    "nonzero 1M": (lambda lib, m: lib.nonzero(m), Whole(2, 1 << 20)),
    "cumsum last [2048,1000]": (lambda lib, x: lib.cumsum(x, -1), (2048, 1000)),
    "cumsum axis 0 [2048,1000]": (lambda lib, x: lib.cumsum(x, 0), (2048, 1000)),
    "cumsum 1M": (lambda lib, x: lib.cumsum(x, 0), (1 << 20,)),
    "cumprod last [256,1000]": (lambda lib, x: lib.cumprod(x, -1), (256, 1000)),
    "sort last [256,1000]": (lambda lib, x: lib.sort(x, -1)[0], (256, 1000)),
    "sort 1M": (lambda lib, x: lib.sort(x)[0], (1 << 20,)),
    "argsort ints 100k": (lambda lib, x: lib.argsort(x), Whole(1 << 30, 100000)),
    "topk 5 [256,1000]": (lambda lib, x: lib.topk(x, 5)[0], (256, 1000)),
    "topk 50 [16,32000]": (lambda lib, x: lib.topk(x, 50)[0], (16, 32000)),
    "kthvalue [256,1000]": (lambda lib, x: lib.kthvalue(x, 500)[0], (256, 1000)),
    "median last [256,1000]": (lambda lib, x: lib.median(x, -1)[0], (256, 1000)),
    "unique 100k": (lambda lib, x: lib.unique(x), Whole(1000, 100000)),
    "bincount 1M": (lambda lib, x: lib.bincount(x), Whole(1000, 1 << 20)),
    "searchsorted 100k": (lambda lib, s, x: lib.searchsorted(lib.sort(s)[0], x), (1000,), (100000,)),
    "argmax last [2048,1000]": (lambda lib, x: lib.argmax(x, -1), (2048, 1000)),
    "argmax axis 0 [2048,1000]": (lambda lib, x: lib.argmax(x, 0), (2048, 1000)),
    "argmax axis 1 [64,21,64,64]": (lambda lib, x: lib.argmax(x, 1), (64, 21, 64, 64)),
    "argmax all 4M": (lambda lib, x: lib.argmax(x), (1 << 22,)),
    "one_hot 1000 [2048]": (lambda lib, x: nn(lib).one_hot(x, 1000), Whole(1000, 2048)),
}

COPIES: dict[str, tuple[Any, ...]] = {
    "transpose copy 2048x2048": (lambda lib, x: x.t().contiguous(), (2048, 2048)),
    "NCHW to NHWC [16,64,56,56]": (lambda lib, x: x.permute(0, 2, 3, 1).contiguous(), (16, 64, 56, 56)),
    "NHWC to NCHW [16,56,56,64]": (lambda lib, x: x.permute(0, 3, 1, 2).contiguous(), (16, 56, 56, 64)),
    "NHWC to NCHW [16,224,224,3]": (lambda lib, x: x.permute(0, 3, 1, 2).contiguous(), (16, 224, 224, 3)),
    "heads [8,512,8,64] to [8,8,512,64]": (lambda lib, x: x.transpose(1, 2).contiguous(), (8, 512, 8, 64)),
    "cat axis 1 [16,64,56,56] x2": (lambda lib, x, y: lib.cat((x, y), 1), (16, 64, 56, 56), (16, 64, 56, 56)),
    "cat last [2048,500] x2": (lambda lib, x, y: lib.cat((x, y), -1), (2048, 500), (2048, 500)),
    "stack 0 [1000,1000] x3": (lambda lib, x, y, z: lib.stack((x, y, z)), (1000, 1000), (1000, 1000), (1000, 1000)),
    "stack -1 [1000,1000] x3": (lambda lib, x, y, z: lib.stack((x, y, z), -1), (1000, 1000), (1000, 1000), (1000, 1000)),
    "flip [2048,1000] last": (lambda lib, x: lib.flip(x, (1,)), (2048, 1000)),
    "roll [2048,1000]": (lambda lib, x: lib.roll(x, 3, 1), (2048, 1000)),
    "repeat [512,512] 2x2": (lambda lib, x: x.repeat(2, 2), (512, 512)),
    "repeat_interleave [512,512] 2": (lambda lib, x: lib.repeat_interleave(x, 2, 1), (512, 512)),
    "where 4M": (lambda lib, x, y: lib.where(x > y, x, y), (1 << 22,), (1 << 22,)),
    "masked_fill [8,8,256,256]":
        (lambda lib, x, m: x.masked_fill(m > 0, -1e9), (8, 8, 256, 256), Whole(2, 256, 256, dtype="uint8")),
    "tril [2048,2048]": (lambda lib, x: lib.tril(x), (2048, 2048)),
    "uint8 NHWC to float NCHW, normalised [16,224,224,3]":
        (lambda lib, x: (x.permute(0, 3, 1, 2).float() / 255 - 0.45) / 0.225, Whole(256, 16, 224, 224, 3, dtype="uint8")),
    "uint8 to float 4M": (lambda lib, x: x.float(), Whole(256, 1 << 22, dtype="uint8")),
    "float to int8 4M": (lambda lib, x: x.detach().to(lib.int8), (1 << 22,)),
    "int8 add 4M": (lambda lib, x, y: x + y, Whole(100, 1 << 22, dtype="int8"), Whole(20, 1 << 22, dtype="int8")),
    "int32 to float 4M": (lambda lib, x: x.float(), Whole(256, 1 << 22, dtype="int32")),
    "bool any last [2048,1000]": (lambda lib, x: (x > 0).any(-1), Whole(2, 2048, 1000, dtype="uint8")),
    "bool all 4M": (lambda lib, x: x.all(), Whole(2, 1 << 22, dtype="uint8").array.astype(bool) | True),
    "bool sum 4M": (lambda lib, x: x.sum(), Whole(2, 1 << 22, dtype="bool")),
    "bool sum last [2048,1000]": (lambda lib, x: x.sum(-1), Whole(2, 2048, 1000, dtype="bool")),
    "int64 sum 1M": (lambda lib, x: x.sum(), Whole(100, 1 << 20)),
    "equal == mean 1M": (lambda lib, x, y: (x == y).float().mean(), Whole(10, 1 << 20), Whole(10, 1 << 20)),
}

PRODUCTS: dict[str, tuple[Any, ...]] = {
    "bmm [64,8,64,64]": (lambda lib, x, y: lib.matmul(x, y), (64, 8, 64, 64), (64, 8, 64, 64)),
    "bmm [512,16,16]": (lambda lib, x, y: lib.bmm(x, y), (512, 16, 16), (512, 16, 16)),
    "bmm [4096,4,4]": (lambda lib, x, y: lib.bmm(x, y), (4096, 4, 4), (4096, 4, 4)),
    "einsum bhqd,bhkd->bhqk [8,8,256,64]":
        (lambda lib, x, y: lib.einsum("bhqd,bhkd->bhqk", x, y), (8, 8, 256, 64), (8, 8, 256, 64)),
    "einsum bqhd,bkhd->bhqk [8,256,8,64]":
        (lambda lib, x, y: lib.einsum("bqhd,bkhd->bhqk", x, y), (8, 256, 8, 64), (8, 256, 8, 64)),
    "einsum bhqk,bkhd->bqhd": (lambda lib, x, y: lib.einsum("bhqk,bkhd->bqhd", x, y), (8, 8, 256, 256), (8, 256, 8, 64)),
    "einsum bi,ij,bj->b": (lambda lib, x, w, y: lib.einsum("bi,ij,bj->b", x, w, y), (512, 256), (256, 256), (512, 256)),
    "mm 1x4096 4096x4096": (lambda lib, x, y: lib.mm(x, y), (1, 4096), (4096, 4096)),
    "linear 8x1024 1024->4096": (lambda lib, x, w: nn(lib).linear(x, w), (8, 1024), (4096, 1024)),
    "linear 2048x512 512->512": (lambda lib, x, w, b: nn(lib).linear(x, w, b), (2048, 512), (512, 512), (512,)),
    "mv 4096": (lambda lib, x, y: lib.mv(x, y), (4096, 4096), (4096,)),
    "dot 1M": (lambda lib, x, y: lib.dot(x, y), (1 << 20,), (1 << 20,)),
    "outer 2048": (lambda lib, x, y: lib.outer(x, y), (2048,), (2048,)),
    "cdist 1000x1000x64": (lambda lib, x, y: lib.cdist(x, y), (1000, 64), (1000, 64)),
    "attention [8,8,256,64]":
        (lambda lib, q, k, v: nn(lib).scaled_dot_product_attention(q, k, v), *(((8, 8, 256, 64),) * 3)),
    "gelu 1M": (lambda lib, x: nn(lib).gelu(x), (1 << 20,)),
    "silu 1M": (lambda lib, x: nn(lib).silu(x), (1 << 20,)),
    "add 4M": (lambda lib, x, y: x + y, (1 << 22,), (1 << 22,)),
    "add row broadcast [2048,1000]": (lambda lib, x, y: x + y, (2048, 1000), (1000,)),
    "add column broadcast [2048,1000]": (lambda lib, x, y: x + y, (2048, 1000), (2048, 1)),
    "pow 1.5 1M": (lambda lib, x: (x * x) ** 1.5, (1 << 20,)),
    "atan2 1M": (lambda lib, x, y: lib.atan2(x, y), (1 << 20,), (1 << 20,)),
    "erf 1M": (lambda lib, x: lib.erf(x), (1 << 20,)),
}

COMPLEX: dict[str, tuple[Any, ...]] = {
    "complex mul 1M": (lambda lib, x, y: x * y, Pairs(1 << 20), Pairs(1 << 20)),
    "complex add 1M": (lambda lib, x, y: x + y, Pairs(1 << 20), Pairs(1 << 20)),
    "complex mul 64k": (lambda lib, x, y: x * y, Pairs(1 << 16), Pairs(1 << 16)),
    "complex div 1M": (lambda lib, x, y: x / y, Pairs(1 << 20), Pairs(1 << 20)),
    "complex abs 1M": (lambda lib, x: lib.abs(x), Pairs(1 << 20)),
    "complex exp 1M": (lambda lib, x: lib.exp(x), Pairs(1 << 20)),
    "complex real 1M copy": (lambda lib, x: x.real.clone(), Pairs(1 << 20)),
    "complex conj 1M copy": (lambda lib, x: x.conj() * 1.0, Pairs(1 << 20)),
    "complex sum 1M": (lambda lib, x: x.sum(), Pairs(1 << 20)),
    "complex sum last [1024,1024]": (lambda lib, x: x.sum(-1), Pairs(1024, 1024)),
    "complex mm 256": (lambda lib, x, y: x @ y, Pairs(256, 256), Pairs(256, 256)),
    "complex of parts 1M": (lambda lib, x, y: lib.complex(x, y), (1 << 20,), (1 << 20,)),
    "fft 64x1024": (lambda lib, x: lib.fft.fft(x), Pairs(64, 1024)),
    "rfft 64x1024": (lambda lib, x: lib.fft.rfft(x), (64, 1024)),
    "irfft 64x513": (lambda lib, x: lib.fft.irfft(x), Pairs(64, 513)),
    "fft2 8x128x128": (lambda lib, x: lib.fft.fft2(x), Pairs(8, 128, 128)),
    "fft small 256": (lambda lib, x: lib.fft.fft(x), Pairs(256)),
    "stft 16000":
        (lambda lib, x: lib.stft(x, 400, 160, window=lib.hann_window(400), return_complex=True), (8, 16000)),
}


def recurrent(kind: str, batch: int, steps: int) -> Callable[[], list[Run]]:
    """Inference by a recurrent layer of 128 -> 256."""
    def make() -> list[Run]:
        runs = []
        for lib in (torch, treadle):
            layer = getattr(lib.nn, kind)(128, 256, batch_first=True).eval()
            x = lib.randn(batch, steps, 128)

            def run(lib: Any = lib, layer: Any = layer, x: Any = x) -> Any:
                with lib.no_grad():
                    return finish(lib, layer(x)[0])
            runs.append(run)
        return runs
    return make


RECURRENT = {f"{kind} inference b{batch} t{steps}": recurrent(kind, batch, steps)
             for kind in ("GRU", "LSTM") for batch, steps in ((1, 50), (32, 50))}
TABLES = {"conv": CONVOLUTIONS, "norm": NORMS, "window": WINDOWS, "index": INDEXING, "copy": COPIES, "product": PRODUCTS,
          "complex": COMPLEX}


def finish(library: Any, value: Any) -> Any:
    return against_torch.done(value) if library is treadle else value


def arrays(specs: tuple[Any, ...]) -> list[np.ndarray]:
    found = []
    for spec in specs:
        if isinstance(spec, tuple):
            found.append(np.random.randn(*spec).astype("float32"))
        else:
            found.append(spec if isinstance(spec, np.ndarray) else spec.array)
    return found


def forward(library: Any, call: Call, data: list[np.ndarray]) -> Run:
    operands = [library.tensor(a) for a in data]

    def run() -> Any:
        return finish(library, call(library, *operands))
    return run


def gradient(library: Any, call: Call, data: list[np.ndarray]) -> Run | None:
    """One forward and backward pass, or None where no result takes part in derivatives."""
    operands = [library.tensor(a) for a in data]
    wanted = [x.requires_grad_() for x in operands if x.dtype.is_floating_point or x.dtype.is_complex]
    out = call(library, *operands)
    if not getattr(out, "requires_grad", False):
        return None
    chosen = np.asarray(np.random.randn(*out.shape, *((2,) if out.dtype.is_complex else ())), "float32")
    cotangent = library.from_numpy(chosen.view("complex64").reshape(tuple(out.shape)) if out.dtype.is_complex else chosen)

    def run() -> Any:
        return finish(library, library.autograd.grad(call(library, *operands), wanted, cotangent, allow_unused=True))
    return run


def report(name: str, runs: list[Run], repeats: int, fastest: bool) -> None:
    theirs, ours = median_times(runs, repeats, 0.005, min if fastest else statistics.median)
    print(f"{name:64} {theirs * 1e6:10.1f} us {ours * 1e6:10.1f} us {theirs / ours:7.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--fastest", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(treadle.get_num_threads())
    print(f"{'case':64} {'PyTorch':>13} {'Treadle':>13} {'ratio':>7}")
    for family, cases in TABLES.items():
        for name, (call, *specs) in cases.items():
            if not given.words or any(word in f"{family}: {name}" for word in given.words):
                data = arrays(tuple(specs))
                for kind, make in (("", forward), (" grad", gradient)):
                    runs = [make(lib, call, data) for lib in (torch, treadle)]
                    if all(runs):
                        report(name + kind, runs, given.repeats, given.fastest)
    for name, make in RECURRENT.items():
        if not given.words or any(word in f"recurrent: {name}" for word in given.words):
            report(name, make(), given.repeats, given.fastest)


if __name__ == "__main__":
    main()
