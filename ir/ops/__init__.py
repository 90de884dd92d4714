"""The op table's families. Importing this package declares every op."""
from treadle.ir.ops import create, elementwise, matmul, reduce, view  # noqa: F401
