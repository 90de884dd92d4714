"""Sizes of an MLIR function that may be dynamic, told from the sizes that two recordings of it had."""
from __future__ import annotations

from collections.abc import Callable

Size = int | str  # a constant, or the name of a value of type `index`


class Sizes:
    """Finds, for a size that was `a` in one recording and `b` in the other, what it is in terms of the operands' sizes."""

    def __init__(self, write: Callable[[str], str]) -> None:
        self.write = write
        self.known: dict[tuple[int, int], str] = {}

    def define(self, a: int, b: int, operand: str, type: str, axis: int) -> None:
        """Axis `axis` of an operand of the function has this size."""
        if (a, b) not in self.known:
            at = self.write(f"arith.constant {axis} : index")
            self.known[a, b] = self.write(f"tensor.dim {operand}, {at} : {type}")

    def size(self, a: int, b: int) -> Size:
        """The constant, or the value; NotImplementedError when it follows from no operand's size."""
        if a == b:
            return a
        found = self.known.get((a, b)) or self._derived(a, b)
        if found is None:
            raise NotImplementedError(f"the size {a} ({b} at the other sizes) follows from no operand's size")
        self.known.setdefault((a, b), found)
        return found

    def name(self, size: Size) -> str:
        """The size as a value of type `index`."""
        return self.write(f"arith.constant {size} : index") if isinstance(size, int) else size

    def _derived(self, a: int, b: int) -> str | None:
        """A multiple of a known size, the product of two, or one with something added."""
        for (x, y), name in list(self.known.items()):
            if x and y and a % x == 0 and b % y == 0 and a // x == b // y:
                return self.write(f"arith.muli {name}, {self.name(a // x)} : index")
            if x and y and a % x == 0 and b % y == 0 and (a // x, b // y) in self.known:
                return self.write(f"arith.muli {name}, {self.known[a // x, b // y]} : index")
            if a - x == b - y:
                return self.write(f"arith.addi {name}, {self.name(a - x)} : index")
        for (x, y), name in list(self.known.items()):
            if a + x == b + y:  # a falling index: a constant less the size
                return self.write(f"arith.subi {self.name(a + x)}, {name} : index")
        return None
