"""Matrix products for GPUs: C[b, m, n] = sum over k of A[b, m, k] B[b, k, n], any strides, any sizes.

A block of 256 threads computes a tile of C from tiles of A and B in shared memory; the next tiles are on their way meanwhile.
Each thread holds a square of C in registers. An epilogue, a map that alone reads C, is applied there: C itself is not written.
bfloat16 products run on tensor cores (codegen/ptx_tensor_cores.py).
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from treadle.codegen.expressions import memory_type
from treadle.codegen.llvm_text import Function, Module, Val, const, scalar_bits, vector_type
from treadle.codegen.ptx_emit import ZERO, KernelPoints, argument_words, kernel_function
from treadle.codegen.ptx_mapping import BLOCK, MAP, Mapping
from treadle.codegen.ptx_threads import SHARED, barrier, global_pointer, register, shared_array
from treadle.ir.kernel import Kernel

# The words behind the epilogue's arguments. Strides count elements; `inner`: size of the inner one of two batch axes.
WORDS = ("a", "b", "c", "m", "n", "k", "a_row", "a_col", "b_row", "b_col", "c_row", "c_col", "inner", "batch",
         "a_outer", "a_inner", "b_outer", "b_inner", "c_outer", "c_inner")
PANEL = 32  # columns of a panel of packed int8 weights
MAX_GRID = 65535


class Gemm(NamedTuple):
    """A variant. form: float32, float64, int8 (four bytes a word, packed weights) or bfloat16. tile: rows and columns of a block, side of
    a thread's square (0: tensor cores), depth. a_along_k, b_along_n: how neighbouring threads read. wide: 16 bytes at a time may be
    copied. epilogue: a kernel over (rows, columns) or (batch, rows, columns), or None; `product`: its access that reads C."""

    form: str
    tile: tuple[int, int, int, int]
    a_along_k: bool
    b_along_n: bool
    wide: bool = False
    epilogue: Kernel | None = None
    product: int = -1


LARGE, SMALL, SHALLOW, FLAT = (128, 128, 8, 8), (64, 64, 4, 16), (64, 64, 4, 8), (16, 64, 2, 16)
TENSOR_CORES = (128, 128, 0, 32)


def choose(form: str, sizes: tuple[int, int, int], a: tuple[int, int], b: tuple[int, int], wide: bool, epilogue: Kernel | None,
           product: int, batch: int = 1) -> Gemm:
    """The variant for sizes (m, n, k) and strides (row, column) of A and B."""
    m, n, _ = sizes
    tile = TENSOR_CORES if form == "bfloat16" else SMALL
    if tile is SMALL and form != "float32":
        tile = SHALLOW  # registers
    if tile is not TENSOR_CORES and m <= 16:
        tile = FLAT
    elif form == "float32" and batch * -(-m // 128) * -(-n // 128) >= 64 and epilogue is None:
        tile = LARGE
    return Gemm(form, tile, a[1] == 1, b[1] == 1, wide and form == "bfloat16", epilogue, product)


def grid(gemm: Gemm, m: int, n: int, batch: int) -> tuple[int, int, int]:
    rows, columns, *_ = gemm.tile
    return -(-n // columns), min(-(-m // rows), MAX_GRID), min(batch, MAX_GRID)


def words(gemm: Gemm) -> int:
    """Length of the argument table: the epilogue's, then WORDS."""
    return (0 if gemm.epilogue is None else argument_words(gemm.epilogue)) + len(WORDS)


class Tail(KernelPoints):
    """The epilogue at one element of C, whose value is at hand."""

    def __init__(self, f: Function, kernel: Kernel, product: int) -> None:
        self.product, self.value = product, ZERO
        super().__init__(f, kernel, Mapping(MAP, -1))

    def load(self, number: int, copy: int, varying: bool) -> Val:
        return self.value if self.kernel.body[number].params[0] == self.product else super().load(number, copy, varying)

    def needs_without_product(self) -> frozenset[int]:
        """Instructions that can be computed before there is a value."""
        behind: set[int] = set()
        for i, instr in enumerate(self.kernel.body):
            if (instr.opcode == "load" and instr.params[0] == self.product) or any(o in behind for o in instr.operands):
                behind.add(i)
        return self.needs - behind


