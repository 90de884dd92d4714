"""Which matrix kernel computes a product, and how its result is cut into units. Pure functions of sizes and strides."""
from __future__ import annotations

import math
from collections.abc import Sequence
from enum import IntEnum
from typing import Any, NamedTuple

from treadle.codegen.gemm_micro import Tile, product_tile
from treadle.codegen.gemm_small import GROUP
from treadle.codegen.target import host, matrix_unit
from treadle.passes.program import MOST_DIGITS


class Word(IntEnum):
    """The argument table of the matrix kernels. Strides count elements; OUTER and INNER are those of two batch axes."""

    A = 0
    B = 1
    C = 2
    EPILOGUE = 3
    EPILOGUE_ARGS = 4
    M = 5
    N = 6
    K = 7
    A_ROW = 8
    A_COLUMN = 9
    B_ROW = 10
    B_COLUMN = 11
    C_ROW = 12
    C_COLUMN = 13
    INNER_BATCH = 14
    A_OUTER = 15
    A_INNER = 16
    B_OUTER = 17
    B_INNER = 18
    C_OUTER = 19
    C_INNER = 20
    TILE_ROWS = 21
    TILE_COLUMNS = 22
    PACK_B = 23  # whether strips of B are packed beforehand; WINDOWS, ACROSS: from an image, see the words behind SWAPPED
    SWAPPED = 24
    TABLE_SIZE_1 = 25  # sizes of the digits behind the first, and the strides of all four: of rows or, ACROSS, of columns
    TABLE_SIZE_2 = 26
    TABLE_SIZE_3 = 27
    TABLE_STRIDE_0 = 28
    TABLE_STRIDE_1 = 29
    TABLE_STRIDE_2 = 30
    TABLE_STRIDE_3 = 31
    LINES_SIZE_1 = 32  # the same of the others; the last digit runs along a line
    LINES_SIZE_2 = 33
    LINES_LENGTH = 34
    LINES_STRIDE_0 = 35
    LINES_STRIDE_1 = 36
    LINES_STRIDE_2 = 37
    LINES_STEP = 38


WINDOWS, ACROSS = 2, 3


class Layout(NamedTuple):
    """Element strides of one operand: over the two batch axes, rows and columns."""

    row: int
    column: int = 1
    outer: int = 0
    inner: int = 0

    @property
    def transposed(self) -> Layout:
        return Layout(self.column, self.row, self.outer, self.inner)


class GemmStep(NamedTuple):
    """A plan step: kernel `symbol` (see `gemm.gemm_address`) over `units`, on one thread when units <= `grain`."""

    symbol: str
    words: tuple[int, ...]
    swapped: bool
    units: int
    grain: int

    def arguments(self, a: Any, b: Any, c: Any, epilogue: Any = 0, epilogue_args: Any = 0) -> list[Any]:
        """The argument table, from whatever stands for the operands' addresses (integers, `Ref`s).

        The epilogue, 0 for none, is the address of `void (ptr args, i64 row_lo, i64 row_hi, i64 col_lo, i64 col_hi, i64 batch)`,
        called for each block of C once it is final; together the blocks cover C exactly once.
        """
        if self.swapped:
            a, b = b, a
        return [a, b, c, epilogue, epilogue_args, *self.words]


# Columns of a panel of packed int8 weights, on every CPU.
INT8_PANEL = 32
# Products of bfloat16 numbers large enough for the matrix unit: rows or columns, words of K; longer rows do not fit its buffers.
AMX_ROWS, AMX_WORDS, AMX_MOST = 16, 16, 1 << 13
# Multiply-adds that pay for waking another thread.
THREAD_WORK = 100_000
# At most so many rows use dot products when both operands lie along K.
DOT_ROWS = 16
# Elements of A that dot products may copy to scratch memory to have them along K.
DOT_COPY = 1 << 20
# B that is contiguous along N is packed in long runs when it is larger than this, and for more than a few rows; otherwise
# it is read in place, and copied strip by strip while it is first used.
IN_PLACE_ROWS = 40
IN_PLACE_BYTES = 8 << 20


