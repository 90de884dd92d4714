"""utils.data: datasets, samplers, collation, and the DataLoader with and without workers."""
from __future__ import annotations

import os
import signal
import time
from collections import namedtuple
from typing import Any

import numpy as np
import pytest

import treadle
from treadle.utils import data

Pair = namedtuple("Pair", "a b")


class Squares(data.Dataset):
    """Items of every kind that can be collated."""

    def __init__(self, size: int = 11) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, i: int) -> Any:
        return {"x": treadle.full((2,), float(i)), "n": np.float32(i), "a": np.full(3, i, np.int32), "f": i / 2, "i": i * i, "s": str(i),
                "t": (i, [i, 2.0]), "p": Pair(i, np.full(1, i))}


def plain(batch: Any) -> Any:
    if isinstance(batch, treadle.Tensor):
        return str(batch.dtype), batch.numpy().tolist()
    if isinstance(batch, dict):
        return {key: plain(value) for key, value in batch.items()}
    return [plain(value) for value in batch] if isinstance(batch, (list, tuple)) else batch


def test_collate() -> None:
    batch = data.default_collate([Squares()[1], Squares()[2]])
    assert batch["x"].shape == (2, 2) and batch["f"].dtype is treadle.float64 and batch["i"].dtype is treadle.int64
    assert batch["a"].dtype is treadle.int32 and batch["n"].dtype is treadle.float32 and batch["s"] == ["1", "2"]
    assert isinstance(batch["p"], Pair) and batch["p"].a.numpy().tolist() == [1, 2]
    assert [v.numpy().tolist() for v in batch["t"][1]] == [[1, 2], [2.0, 2.0]]
    with pytest.raises(RuntimeError, match="should be of equal size"):
        data.default_collate([[1], [1, 2]])
    with pytest.raises(TypeError, match="must contain tensors, numpy arrays, numbers, dicts or lists; found <class 'object'>"):
        data.default_collate([object()])


def test_datasets() -> None:
    x, y = treadle.arange(5), treadle.arange(5) * 2
    pairs = data.TensorDataset(x, y)
    assert len(pairs) == 5 and pairs[2][1].item() == 4
    with pytest.raises(AssertionError, match="Size mismatch"):
        data.TensorDataset(x, y[:2])
    joined = data.Subset(pairs, [3, 4]) + pairs
    assert len(joined) == 7 and joined[-1][0].item() == 4 and joined[2][0].item() == 0 and joined[1][0].item() == 4
    halves = data.random_split(Squares(), [0.5, 0.5], generator=treadle.Generator().manual_seed(0))
    assert [len(h) for h in halves] == [6, 5] and sorted([*halves[0].indices, *halves[1].indices]) == list(range(11))
    with pytest.raises(ValueError, match="Sum of input lengths"):
        data.random_split(Squares(), [5, 5])
    stacked = data.StackDataset(a=pairs, b=pairs)
    assert len(stacked) == 5 and stacked[1]["a"][0].item() == 1


def test_samplers() -> None:
    assert list(data.BatchSampler(data.SequentialSampler(range(7)), 3, False)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert len(data.BatchSampler(range(7), 3, True)) == 2
    assert sorted(data.RandomSampler(range(20))) == list(range(20))
    assert len(list(data.RandomSampler(range(3), replacement=True, num_samples=10))) == 10
    assert len(list(data.RandomSampler(range(3), num_samples=7))) == 7
    assert sorted(data.SubsetRandomSampler([5, 7, 9])) == [5, 7, 9]
    assert set(data.WeightedRandomSampler([1.0, 0.0, 1.0], 50)) == {0, 2}
    assert [list(data.DistributedSampler(range(7), 2, r, shuffle=False)) for r in (0, 1)] == [[0, 2, 4, 6], [1, 3, 5, 0]]
    with pytest.raises(ValueError, match="positive integer value"):
        data.BatchSampler(range(3), 0, False)


@pytest.mark.parametrize("settings", [{"num_workers": 2}, {"num_workers": 3, "prefetch_factor": 1},
                                      {"num_workers": 1, "persistent_workers": True}])
def test_workers_give_the_same_batches(settings: dict[str, Any]) -> None:
    expected = [plain(b) for b in data.DataLoader(Squares(), 4)]
    assert len(expected) == 3
    loader = data.DataLoader(Squares(), 4, **settings)
    next(iter(loader))  # an abandoned pass must not disturb the next
    for _ in range(2):
        assert [plain(b) for b in loader] == expected


def test_shuffling_follows_the_seed() -> None:
    orders = []
    for workers in (0, 0, 2):
        treadle.manual_seed(3)
        loader = data.DataLoader(data.TensorDataset(treadle.arange(23)), 5, shuffle=True, num_workers=workers, drop_last=True)
        orders.append([b[0].numpy().tolist() for b in loader])
        assert len(loader) == len(orders[-1]) == 4
    assert orders[0] == orders[1] == orders[2] and [i for batch in orders[0] for i in batch] != list(range(20))
    generator = treadle.Generator().manual_seed(1)
    loader = data.DataLoader(range(9), 9, shuffle=True, generator=generator)
    assert next(iter(loader)).numpy().tolist() != next(iter(loader)).numpy().tolist()


class Counting(data.IterableDataset):
    def __iter__(self) -> Any:
        info = data.get_worker_info()
        yield from range(11) if info is None else range(info.id, 11, info.num_workers)


def test_streams() -> None:
    def batches(**settings: Any) -> list[list[int]]:
        return [b.numpy().tolist() for b in data.DataLoader(Counting(), 3, **settings)]

    assert batches() == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10]] and len(batches(drop_last=True)) == 3
    assert batches(num_workers=2) == [[0, 2, 4], [1, 3, 5], [6, 8, 10], [7, 9]]
    assert list(data.DataLoader(Counting(), None)) == list(range(11))


