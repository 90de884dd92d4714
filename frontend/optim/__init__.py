"""`treadle.optim`: optimizers and learning-rate schedulers with PyTorch's names."""
from treadle.optim import lr_scheduler
from treadle.optim.adam import Adam, AdamW
from treadle.optim.adaptive import Adadelta, Adagrad, Adamax, RMSprop
from treadle.optim.optimizer import Optimizer
from treadle.optim.sgd import SGD

__all__ = ["SGD", "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "Optimizer", "RMSprop", "lr_scheduler"]
