"""`nn.modules`: PyTorch's import paths (`nn.modules.loss._Loss`) as views of the modules where the classes live here."""
from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any

from treadle.nn import *
from treadle.nn.module import Module

# Path below nn.modules -> our modules under treadle.nn, which are searched in order; treadle.nn itself comes last.
_PATHS = {
    "activation": ("activation", "attention"), "adaptive": ("adaptive",), "batchnorm": ("batch_normalization",),
    "container": ("container",), "conv": ("convolution",), "distance": ("loss",), "dropout": ("dropout",), "flatten": ("flatten",),
    "fold": ("convolution",), "instancenorm": ("batch_normalization",), "lazy": ("lazy",),
    "linear": ("linear", "attention"), "loss": ("loss",),
    "module": ("module", "state", "hooks"), "normalization": ("normalization", "batch_normalization"), "padding": ("padding",),
    "pixelshuffle": ("pixelshuffle",),
    "pooling": ("pooling",), "rnn": ("rnn",), "sparse": ("embedding",), "transformer": ("transformer",), "upsampling": ("upsampling",),
    "utils": ("tuples",),
}


class _Path(ModuleType):
    """A module whose names are found elsewhere."""

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("__"):
            for source in (*(f"treadle.nn.{s}" for s in _PATHS[self.__name__.rpartition(".")[2]]), "treadle.nn"):
                if importlib.util.find_spec(source) is not None and hasattr(found := importlib.import_module(source), name):
                    return getattr(found, name)
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")


for _name in _PATHS:
    globals()[_name] = sys.modules[f"{__name__}.{_name}"] = _Path(f"{__name__}.{_name}")
