"""Where `fully_shard` was first."""
from treadle.distributed._composable import fsdp
from treadle.distributed.fsdp import fully_shard

__all__ = ["fsdp", "fully_shard"]
