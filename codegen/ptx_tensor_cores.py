"""bfloat16 products on tensor cores: `mma.sync` m16n8k16 on tiles that `cp.async` brings in while the ones before are used.

A and B lie along K, two numbers a word. Tiles in shared memory are rows of 64 bytes, whose 16-byte pieces are exchanged by row
so that `ldmatrix` meets every bank once. Eight warps, two by four, hold 64 x 32 elements of C each.
"""
from __future__ import annotations

from treadle.codegen.llvm_text import Val, const
from treadle.codegen.ptx_gemm import Block
from treadle.codegen.ptx_mapping import BLOCK
from treadle.codegen.ptx_threads import SHARED, barrier, shared_array

ROWS, COLUMNS, DEPTH, STAGES = 128, 128, 32, 3
WARP_ROWS, WARP_COLUMNS = 64, 32
ROW_BYTES, PIECE = 2 * DEPTH, 16
TILE_BYTES = ROWS * ROW_BYTES
ZERO = const("i64", 0)


def emit_tiles(block: Block) -> None:
    """The body of the kernel."""
    _Tiles(block).emit()


class _Tiles:
    def __init__(self, block: Block) -> None:
        self.block, self.f = block, block.f
        f = block.f
        self.shared = {x: shared_array(f, f"{f.name}_{x}", "i8", STAGES * TILE_BYTES, 128) for x in "ab"}
        self.lane = f.binary("and", block.thread, const("i64", 31))
        warp = f.binary("lshr", block.thread, const("i64", 5))
        self.warp_row = f.mul(f.binary("lshr", warp, const("i64", 2)), WARP_ROWS)
        self.warp_column = f.mul(f.binary("and", warp, const("i64", 3)), WARP_COLUMNS)

    def emit(self) -> None:
        self.block.each_tile(self.tile)

    def tile(self) -> None:
        f, depth = self.f, self.block.arg["k"]
        zero = const("float", 0.0)
        barrier(f)  # the last tiles of the block before have been read
        for early in range(STAGES - 1):
            self.bring(const("i64", early * DEPTH), const("i64", early))
        count = (WARP_ROWS // 16) * (WARP_COLUMNS // 8) * 4
        with f.loop(ZERO, depth, DEPTH, [ZERO, const("i64", STAGES - 1), *[zero] * count]) as loop:
            stage, ahead, sums = loop.values[0], loop.values[1], loop.values[2:]
            if self.block.gemm.wide:
                f.call_void("llvm.nvvm.cp.async.wait.group", const("i32", STAGES - 2))
            barrier(f)
            self.bring(f.add(loop.index, (STAGES - 1) * DEPTH), ahead)
            for half in range(DEPTH // 16):
                sums = self.multiply(sums, stage, half)
            loop.next([self._after(stage), self._after(ahead), *sums])
        if self.block.gemm.wide:
            f.call_void("llvm.nvvm.cp.async.wait.group", const("i32", 0))
        self.finish(loop.values[2:])

    def _after(self, stage: Val) -> Val:
        f = self.f
        return f.select(f.compare("eq", stage, const("i64", STAGES - 1)), ZERO, f.add(stage, 1))

    # -- global memory to shared -------------------------------------------------------------------------------------
    def bring(self, k: Val, stage: Val) -> None:
        """Start to copy the tiles at depth `k` into a stage; outside the operands they are 0."""
        for operand in "ab":
            for turn in range(TILE_BYTES // PIECE // BLOCK):
                self._piece(operand, turn, k, stage)
        if self.block.gemm.wide:
            self.f.call_void("llvm.nvvm.cp.async.commit.group")

    def _piece(self, operand: str, turn: int, k: Val, stage: Val) -> None:
        """One piece of 8 numbers: a row of the tile has four."""
        f, arg = self.f, self.block.arg
        number = f.add(self.block.thread, turn * BLOCK)
        row, piece = f.binary("lshr", number, const("i64", 2)), f.binary("and", number, const("i64", 3))
        target = self._place(operand, stage, row, piece)
        edge = f.add(row, self.block.row if operand == "a" else self.block.column)
        deep = f.add(k, f.mul(piece, 8))
        inside = f.compare("slt", edge, arg["m" if operand == "a" else "n"])
        pitch = arg["a_row" if operand == "a" else "b_col"]
        source = f.gep(f.gep(self.block.base[operand], f.mul(f.select(inside, edge, ZERO), pitch), "i16"), deep, "i16")
        left = f.select(inside, f.smax(f.sub(arg["k"], deep), ZERO), ZERO)
        if self.block.gemm.wide:
            source = f.select(f.compare("sgt", left, ZERO), source, self.block.base[operand])
            there = f.op(f"addrspacecast {source} to ptr addrspace(1)", "ptr addrspace(1)")
            size = f.cast("trunc", f.mul(f.smin(left, const("i64", 8)), 2), "i32")
            f.call_void("llvm.nvvm.cp.async.cg.shared.global.16.s", target, there, size)
            return
        for pair in range(4):
            value = self._pair(f.gep(source, 2 * pair, "i16"), f.sub(left, 2 * pair))
            f.store(value, f.op(f"getelementptr inbounds i32, {target}, i64 {pair}", SHARED))

    def _pair(self, source: Val, left: Val) -> Val:
        """Two numbers as a word, 0 for what is beyond the end."""
        f = self.f
        before, then, both, end = f.label("pair"), f.label("first"), f.label("both"), f.label("paired")
        word = f.variable(const("i32", 0))
        f.branch(before)
        f.start(before)
        f.branch_if(f.compare("sgt", left, ZERO), then, end)
        f.start(then)
        f.store(f.cast("zext", f.load(source, "i16"), "i32"), word)
        f.branch_if(f.compare("sgt", left, const("i64", 1)), both, end)
        f.start(both)
        second = f.cast("zext", f.load(f.gep(source, 1, "i16"), "i16"), "i32")
        f.store(f.binary("or", f.load(word, "i32"), f.binary("shl", second, const("i32", 16))), word)
        f.branch(end)
        f.start(end)
        return f.load(word, "i32")

    def _place(self, operand: str, stage: Val, row: Val, piece: Val) -> Val:
        """Where a piece of a row lies: pieces are exchanged within pairs of rows."""
        f = self.f
        turned = f.binary("xor", piece, f.binary("and", f.binary("lshr", row, const("i64", 1)), const("i64", 3)))
        offset = f.add(f.mul(stage, TILE_BYTES), f.add(f.mul(row, ROW_BYTES), f.mul(turned, PIECE)))
        return f.op(f"getelementptr inbounds i8, {self.shared[operand]}, {offset}", SHARED)

    # -- products ----------------------------------------------------------------------------------------------------
    def multiply(self, sums: list[Val], stage: Val, half: int) -> list[Val]:
        """Add the product of 16 columns of A and 16 rows of B."""
        f, lane = self.f, self.lane
        a_row, a_piece = f.binary("and", lane, const("i64", 15)), f.binary("lshr", lane, const("i64", 4))
        b_row = f.add(f.binary("and", lane, const("i64", 7)), f.mul(f.binary("lshr", lane, const("i64", 4)), 8))
        b_piece = f.binary("and", f.binary("lshr", lane, const("i64", 3)), const("i64", 1))
        a = [self._matrices("a", stage, f.add(f.add(self.warp_row, 16 * i), a_row), f.add(a_piece, 2 * half))
             for i in range(WARP_ROWS // 16)]
        b: list[list[Val]] = []
        for j in range(WARP_COLUMNS // 16):
            four = self._matrices("b", stage, f.add(f.add(self.warp_column, 16 * j), b_row), f.add(b_piece, 2 * half))
            b += [four[:2], four[2:]]
        found = []
        for i, left in enumerate(a):
            for j, right in enumerate(b):
                at = (i * len(b) + j) * 4
                found += self._mma([*left, *right, *sums[at:at + 4]])
        return found

    def _matrices(self, operand: str, stage: Val, row: Val, piece: Val) -> list[Val]:
        """Four 8 x 8 matrices in the registers of a warp."""
        f, ty = self.f, "{ i32, i32, i32, i32 }"
        found = f.call("llvm.nvvm.ldmatrix.sync.aligned.m8n8.x4.b16.p3", ty, self._place(operand, stage, row, piece))
        return [f.op(f"extractvalue {found}, {i}", "i32") for i in range(4)]

    def _mma(self, operands: list[Val]) -> list[Val]:
        f = self.f
        found = f.call("llvm.nvvm.mma.m16n8k16.row.col.bf16", "{ float, float, float, float }", *operands)
        return [f.op(f"extractvalue {found}, {i}", "float") for i in range(4)]

    def finish(self, sums: list[Val]) -> None:
        """A thread has two neighbours in each of two rows of every 16 x 8 product."""
        f = self.f
        row = f.add(f.add(self.block.row, self.warp_row), f.binary("lshr", self.lane, const("i64", 2)))
        column = f.add(f.add(self.block.column, self.warp_column), f.mul(f.binary("and", self.lane, const("i64", 3)), 2))
        rows = [f.add(row, 16 * i + 8 * h) for i in range(WARP_ROWS // 16) for h in range(2)]
        columns = [f.add(column, 8 * j + e) for j in range(WARP_COLUMNS // 8) for e in range(2)]
        values = {}
        per_row = WARP_COLUMNS // 8
        for i in range(WARP_ROWS // 16):
            for j in range(per_row):
                for h in range(2):
                    for e in range(2):
                        values[2 * i + h, 2 * j + e] = sums[(i * per_row + j) * 4 + 2 * h + e]
        self.block.finish(rows, columns, values)
