"""DataLoader: batches of a dataset, fetched in this process or ahead of time in worker processes."""
from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from treadle.utils.data.collate import default_collate, default_convert
from treadle.utils.data.dataset import IterableDataset
from treadle.utils.data.sampler import BatchSampler, RandomSampler, Sampler, SequentialSampler, fresh_seed
from treadle.utils.data.worker import STREAM_END, Fetcher, opened, receive, run_worker, send


class _Forever(Sampler[None]):
    """The sampler of streams, which have no indices."""

    def __iter__(self) -> Iterator[None]:
        while True:
            yield None


_SETTLED = frozenset({"batch_size", "batch_sampler", "sampler", "drop_last", "dataset", "persistent_workers"})


class DataLoader:
    """Iterate over a dataset in batches, as torch.utils.data.DataLoader does.

    Batches come in the sampler's order whatever the number of workers. With the same generator state, or after the same
    `treadle.manual_seed`, the order is the same. A worker's exception is raised here with the worker's traceback; a worker that
    dies raises RuntimeError. `pin_memory` and `in_order` are accepted and change nothing.
    """

    def __init__(self, dataset: Any, batch_size: int | None = 1, shuffle: bool | None = None, sampler: Any = None,
                 batch_sampler: Any = None, num_workers: int = 0, collate_fn: Callable[[Any], Any] | None = None,
                 pin_memory: bool = False, drop_last: bool = False, timeout: float = 0,
                 worker_init_fn: Callable[[int], None] | None = None, multiprocessing_context: Any = None, generator: Any = None, *,
                 prefetch_factor: int | None = None, persistent_workers: bool = False, pin_memory_device: str = "",
                 in_order: bool = True) -> None:
        _check_workers(num_workers, timeout, prefetch_factor, persistent_workers)
        self._streams = isinstance(dataset, IterableDataset)
        _check_sampling(self._streams, batch_size, shuffle, sampler, batch_sampler, drop_last)
        self.dataset = dataset
        self.num_workers = num_workers
        self.prefetch_factor = 2 if num_workers and prefetch_factor is None else prefetch_factor
        self.pin_memory = pin_memory
        self.pin_memory_device = pin_memory_device
        self.timeout = timeout
        self.worker_init_fn = worker_init_fn
        self.multiprocessing_context = multiprocessing_context
        self.generator = generator
        self.persistent_workers = persistent_workers
        self.in_order = in_order
        if batch_sampler is not None:
            batch_size, drop_last = None, False
        if sampler is None:
            sampler = (_Forever() if self._streams else RandomSampler(dataset, generator=generator) if shuffle
                       else SequentialSampler(dataset))
        if batch_size is not None and batch_sampler is None:
            batch_sampler = BatchSampler(sampler, batch_size, drop_last)
        self.batch_size = batch_size
        self.drop_last = drop_last
        self.sampler = sampler
        self.batch_sampler = batch_sampler
        self.collate_fn = collate_fn or (default_convert if batch_sampler is None else default_collate)
        self._pool: WorkerPool | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _SETTLED and "_pool" in self.__dict__:
            raise ValueError(f"{name} attribute should not be set after {type(self).__name__} is initialized")
        object.__setattr__(self, name, value)

    @property
    def _index_sampler(self) -> Any:
        return self.sampler if self.batch_sampler is None else self.batch_sampler

    @property
    def _fetcher_settings(self) -> tuple:
        return self.collate_fn, self.batch_sampler is not None, self.drop_last

    def __iter__(self) -> Iterator[Any]:
        base_seed = fresh_seed(self.generator)
        if self.num_workers == 0:
            return _in_process(self)
        if not self.persistent_workers:
            return WorkerIterator(self, WorkerPool(self, base_seed), owns_pool=True)
        if self._pool is None or self._pool.closed:
            self._pool = WorkerPool(self, base_seed)
        return WorkerIterator(self, self._pool, owns_pool=False)

    def __len__(self) -> int:
        """The number of batches; TypeError when the dataset or sampler has no length."""
        if not self._streams:
            return len(self._index_sampler)
        samples = len(self.dataset)
        if self.batch_size is None:
            return samples
        return samples // self.batch_size if self.drop_last else -(-samples // self.batch_size)


