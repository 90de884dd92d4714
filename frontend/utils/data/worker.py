"""Worker processes of the DataLoader: fetch batches on request and send them back through a pipe of their own.

Each worker has one pipe to the parent, so a worker that dies can block nobody: the parent waits for the pipe and for the
process at once. A thread in the worker writes the results, so that the worker always reads its requests.
"""
from __future__ import annotations

import multiprocessing.process
import os
import pickle
import queue
import random
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import treadle
from treadle.utils.data.collate import default_collate, pack, unpack
from treadle.utils.data.dataset import IterableDataset, Subset, TensorDataset

STREAM_END = "end of stream"
_POLL_SECONDS = 5.0


@dataclass(frozen=True)
class WorkerInfo:
    """What `get_worker_info` returns in a worker."""

    id: int
    num_workers: int
    seed: int
    dataset: Any


_worker_info: WorkerInfo | None = None


def get_worker_info() -> WorkerInfo | None:
    """The id, number of workers, seed and dataset of this worker process; None in the main process."""
    return _worker_info


@dataclass
class Fetcher:
    """Turns the indices of a batch (or one index, or None for streams) into what the loader yields."""

    dataset: Any
    collate_fn: Callable[[Any], Any]
    batched: bool
    drop_last: bool

    def __post_init__(self) -> None:
        self._stream = iter(self.dataset) if isinstance(self.dataset, IterableDataset) else None

    def fetch(self, indices: Any) -> Any:
        """The collated batch; StopIteration at the end of a stream."""
        if self._stream is not None:
            return self._from_stream(self._stream, indices)
        if not self.batched:
            return self.collate_fn(self.dataset[indices])
        if self.collate_fn is default_collate:
            dataset, places = self.dataset, indices
            while type(dataset) is Subset:
                places = [dataset.indices[i] for i in places]
                dataset = dataset.dataset
            if type(dataset) is TensorDataset:
                return dataset.collated(places)
        fetch = getattr(self.dataset, "__getitems__", None)
        return self.collate_fn(fetch(indices) if fetch else [self.dataset[i] for i in indices])

    def _from_stream(self, stream: Any, indices: Any) -> Any:
        if not self.batched:
            return self.collate_fn(next(stream))
        samples = []
        for _ in indices:
            try:
                samples.append(next(stream))
            except StopIteration:
                break
        if not samples or (self.drop_last and len(samples) < len(indices)):
            raise StopIteration
        return self.collate_fn(samples)


@dataclass
class WorkerError:
    """An exception on its way to the parent: its type and the worker's traceback."""

    kind: Any
    text: str
    where: str

    @classmethod
    def current(cls, where: str) -> WorkerError:
        kind = sys.exc_info()[0]
        try:
            pickle.dumps(kind)
        except Exception:  # a class the parent could not find: the text still names it
            kind = RuntimeError
        return cls(kind, traceback.format_exc(), where)

    def reraise(self) -> None:
        """Raise the same type of exception here, its message carrying the worker's traceback."""
        message = f"Caught {self.kind.__name__} {self.where}.\nOriginal {self.text}"
        try:
            error = self.kind(message)
        except Exception:  # a type with another signature
            raise RuntimeError(message) from None
        raise error


def send(connection: Any, message: Any) -> None:
    """Send a message, the arrays in it as raw buffers after the pickle."""
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(message, protocol=5, buffer_callback=buffers.append)
    raws = [buffer.raw() for buffer in buffers]
    connection.send_bytes(pickle.dumps((head, [raw.nbytes for raw in raws])))
    for raw in raws:
        if raw.nbytes:
            connection.send_bytes(raw)


def receive(connection: Any) -> Any:
    """The next message; its arrays are writable and own their memory. EOFError when the other side is gone."""
    head, sizes = pickle.loads(connection.recv_bytes())
    buffers = []
    for size in sizes:
        buffer = np.empty(size, np.uint8)
        if size:
            connection.recv_bytes_into(buffer)
        buffers.append(buffer)
    return pickle.loads(head, buffers=buffers)


def run_worker(connection: Any, dataset: Any, fetcher_settings: tuple, worker_id: int, num_workers: int, base_seed: int,
               init_fn: Callable[[int], None] | None) -> None:
    """A worker's main function: answer (epoch, task, indices) with (epoch, task, result) until told None."""
    global _worker_info
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    outgoing: queue.SimpleQueue = queue.SimpleQueue()
    sender = threading.Thread(target=_send_all, args=(connection, outgoing), daemon=True)
    sender.start()
    where = f"in DataLoader worker process {worker_id}"
    start_error = None
    try:
        seed = base_seed + worker_id
        _seed_everything(seed)
        _worker_info = WorkerInfo(worker_id, num_workers, seed, dataset)
        if init_fn is not None:
            init_fn(worker_id)
    except Exception:
        start_error = WorkerError.current(where)
    epoch, fetcher = None, None
    for asked_epoch, task, indices in _requests(connection):
        result: Any = start_error
        if start_error is None:
            try:
                if asked_epoch != epoch or fetcher is None:
                    epoch, fetcher = asked_epoch, Fetcher(dataset, *fetcher_settings)
                result = pack(fetcher.fetch(indices))
            except Exception as problem:
                ended = isinstance(problem, StopIteration) and isinstance(dataset, IterableDataset)
                result = STREAM_END if ended else WorkerError.current(where)
        outgoing.put((asked_epoch, task, result, where))
    outgoing.put(None)
    sender.join()


def _seed_everything(seed: int) -> None:
    random.seed(seed)
    treadle.manual_seed(seed)
    np.random.seed(seed % 2**32)


def _requests(connection: Any) -> Any:
    """Requests from the parent, until it says None or is gone."""
    parent = multiprocessing.process.parent_process()
    parent_id = parent.pid if parent is not None else None
    while True:
        while not connection.poll(_POLL_SECONDS):
            if parent_id is not None and os.getppid() != parent_id:
                os._exit(1)  # nobody is left to read results; threads and exit handlers could only block
        try:
            request = receive(connection)
        except EOFError:
            os._exit(1)
        if request is None:
            return
        yield request


def _send_all(connection: Any, outgoing: queue.SimpleQueue) -> None:
    while (item := outgoing.get()) is not None:
        epoch, task, result, where = item
        try:
            send(connection, (epoch, task, result))
        except OSError:  # the parent has closed its end
            return
        except Exception:
            send(connection, (epoch, task, WorkerError.current(where)))


def opened(result: Any) -> Any:
    """A worker's result as the loader yields it; raises if it is an error."""
    if isinstance(result, WorkerError):
        result.reraise()
    return unpack(result)
