"""`DistributedDataParallel` at its place in PyTorch."""
from treadle.nn.parallel import DistributedDataParallel

__all__ = ["DistributedDataParallel"]
