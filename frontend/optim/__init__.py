"""`treadle.optim`: optimizers and learning-rate schedulers with PyTorch's names."""
from typing import Any as _Any

from treadle.optim import lr_scheduler
from treadle.optim.adam import Adam, AdamW
from treadle.optim.adaptive import Adadelta, Adagrad, Adamax, RMSprop
from treadle.optim.lbfgs import LBFGS
from treadle.optim.optimizer import Optimizer
from treadle.optim.second import ASGD, Adafactor, Muon, NAdam, RAdam, Rprop
from treadle.optim.sgd import SGD
from treadle.optim.sparse_adam import SparseAdam

__all__ = ["ASGD", "LBFGS", "SGD", "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "Muon", "NAdam", "Optimizer", "RAdam",
           "RMSprop", "Rprop", "SparseAdam", "lr_scheduler"]


def __getattr__(name: str) -> _Any:
    if name == "swa_utils":
        import importlib
        return importlib.import_module("treadle.optim.swa_utils")
    raise AttributeError(f"module 'treadle.optim' has no attribute {name!r}")
