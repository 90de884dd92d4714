"""What guards the reads of a kernel, computed once for all lanes where it follows from them alone: bits in scratch memory."""
from __future__ import annotations

from treadle.codegen.llvm_text import Function, Val, const, vector_type

# Lanes whose guards are kept for a whole launch; of longer axes those of one unit or piece are.
MOST_LANES = 1 << 16
# Behind what kernels keep of a row's values.
PLACE = 1 << 20


class GuardTable:
    """For each vector of lanes from `start` on, one entry for each guard."""

    def __init__(self, f: Function, guards: tuple[int, ...], width: int) -> None:
        self.f, self.guards, self.width = f, guards, width
        self.bits = max(width, 8)
        self.start = const("i64", 0)
        self.whole = Val("i1", "false")  # it holds all lanes for all units

    def _place(self, guard: int, index: Val, copy: int) -> Val:
        f = self.f
        vector = f.add(f.binary("udiv", f.sub(index, self.start), const("i64", self.width)), copy)
        entry = f.add(f.mul(vector, len(self.guards)), self.guards.index(guard))
        return f.gep(f.gep(Val("ptr", "%scratch"), PLACE, "i8"), entry, f"i{self.bits}")

    def write(self, guard: int, index: Val, value: Val) -> None:
        """Keep the value of a guard for the vector at lane `index`."""
        word = self.f.op(f"bitcast {value} to i{self.width}", f"i{self.width}")
        wide = word if self.bits == self.width else self.f.cast("zext", word, f"i{self.bits}")
        self.f.store(wide, self._place(guard, index, 0), self.bits // 8)

    def read(self, guard: int, index: Val, copy: int) -> Val:
        word = self.f.load(self._place(guard, index, copy), f"i{self.bits}", self.bits // 8)
        narrow = word if self.bits == self.width else self.f.cast("trunc", word, f"i{self.width}")
        return self.f.op(f"bitcast {narrow} to {vector_type('i1', self.width)}", vector_type("i1", self.width))
