"""The op table's families. Importing this package declares every op."""
from treadle.ir.ops import (
    activation,
    composite,
    control,
    create,
    elementwise,
    indexing,
    linalg,
    losses,
    matmul,
    normalization,
    optimizer,
    recurrent,
    reduce,
    scan,
    sorting,
    view,
)