def gemm_step(dtype: str, m: int, n: int, k: int, a: Layout, b: Layout, c: Layout, batch: Sequence[int] = (), threads: int = 1,
              windows: tuple[int, ...] = ()) -> GemmStep:
    """The step that computes C[.., m, n] = A[.., m, k] @ B[.., k, n] for `float32` or `float64`.

    Or `bfloat16`, with C in float32: k is even, and each of A and B is contiguous along one of its axes; where that is K, strides are even.
    `windows`: PACK_B and the words from TABLE_SIZE_1 on, of a B whose rows and columns are windows of an image; its strides are 0.
    `batch` has up to two sizes (outer, inner); one size is the inner one. C must be contiguous along its columns unless
    it has only one. ValueError when it is not, or when there are more than two batch axes.
    """
    if len(batch) > 2:
        raise ValueError(f"a matrix product has at most 2 batch axes, got sizes {tuple(batch)}")
    if c.column != 1 and n > 1 and m and math.prod(batch):
        raise ValueError(f"the result of a matrix product must have column stride 1, got {c.column}")
    outer, inner = (1, 1, *batch)[-2:]
    return _plan(dtype, (m, n, k), (a, b, c), (outer, inner), threads, windows)


def _plan(dtype: str, sizes: tuple[int, int, int], layouts: tuple[Layout, Layout, Layout], batch: tuple[int, int],
          threads: int, windows: tuple[int, ...]) -> GemmStep:
    m, n, k = sizes
    tile = product_tile(host(), dtype)
    pairs = dtype == "bfloat16"
    small = _dot_of_pairs if pairs else _small_kind
    k = k // 2 if pairs else k
    kind = "blocked" if windows else small((m, n, k), layouts)
    swapped = False
    if kind is None and n < m:
        other = layouts[1].transposed, layouts[0].transposed, layouts[2].transposed
        kind = small((n, m, k), other)
        if kind is not None:
            swapped, layouts, (m, n) = True, other, (n, m)
    a, b, c = layouts
    if pairs and kind is not None:
        a, b = _in_words(a), _in_words(b)
    kind = kind or "blocked"
    pack_b = windows[0] if windows else int(kind == "blocked" and (pairs or _packs_b(tile, (m, n, k), b)))
    count = batch[0] * batch[1]
    weights = (16 if a.column == 1 else 8, (16 if b.row == 1 or windows else 8) if pack_b else 2)
    height, width = _cut(tile, kind, (m, n, k), count, threads, weights)
    units = count * -(-m // height) * -(-n // width) if m and n else 0
    words = (m, n, k, a.row, a.column, b.row, b.column, c.row, c.column, max(1, batch[1]), a.outer, a.inner, b.outer, b.inner,
             c.outer, c.inner, height, width, pack_b, int(swapped), *windows[1:])
    work = count * m * n * max(k, 1)
    grain = max(1, -(-units // max(1, work // THREAD_WORK)))
    return GemmStep(f"gemm_{kind}_{dtype}", words, swapped, units, grain)


def window_words(rows: Sequence[tuple[int, int]], columns: Sequence[tuple[int, int]], across: bool) -> tuple[int, ...]:
    """What `gemm_step` takes as `windows`, from the fields of `treadle.passes.program.Windows`."""
    table, lines = (columns, rows) if across else (rows, columns)
    return (ACROSS if across else WINDOWS, *_digit_words(table), *_digit_words(lines))


def _digit_words(digits: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    full = [(1, 0)] * (MOST_DIGITS - len(digits)) + list(digits)  # a digit that is not there never counts up
    return (*[size for size, _ in full[1:]], *[stride for _, stride in full])


def int8_step(m: int, n: int, k: int, a_row: int, c_row: int, threads: int = 1) -> GemmStep:
    """The step that computes C[m, n] (int32) from unsigned A[m, k], with rows `a_row` bytes apart, and packed signed B.

    k and a_row are multiples of 4. B is panels of 32 columns: [ceil(n / 32), k / 4, 32, 4].
    """
    tile = product_tile(host(), "int8")
    height, width = _cut(tile, "blocked", (m, n, k // 4), 1, threads, (8, 2))
    width = _share(width, 1, INT8_PANEL)
    units = -(-m // height) * -(-n // width) if m and n else 0
    words = (m, n, k // 4, a_row // 4, 1, 0, 0, c_row, 1, 1, 0, 0, 0, 0, 0, 0, height, width, 0, 0)
    grain = max(1, -(-units // max(1, m * n * k // 4 // THREAD_WORK)))
    return GemmStep("gemm_packed_int8", words, False, units, grain)


def fits_tiles(m: int, n: int, k: int) -> bool:
    """Whether the matrix unit computes a product of bfloat16 numbers: it is there, and worth its setting up."""
    return min(m, n) >= AMX_ROWS and AMX_WORDS <= k // 2 <= AMX_MOST and k % 2 == 0 and matrix_unit()


def tiles_step(m: int, n: int, k: int, a: Layout, b: Layout, c: Layout, batch: tuple[int, ...] = (), threads: int = 1) -> GemmStep:
    """As `gemm_step`, for bfloat16 A and B on the matrix unit (`fits_tiles`); C is float32.

    Each of A and B is contiguous along one of its axes; where that is K, strides are even. All strides count numbers.
    """
    tile = product_tile(host(), "bfloat16")
    outer, inner = (1, 1, *batch)[-2:]
    count = outer * inner
    height, width = _cut(tile, "amx", (m, n, k // 2), count, threads, (16, 16))
    units = count * -(-m // height) * -(-n // width)
    words = (m, n, k // 2, a.row, a.column, b.row, b.column, c.row, c.column, max(1, inner), a.outer, a.inner, b.outer, b.inner, c.outer,
             c.inner, height, width, 0, 0)
    grain = max(1, -(-units // max(1, count * m * n * k // 4 // THREAD_WORK)))
    return GemmStep("gemm_amx_bfloat16", words, False, units, grain)


def _small_kind(sizes: tuple[int, int, int], layouts: tuple[Layout, Layout, Layout]) -> str | None:
    """`dot` or `stream` when the product has few rows and the layout for it."""
    m, _, k = sizes
    a, b, c = layouts
    if k == 0:
        return None
    if m <= DOT_ROWS and b.row == 1 and (a.column == 1 or m * k <= DOT_COPY):
        return "dot"
    if m <= GROUP and b.column == 1 and c.column == 1:
        return "stream"
    return None


def _dot_of_pairs(sizes: tuple[int, int, int], layouts: tuple[Layout, Layout, Layout]) -> str | None:
    """The same for bfloat16: both operands are words along K as they lie in memory."""
    m, _, k = sizes
    return "dot" if m <= DOT_ROWS and k and layouts[0].column == 1 and layouts[1].row == 1 else None


def _in_words(layout: Layout) -> Layout:
    """Strides in words of two numbers; the axis along which numbers lie side by side becomes one along which words do."""
    row, column = [s if s == 1 else s // 2 for s in (layout.row, layout.column)]
    return Layout(row, column, layout.outer // 2, layout.inner // 2)


def _packs_b(tile: Tile, sizes: tuple[int, int, int], b: Layout) -> bool:
    """Reading B in place needs contiguous rows and, without masks, whole tiles."""
    m, n, k = sizes
    if b.column != 1 or not (tile.masked or n % tile.columns == 0):
        return True
    return m > IN_PLACE_ROWS and n * k * tile.align > IN_PLACE_BYTES


def _cut(tile: Tile, kind: str, sizes: tuple[int, int, int], batch: int, threads: int, weights: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of a unit. The whole matrix when the batch alone feeds the threads.

    `weights`: multiply-adds that take as long as packing (or reading) one element of A, of B.
    """
    m, n, k = sizes
    m, n = max(m, 1), max(n, 1)
    wanted = min(threads, batch * m * n * max(k, 1) // THREAD_WORK)
    if wanted <= batch or batch >= 4 * threads:
        return m, n
    pieces = -(-wanted // max(batch, 1))
    if kind not in ("blocked", "amx"):
        return m, _share(n, pieces, tile.lanes)
    cuts = [(_share(m, down, 1), _share(n, pieces // down, tile.columns)) for down in range(1, pieces + 1)]
    cost = lambda cut: cut[0] * cut[1] + weights[0] * cut[0] + weights[1] * cut[1]
    return min(cuts, key=cost)


def _share(size: int, pieces: int, multiple: int) -> int:
    return -(-size // (pieces * multiple)) * multiple
