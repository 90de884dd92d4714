"""`treadle.utils`: tools around training. `treadle.utils.data` is imported on first use."""
from __future__ import annotations

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    if name in ("_pytree", "checkpoint", "data", "hooks", "model_zoo", "tensorboard"):
        return importlib.import_module(f"treadle.utils.{name}")
    raise AttributeError(f"module 'treadle.utils' has no attribute {name!r}")
