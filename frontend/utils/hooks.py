"""`utils.hooks`: the handle that registering a hook returns."""
from treadle.nn.hooks import RemovableHandle

__all__ = ["RemovableHandle"]