class Block:
    """What a block of threads shares: its arguments, and how a finished element leaves."""

    def __init__(self, f: Function, gemm: Gemm) -> None:
        self.f, self.gemm = f, gemm
        first = words(gemm) - len(WORDS)
        self.arg = {name: f.load(f.gep(Val("ptr", "%args"), first + i, "i64"), "ptr" if name in "abc" else "i64")
                    for i, name in enumerate(WORDS)}
        for name in "abc":
            self.arg[name] = global_pointer(f, self.arg[name])
        self.tail = None if gemm.epilogue is None else Tail(f, gemm.epilogue, gemm.product)
        self.thread = register(f, "tid.x")

    def each_tile(self, body: Callable[[], None]) -> None:
        """`body()` for the tiles of this block: `self.row`, `self.column` and `self.base` say where they are."""
        f, arg = self.f, self.arg
        rows, columns, *_ = self.gemm.tile
        self.column = f.mul(register(f, "ctaid.x"), columns)
        with f.loop(register(f, "ctaid.z"), arg["batch"], register(f, "nctaid.z")) as batches:
            self.batch = batches.index
            outer, inner = f.binary("udiv", self.batch, arg["inner"]), f.binary("urem", self.batch, arg["inner"])
            self.base = {}
            for name in "abc":
                away = f.add(f.mul(outer, arg[f"{name}_outer"]), f.mul(inner, arg[f"{name}_inner"]))
                self.base[name] = f.gep(arg[name], away, self.element(name))
            first = f.mul(register(f, "ctaid.y"), rows)
            with f.loop(first, arg["m"], f.mul(register(f, "nctaid.y"), rows)) as tiles:
                self.row = tiles.index
                body()
                tiles.next([])
            batches.next([])

    def element(self, name: str) -> str:
        """The LLVM type in memory."""
        if self.gemm.form == "int8":
            return "i32"
        if self.gemm.form == "bfloat16":
            return "float" if name == "c" else "i16"
        return memory_type(self.gemm.form)

    def finish(self, rows: Sequence[Val], columns: Sequence[Val], values: dict[tuple[int, int], Val]) -> None:
        """Hand over elements (i, j) of the tile: stored, or given to the epilogue, where they are inside C."""
        f, arg = self.f, self.arg
        for i, row in enumerate(rows):
            with f.if_(f.compare("slt", row, arg["m"])):
                if self.tail is None:
                    place = f.gep(self.base["c"], f.mul(row, arg["c_row"]), self.element("c"))
                    for j, column in enumerate(columns):
                        with f.if_(f.compare("slt", column, arg["n"])):
                            f.store(values[i, j], f.gep(place, f.mul(column, arg["c_col"]), self.element("c")))
                else:
                    self._finish_row(self.tail, row, columns, [values[i, j] for j in range(len(columns))])

    def _finish_row(self, tail: Tail, row: Val, columns: Sequence[Val], values: list[Val]) -> None:
        f, axes = self.f, len(tail.kernel.axes)
        early = tail.needs_without_product()
        with tail.scope():
            if axes == 3:
                tail.enter(0, self.batch, early)
            tail.enter(axes - 2, row, early)
            for column, value in zip(columns, values, strict=True):
                with f.if_(f.compare("slt", column, self.arg["n"])), tail.scope():
                    tail.value = value
                    tail.enter(axes - 1, column)
                    tail.finish()


def emit_gemm(module: Module, gemm: Gemm, name: str) -> None:
    """Add the product's kernel to the module."""
    f = kernel_function(module, name, words(gemm))
    if gemm.tile[2] == 0:
        from treadle.codegen.ptx_tensor_cores import emit_tiles
        emit_tiles(Block(f, gemm))
    else:
        _Squares(Block(f, gemm)).emit()
    f.line("ret void")
    f.finish()


