"""SummaryWriter: what a training program notes, step by step, as an event file in a folder of its run."""
from __future__ import annotations

import itertools
import os
import socket
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from treadle.creation import to_array
from treadle.tensor import Tensor
from treadle.utils.tensorboard import records

_numbers = itertools.count()


def _array(x: Any) -> np.ndarray:
    return to_array(x.detach()) if isinstance(x, Tensor) else np.asarray(x)


def _number(x: Any) -> float:
    found = _array(x)
    if found.size != 1:
        raise ValueError(f"add_scalar: expected a single number, got an array of shape {list(found.shape)}")
    return float(found.reshape(()))


class FileWriter:
    """One event file. What is written reaches the disk after `max_queue` events, after `flush_secs`, at `flush` and `close`."""

    def __init__(self, log_dir: Any, max_queue: int = 10, flush_secs: float = 120, filename_suffix: str = "") -> None:
        self._log_dir, self._max_queue, self._flush_secs = str(log_dir), max_queue, flush_secs
        os.makedirs(self._log_dir, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{next(_numbers)}{filename_suffix}"
        self.path = os.path.join(self._log_dir, name)
        self._file = open(self.path, "wb")
        self._waiting, self._flushed = 0, time.time()
        self._file.write(records.record(records.event(time.time(), file_version="brain.Event:2")))
        self._file.flush()

    def get_logdir(self) -> str:
        """The folder."""
        return self._log_dir

    def add_summary(self, summary: bytes, global_step: int | None = None, walltime: float | None = None) -> None:
        """One event with values."""
        step = None if global_step is None else int(global_step)
        self._file.write(records.record(records.event(time.time() if walltime is None else walltime, step, summary)))
        self._waiting += 1
        if self._waiting >= self._max_queue or time.time() - self._flushed > self._flush_secs:
            self.flush()

    def flush(self) -> None:
        """Let everything so far reach the file."""
        self._file.flush()
        self._waiting, self._flushed = 0, time.time()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @property
    def closed(self) -> bool:
        """Whether it is closed."""
        return self._file.closed


class SummaryWriter:
    """Writes an event file to `log_dir`; by default to a folder of `runs/` named after the time and the machine, and `comment`."""

    def __init__(self, log_dir: Any = None, comment: str = "", purge_step: int | None = None, max_queue: int = 10, flush_secs: float = 120,
                 filename_suffix: str = "") -> None:
        if not log_dir:
            log_dir = os.path.join("runs", f"{time.strftime('%b%d_%H-%M-%S')}_{socket.gethostname()}{comment}")
        self.log_dir, self.purge_step = str(log_dir), purge_step
        self.max_queue, self.flush_secs, self.filename_suffix = max_queue, flush_secs, filename_suffix
        self.file_writer: FileWriter | None = None
        self.all_writers: dict[str, FileWriter] = {}
        self._get_file_writer()

    def _get_file_writer(self) -> FileWriter:
        """The writer, anew after `close`."""
        if self.file_writer is None or self.file_writer.closed:
            self.file_writer = self._writer(self.log_dir)
        return self.file_writer

    def _writer(self, folder: str) -> FileWriter:
        found = self.all_writers.get(folder)
        if found is None or found.closed:
            found = self.all_writers[folder] = FileWriter(folder, self.max_queue, self.flush_secs, self.filename_suffix)
        return found

    def get_logdir(self) -> str:
        """The folder."""
        return self.log_dir

    def add_scalar(self, tag: str, scalar_value: Any, global_step: int | None = None, walltime: float | None = None,
                   new_style: bool = False, double_precision: bool = False) -> None:
        """A point of a curve. ValueError for more than one number."""
        value = records.scalar(tag, _number(scalar_value), new_style and double_precision)
        self._get_file_writer().add_summary(value, global_step, walltime)

    def add_scalars(self, main_tag: str, tag_scalar_dict: Mapping[str, Any], global_step: int | None = None,
                    walltime: float | None = None) -> None:
        """Points of several curves in one chart: each has a folder of its own, as TensorBoard wants them."""
        for tag, value in tag_scalar_dict.items():
            writer = self._writer(f"{self.log_dir}/{main_tag.replace('/', '_')}_{tag}")
            writer.add_summary(records.scalar(main_tag, _number(value)), global_step, walltime)

    def add_histogram(self, tag: str, values: Any, global_step: int | None = None, bins: Any = "tensorflow", walltime: float | None = None,
                      max_bins: int | None = None) -> None:
        """How the elements of a tensor are spread. ValueError for no elements or ones that are not finite."""
        array = _array(values)
        if not array.size or not np.isfinite(array).all():
            raise ValueError(f"add_histogram: {tag!r} has no elements, or some that are not finite")
        limits = records.default_limits() if isinstance(bins, str) and bins == "tensorflow" else np.histogram_bin_edges(array, bins)
        if max_bins is not None and len(limits) - 1 > max_bins:
            every = -(-(len(limits) - 1) // max_bins)
            limits = np.unique(np.append(limits[::every], limits[-1]))
        self._get_file_writer().add_summary(records.histogram(tag, array, limits), global_step, walltime)

    def add_image(self, tag: str, img_tensor: Any, global_step: int | None = None, walltime: float | None = None,
                  dataformats: str = "CHW") -> None:
        """An image, of bytes, or of numbers from 0 to 1. ValueError where `dataformats` does not name its axes."""
        pixels = _pixels(tag, _array(img_tensor), dataformats)
        self._get_file_writer().add_summary(records.image(tag, pixels), global_step, walltime)

    def add_images(self, tag: str, img_tensor: Any, global_step: int | None = None, walltime: float | None = None,
                   dataformats: str = "NCHW") -> None:
        """Several images of one size, side by side."""
        self.add_image(tag, img_tensor, global_step, walltime, dataformats)

    def add_figure(self, tag: str, figure: Any, global_step: int | None = None, close: bool = True, walltime: float | None = None) -> None:
        """A figure of matplotlib, or several of one size, as an image."""
        shots = []
        for one in figure if isinstance(figure, list) else [figure]:
            canvas = one.canvas
            canvas.draw()
            shots.append(np.asarray(canvas.buffer_rgba())[..., :3])
            if close:
                import matplotlib.pyplot as plt
                plt.close(one)
        self.add_image(tag, np.stack(shots), global_step, walltime, "NHWC")

    def add_text(self, tag: str, text_string: str, global_step: int | None = None, walltime: float | None = None) -> None:
        """Text, in Markdown."""
        self._get_file_writer().add_summary(records.text(tag, text_string), global_step, walltime)

    def add_graph(self, model: Any, input_to_model: Any = None, verbose: bool = False, use_strict_trace: bool = True) -> None:
        """The graph that a call of the model records, as text: TensorBoard draws another kind of graph."""
        from treadle.inspection import inspect
        args = input_to_model if isinstance(input_to_model, tuple | list) else (input_to_model,)
        shown = str(inspect(model, *args).graph)
        if verbose:
            print(shown)
        self.add_text("graph", "\n".join(f"    {line}" for line in shown.splitlines()))

    def add_hparams(self, hparam_dict: Mapping[str, Any], metric_dict: Mapping[str, Any], hparam_domain_discrete: Any = None,
                    run_name: str | None = None, global_step: int | None = None) -> None:
        """Settings of a run, as a table of text, and what it reached, as curves, in a folder within its own."""
        writer = self._writer(os.path.join(self.log_dir, run_name or str(time.time())))
        table = "\n".join(["| setting | value |", "| --- | --- |", *[f"| {k} | {v} |" for k, v in hparam_dict.items()]])
        writer.add_summary(records.text("hparams", table), global_step)
        for name, value in metric_dict.items():
            writer.add_summary(records.scalar(name, _number(value)), global_step)

    def flush(self) -> None:
        """Let everything so far reach the files."""
        for writer in self.all_writers.values():
            if not writer.closed:
                writer.flush()

    def close(self) -> None:
        """Close the files; a later note opens a new one."""
        for writer in self.all_writers.values():
            writer.close()
        self.all_writers, self.file_writer = {}, None

    def __enter__(self) -> SummaryWriter:
        return self

    def __exit__(self, *exc: Any) -> None:
        self.close()


def _pixels(tag: str, array: np.ndarray, axes: str) -> np.ndarray:
    """An image or several as one (H, W, 3 or 4) of bytes."""
    axes = axes.upper()
    if len(axes) != array.ndim or len(set(axes)) != len(axes) or not set("HW") <= set(axes) <= set("NCHW"):
        raise ValueError(f"add_image: {tag!r} has the shape {list(array.shape)}, which {axes!r} does not name")
    full = np.expand_dims(array, tuple(range(array.ndim, array.ndim + 4 - len(axes))))
    whole = full.transpose([(axes + "".join(a for a in "NC" if a not in axes)).index(a) for a in "NHWC"])
    if whole.dtype != np.uint8:
        whole = (whole.astype(np.float32) * 255).clip(0, 255).astype(np.uint8)
    n, height, width, channels = whole.shape
    columns = min(n, 8)
    rows = -(-n // columns)
    grid = np.zeros((rows * columns, height, width, channels), np.uint8)
    grid[:n] = whole
    joined = grid.reshape(rows, columns, height, width, channels).transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, channels)
    return np.ascontiguousarray(np.repeat(joined, 3, axis=2) if channels == 1 else joined)
