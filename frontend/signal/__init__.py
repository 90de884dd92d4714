"""`treadle.signal`: windows."""
from treadle.signal import windows

__all__ = ["windows"]