def _check_workers(num_workers: int, timeout: float, prefetch_factor: int | None, persistent_workers: bool) -> None:
    if num_workers < 0:
        raise ValueError("num_workers option should be non-negative; use num_workers=0 to disable multiprocessing.")
    if timeout < 0:
        raise ValueError("timeout option should be non-negative")
    if num_workers == 0 and prefetch_factor is not None:
        raise ValueError("prefetch_factor option could only be specified in multiprocessing."
                         "let num_workers > 0 to enable multiprocessing, otherwise set prefetch_factor to None.")
    if prefetch_factor is not None and prefetch_factor < 1:
        raise ValueError("prefetch_factor option should be positive")
    if persistent_workers and num_workers == 0:
        raise ValueError("persistent_workers option needs num_workers > 0")


def _check_sampling(streams: bool, batch_size: int | None, shuffle: bool | None, sampler: Any, batch_sampler: Any,
                    drop_last: bool) -> None:
    if streams:
        given = {"shuffle": shuffle if shuffle else None, "sampler": sampler, "batch_sampler": batch_sampler}
        for name, value in given.items():
            if value is not None:
                raise ValueError(f"DataLoader with IterableDataset: expected unspecified {name} option, but got {name}={value}")
    if sampler is not None and shuffle:
        raise ValueError("sampler option is mutually exclusive with shuffle")
    if batch_sampler is not None:
        if batch_size != 1 or shuffle or sampler is not None or drop_last:
            raise ValueError("batch_sampler option is mutually exclusive with batch_size, shuffle, sampler, and drop_last")
    elif batch_size is None and drop_last:
        raise ValueError("batch_size=None option disables auto-batching and is mutually exclusive with drop_last")


def _in_process(loader: DataLoader) -> Iterator[Any]:
    fetcher = Fetcher(loader.dataset, *loader._fetcher_settings)
    for indices in loader._index_sampler:
        try:
            batch = fetcher.fetch(indices)
        except StopIteration:
            if not loader._streams:
                raise
            return
        yield batch


class WorkerPool:
    """The worker processes of a loader and the pipes to them."""

    def __init__(self, loader: DataLoader, base_seed: int) -> None:
        context = loader.multiprocessing_context
        if context is None or isinstance(context, str):
            methods = multiprocessing.get_all_start_methods()
            if context is not None and context not in methods:
                raise ValueError(f"multiprocessing_context option should specify a valid start method in {methods!r}, but got "
                                 f"multiprocessing_context={context!r}")
            context = multiprocessing.get_context(context or ("fork" if "fork" in methods else None))
        self.closed = False
        self.epoch = 0
        self.processes: list[Any] = []
        self.pipes: list[Any] = []
        for worker_id in range(loader.num_workers):
            ours, theirs = context.Pipe(duplex=True)
            arguments = (theirs, loader.dataset, loader._fetcher_settings, worker_id, loader.num_workers, base_seed,
                         loader.worker_init_fn)
            process = context.Process(target=run_worker, args=arguments, daemon=True)
            process.start()
            theirs.close()  # so that the worker's death closes the pipe
            self.processes.append(process)
            self.pipes.append(ours)

    def ask(self, worker: int, task: int, indices: Any) -> None:
        try:
            send(self.pipes[worker], (self.epoch, task, indices))
        except OSError:
            self.died(worker)

    def results(self, timeout: float) -> list[Any]:
        """What workers have sent, at least one message; RuntimeError when one has died or the time is over."""
        deadline = time.monotonic() + timeout if timeout > 0 else None
        waiting: dict[Any, int] = {}
        for worker, (pipe, process) in enumerate(zip(self.pipes, self.processes, strict=True)):
            waiting[pipe] = worker
            waiting[process.sentinel] = worker
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        ready = multiprocessing.connection.wait(list(waiting), left)
        if not ready:
            self.close()
            raise RuntimeError(f"DataLoader timed out after {timeout} seconds")
        found = []
        for pipe in [item for item in ready if not isinstance(item, int)]:
            try:
                found.append(receive(pipe))
            except (EOFError, OSError):
                self.died(waiting[pipe])
        if not found:  # only a sentinel is ready, and its pipe holds nothing more
            self.died(next(waiting[item] for item in ready))
        return found

    def died(self, worker: int) -> None:
        process = self.processes[worker]
        process.join(5)
        code = process.exitcode
        how = f"with exit code {code}"
        if code is not None and code < 0:
            how = f"killed by signal {signal.Signals(-code).name} (exit code {code})"
        self.close()
        raise RuntimeError(f"DataLoader worker {worker} (pid {process.pid}) exited unexpectedly, {how}")

    def close(self) -> None:
        """End the workers; those that do not end by themselves are terminated."""
        if self.closed:
            return
        self.closed = True
        for pipe in self.pipes:
            try:
                send(pipe, None)
            except OSError:  # that worker is gone already
                continue
            finally:
                pipe.close()
        deadline = time.monotonic() + 1.0
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.terminate()
                process.join(1.0)
            if process.is_alive():
                process.kill()
                process.join()

    def __del__(self) -> None:
        if not getattr(self, "closed", True):
            self.close()


