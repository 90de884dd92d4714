"""Mixed precision: `autocast` runs products in a 16-bit type, `GradScaler` keeps float16 gradients from vanishing.

Parameters stay float32 (master weights): casts are recorded as operations, so their gradients arrive in float32. Which operation runs
in which type follows PyTorch's lists for the device; all others take what they are given.
"""
from __future__ import annotations

from treadle.amp.autocasting import autocast, custom_bwd, custom_fwd, is_autocast_available
from treadle.amp.grad_scaler import GradScaler

__all__ = ["GradScaler", "autocast", "custom_bwd", "custom_fwd", "is_autocast_available"]
