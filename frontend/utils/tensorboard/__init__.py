"""`treadle.utils.tensorboard`: curves, histograms, images and text in the files that TensorBoard reads; it need not be installed."""
from treadle.utils.tensorboard.writer import FileWriter, SummaryWriter

__all__ = ["FileWriter", "SummaryWriter"]