class WorkerIterator:
    """One pass over the dataset: keeps every worker supplied and yields results in the order of the tasks."""

    def __init__(self, loader: DataLoader, pool: WorkerPool, owns_pool: bool) -> None:
        self.loader = loader
        self.pool = pool
        self.owns_pool = owns_pool
        pool.epoch += 1  # results of an abandoned pass are recognized by their epoch
        self.epoch = pool.epoch
        self.indices = iter(loader._index_sampler)
        self.active = list(range(loader.num_workers))  # workers whose stream has not ended
        self.turn = 0
        self.next_task = 0
        self.next_result = 0
        self.owner: dict[int, int] = {}
        self.arrived: dict[int, Any] = {}
        self.yielded = 0
        for _ in range((loader.prefetch_factor or 2) * loader.num_workers):
            self._ask_one()

    def __iter__(self) -> WorkerIterator:
        return self

    def __len__(self) -> int:
        return len(self.loader)

    def _ask_one(self) -> None:
        """Give the next task to the worker whose turn it is, if there is a task and a worker."""
        if not self.active:
            return
        try:
            indices = next(self.indices)
        except StopIteration:
            return
        worker = self.active[self.turn % len(self.active)]
        self.turn += 1
        self.owner[self.next_task] = worker
        self.pool.ask(worker, self.next_task, indices)
        self.next_task += 1

    def __next__(self) -> Any:
        if self.epoch != self.pool.epoch:
            raise RuntimeError("this iterator's persistent workers have started another pass")
        while self.next_result < self.next_task:
            while self.next_result not in self.arrived:
                self._receive()
            result = self.arrived.pop(self.next_result)
            worker = self.owner.pop(self.next_result)
            self.next_result += 1
            if isinstance(result, str) and result == STREAM_END:
                if worker in self.active:
                    self.active.remove(worker)
                self._ask_one()
                continue
            self._ask_one()
            return self._deliver(result)
        self._finish()
        raise StopIteration

    def _receive(self) -> None:
        for epoch, task, result in self.pool.results(self.loader.timeout):
            if epoch == self.epoch:
                self.arrived[task] = result

    def _deliver(self, result: Any) -> Any:
        try:
            batch = opened(result)
        except BaseException:
            self._finish()
            raise
        self.yielded += 1
        if self.loader._streams and hasattr(self.loader.dataset, "__len__") and self.yielded == len(self.loader) + 1:
            warnings.warn(f"Length of IterableDataset {self.loader.dataset} was reported to be {len(self.loader)} (when accessing "
                          f"len(dataloader)), but {self.yielded} samples have been fetched. Each worker iterates over all of the "
                          "dataset unless it divides the work by get_worker_info().", stacklevel=3)
        return batch

    def _finish(self) -> None:
        if self.owns_pool:
            self.pool.close()

    def __del__(self) -> None:
        if getattr(self, "owns_pool", False):
            self.pool.close()
