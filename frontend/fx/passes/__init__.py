"""Passes over graphs of calls."""
from treadle.fx.passes import shape_prop

__all__ = ["shape_prop"]
