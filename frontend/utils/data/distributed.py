"""`DistributedSampler` at its place in PyTorch."""
from treadle.utils.data.sampler import DistributedSampler

__all__ = ["DistributedSampler"]