class _Squares:
    """Fused multiply-adds in registers: a thread's square of C as groups of four neighbours, so that shared memory is read in 16 bytes."""

    def __init__(self, block: Block) -> None:
        self.block, self.f, self.gemm = block, block.f, block.gemm
        self.rows, self.columns, self.side, self.depth = block.gemm.tile
        self.number = block.element("a")
        self.accumulator = "i32" if self.gemm.form == "int8" else self.number
        f = block.f
        # One more group of four keeps neighbouring k apart from each other's banks.
        self.pitch = {"a": self.rows + 4, "b": self.columns + 4}
        self.shared = {x: shared_array(f, f"{f.name}_{x}", self.number, self.depth * self.pitch[x]) for x in "ab"}
        self.depth_total = f.binary("udiv", block.arg["k"], const("i64", 4)) if self.gemm.form == "int8" else block.arg["k"]

    def emit(self) -> None:
        self.block.each_tile(self.tile)

    def tile(self) -> None:
        f = self.f
        high = self.rows * self.columns // BLOCK // self.side if self.rows < self.columns else self.side
        self.tall, self.broad = (self.side, high) if self.rows < self.columns else (self.side, self.side)
        across = self.columns // self.broad
        x, y = f.binary("urem", self.block.thread, const("i64", across)), f.binary("udiv", self.block.thread, const("i64", across))
        row_places, column_places = self.places(y, self.tall, self.rows), self.places(x, self.broad, self.columns)
        zero = const(self.accumulator, 0)
        fetched = [*self.fetch("a", ZERO), *self.fetch("b", ZERO)]
        a_count = self.rows * self.depth // BLOCK
        with f.loop(ZERO, self.depth_total, self.depth, [*fetched, *[zero] * (self.tall * self.broad)]) as loop:
            fetched, square = loop.values[:len(fetched)], loop.values[len(fetched):]
            barrier(f)  # the tiles before have been read
            self.put("a", fetched[:a_count])
            self.put("b", fetched[a_count:])
            barrier(f)
            following = f.add(loop.index, self.depth)
            coming = [*self.fetch("a", following), *self.fetch("b", following)]
            for k in range(self.depth):
                square = self.multiply(square, self.take("a", k, row_places), self.take("b", k, column_places))
            loop.next([*coming, *square])
        square = loop.values[len(fetched):]
        rows = [f.add(self.block.row, p) for p in self.spots(row_places, self.tall)]
        columns = [f.add(self.block.column, p) for p in self.spots(column_places, self.broad)]
        self.block.finish(rows, columns, {(i, j): square[i * self.broad + j] for i in range(self.tall) for j in range(self.broad)})

    def places(self, number: Val, side: int, extent: int) -> list[Val]:
        """Where the thread's groups of (up to four) neighbours begin within the tile."""
        f, group = self.f, min(side, 4)
        return [f.add(f.mul(number, group), i * extent // (side // group)) for i in range(side // group)]

    def spots(self, places: list[Val], side: int) -> list[Val]:
        return [self.f.add(p, i) for p in places for i in range(min(side, 4))]

    # -- tiles -------------------------------------------------------------------------------------------------------
    def _spot(self, operand: str, turn: int) -> tuple[Val, Val]:
        """(along the tile's edge, along k) of the element that the thread moves in a turn: neighbours read neighbours."""
        f = self.f
        edge = self.rows if operand == "a" else self.columns
        number = f.add(self.block.thread, turn * BLOCK)
        along_k = self.gemm.a_along_k if operand == "a" else not self.gemm.b_along_n
        fast = const("i64", self.depth if along_k else edge)
        low, high = f.binary("urem", number, fast), f.binary("udiv", number, fast)
        return (high, low) if along_k else (low, high)

    def _turns(self, operand: str) -> int:
        return (self.rows if operand == "a" else self.columns) * self.depth // BLOCK

    def fetch(self, operand: str, k: Val) -> list[Val]:
        """The thread's part of a tile from global memory; 0 outside the operand."""
        f, arg, found = self.f, self.block.arg, []
        for turn in range(self._turns(operand)):
            edge, deep = self._spot(operand, turn)
            edge, deep = f.add(edge, self.block.row if operand == "a" else self.block.column), f.add(deep, k)
            inside = f.binary("and", f.compare("slt", edge, arg["m" if operand == "a" else "n"]), f.compare("slt", deep, self.depth_total))
            before, then, end = f.label("fetch"), f.label("inside"), f.label("fetched")
            f.branch(before)
            f.start(before)
            f.branch_if(inside, then, end)
            f.start(then)
            value = f.load(self._address(operand, edge, deep), self.number)
            f.branch(end)
            f.start(end)
            found.append(f.op(f"phi {self.number} [ {const(self.number, 0).name}, %{before} ], [ {value.name}, %{then} ]", self.number))
        return found

    def _address(self, operand: str, edge: Val, deep: Val) -> Val:
        f, arg, base = self.f, self.block.arg, self.block.base[operand]
        if self.gemm.form == "int8":  # in words of four bytes
            if operand == "a":
                return f.gep(f.gep(base, f.mul(edge, arg["a_row"]), "i8"), deep, "i32")
            panel, lane = f.binary("udiv", edge, const("i64", PANEL)), f.binary("urem", edge, const("i64", PANEL))
            word = f.add(f.mul(f.add(f.mul(panel, self.depth_total), deep), PANEL), lane)
            return f.gep(base, word, "i32")
        row, column = (edge, deep) if operand == "a" else (deep, edge)
        offset = f.add(f.mul(row, arg[f"{operand}_row"]), f.mul(column, arg[f"{operand}_col"]))
        return f.gep(base, offset, self.number)

    def put(self, operand: str, values: list[Val]) -> None:
        for turn, value in enumerate(values):
            edge, deep = self._spot(operand, turn)
            self.f.store(value, self._shared(operand, self.f.add(self.f.mul(deep, self.pitch[operand]), edge)))

    def _shared(self, operand: str, index: Val) -> Val:
        return self.f.op(f"getelementptr inbounds {self.number}, {self.shared[operand]}, {index}", SHARED)

    def take(self, operand: str, k: int, places: list[Val]) -> list[Val]:
        """The thread's elements of a tile at depth k."""
        f, side = self.f, self.tall if operand == "a" else self.broad
        group = min(side, 4)
        found = []
        for place in places:
            ty = vector_type(self.number, group)
            whole = f.load(self._shared(operand, f.add(place, k * self.pitch[operand])), ty, group * scalar_bits(self.number) // 8)
            found += [whole] if group == 1 else [f.op(f"extractelement {whole}, i32 {i}", self.number) for i in range(group)]
        return found

    def multiply(self, square: list[Val], a: list[Val], b: list[Val]) -> list[Val]:
        return [self._step(x, y, square[i * len(b) + j]) for i, x in enumerate(a) for j, y in enumerate(b)]

    def _step(self, x: Val, y: Val, total: Val) -> Val:
        f = self.f
        if self.gemm.form == "int8":  # unsigned bytes times signed ones
            return f.call("llvm.nvvm.idp4a.u.s", "i32", x, y, total)
        return f.fma(x, y, total)