class Troubled(data.Dataset):
    """Item 5 raises, dies or sleeps."""

    def __init__(self, trouble: str) -> None:
        self.trouble = trouble

    def __len__(self) -> int:
        return 8

    def __getitem__(self, i: int) -> int:
        if i == 5:
            if self.trouble == "raise":
                raise KeyError("item five")
            if self.trouble == "exit":
                os._exit(3)
            if self.trouble == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(30)
        return i


def test_an_error_in_a_worker_is_raised_here() -> None:
    with pytest.raises(KeyError, match=r"(?s)Caught KeyError in DataLoader worker process .*Original Traceback.*item five"):
        list(data.DataLoader(Troubled("raise"), 2, num_workers=2))

    def start(worker: int) -> None:
        raise ValueError("bad start")

    with pytest.raises(ValueError, match="bad start"):
        list(data.DataLoader(Squares(), 2, num_workers=2, worker_init_fn=start))


@pytest.mark.parametrize("trouble,how", [("exit", "with exit code 3"), ("kill", "killed by signal SIGKILL")])
def test_a_dead_worker_is_an_error(trouble: str, how: str) -> None:
    with pytest.raises(RuntimeError, match=rf"DataLoader worker 0 \(pid \d+\) exited unexpectedly, {how}"):
        list(data.DataLoader(Troubled(trouble), 2, num_workers=1))


def test_timeout() -> None:
    with pytest.raises(RuntimeError, match=r"timed out after 0\.3 seconds"):
        list(data.DataLoader(Troubled("sleep"), 2, num_workers=1, timeout=0.3))


class Large(data.Dataset):
    def __getitem__(self, i: int) -> Any:
        return np.full(300_000, i, np.float32)


def test_large_batches_and_long_index_lists_do_not_block() -> None:
    batches = [[i] * 3 for i in range(4)]
    loader = data.DataLoader(Large(), batch_sampler=batches, num_workers=1)
    assert [int(b[0, 0].item()) for b in loader] == [0, 1, 2, 3]

    class Many(data.Dataset):
        def __getitems__(self, indices: list[int]) -> Any:
            return [np.zeros(500_000, np.float32)]

    assert len(list(data.DataLoader(Many(), batch_sampler=[list(range(30_000))] * 6, num_workers=1))) == 6


class Seeds(data.Dataset):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, i: int) -> Any:
        info = data.get_worker_info()
        assert info is not None and info.dataset is self
        return info.id, int(np.random.randint(1 << 30)), treadle.rand(1)


def test_workers_have_their_own_seeds() -> None:
    treadle.manual_seed(0)
    first = [plain(b) for b in data.DataLoader(Seeds(), 1, num_workers=2)]
    treadle.manual_seed(0)
    again = [plain(b) for b in data.DataLoader(Seeds(), 1, num_workers=2)]
    assert first == again and first[0][1] != first[1][1] and first[0][2] != first[1][2]
    assert data.get_worker_info() is None


def test_bfloat16_and_custom_collation_cross_processes() -> None:
    def collate(samples: list[Any]) -> Any:
        return {"x": treadle.stack(samples).bfloat16(), "k": 3}

    batch = next(iter(data.DataLoader(data.Subset(_Rows(), [0, 1]), 2, collate_fn=collate, num_workers=1)))
    assert batch["x"].dtype is treadle.bfloat16 and batch["x"].float().numpy().tolist() == [[0.0], [1.0]] and batch["k"] == 3


class _Rows(data.Dataset):
    def __getitem__(self, i: int) -> Any:
        return treadle.full((1,), float(i))


def test_settings_are_checked() -> None:
    for settings, message in (
        ({"num_workers": -1}, "non-negative"), ({"timeout": -1}, "timeout option"),
        ({"prefetch_factor": 2}, "only be specified in multiproc"), ({"persistent_workers": True}, "needs num_workers > 0"),
        ({"sampler": range(3), "shuffle": True}, "mutually exclusive with shuffle"),
        ({"batch_sampler": [[0]], "batch_size": 2}, "mutually exclusive with batch_size"),
        ({"batch_size": None, "drop_last": True}, "mutually exclusive with drop_last"),
    ):
        with pytest.raises(ValueError, match=message):
            data.DataLoader(Squares(), **settings)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected unspecified shuffle option"):
        data.DataLoader(Counting(), shuffle=True)
