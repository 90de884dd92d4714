"""The op table's families. Importing this package declares every op."""
from treadle.ir.ops import activation, composite, create, elementwise, indexing, losses, matmul, normalization, reduce, view  # noqa: F401
