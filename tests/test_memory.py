"""The caching allocator."""
from __future__ import annotations

import gc
import threading

import ml_dtypes
import numpy as np
import pytest

from treadle.runtime import memory
from treadle.runtime.memory import Pool, allocate, as_numpy, class_size, from_numpy

SIZES = [0, 1, 63, 64, 65, 512, 513, 4096, 5000, 65536, 262144, 262145, 1 << 20, (2 << 20) + 1, 9_000_001]


@pytest.mark.parametrize("nbytes", SIZES)
def test_blocks_are_aligned_usable_and_reused(nbytes: int) -> None:
    buffer = allocate(nbytes)
    assert buffer.ptr % 64 == 0 and buffer.nbytes == nbytes
    as_numpy(buffer, (nbytes,), np.uint8)[:] = 7
    ptr = buffer.ptr
    del buffer
    assert allocate(nbytes).ptr == ptr


def test_classes_waste_at_most_an_eighth() -> None:
    for nbytes in [*range(1, 5000), *(3 ** k for k in range(8, 24))]:
        size = class_size(nbytes)
        assert size >= nbytes and size % 64 == 0
        assert size <= max(nbytes + 64, nbytes * 9 // 8 + 1, nbytes + 4096 if nbytes > memory.LARGEST_SLAB_CLASS else 0)


def test_blocks_do_not_overlap() -> None:
    rng = np.random.default_rng(0)
    buffers = [allocate(int(n)) for n in rng.integers(0, 300_000, 200)]
    arrays = [as_numpy(b, (b.nbytes,), np.uint8) for b in buffers]
    for i, array in enumerate(arrays):
        array[:] = i
    assert all((array == i % 256).all() for i, array in enumerate(arrays))


def test_large_blocks_sit_on_huge_pages() -> None:
    assert allocate(3 << 20).ptr % memory.HUGE_PAGE == 0


def test_statistics_and_empty_cache() -> None:
    pool = Pool(1 << 40)
    big, small = pool.allocate(5 << 20), [pool.allocate(1000) for _ in range(100)]
    used = pool.in_use
    assert pool.peak == used and pool.reserved >= used
    del big, small
    gc.collect()
    assert pool.in_use == 0 and pool.peak == used
    pool.trim(0)
    assert pool.reserved == 0


def test_slab_in_use_survives_trim() -> None:
    pool = Pool(1 << 40)
    buffers = [pool.allocate(3000) for _ in range(64)]
    keep = buffers[5]
    as_numpy(keep, (3000,), np.uint8)[:] = 9
    buffers.clear()
    pool.trim(0)
    assert (as_numpy(keep, (3000,), np.uint8) == 9).all()
    others = [pool.allocate(3000) for _ in range(200)]
    assert len({b.ptr for b in others} | {keep.ptr}) == 201


def test_cached_bytes_are_bounded() -> None:
    pool = Pool(8 << 20)
    buffers = [pool.allocate(1 << 20) for _ in range(32)]
    buffers.clear()
    assert pool.reserved <= 8 << 20


def test_failure_names_the_size() -> None:
    with pytest.raises(RuntimeError, match=f"tried to allocate {1 << 60} bytes"):
        allocate(1 << 60)
    with pytest.raises(ValueError, match="negative"):
        allocate(-1)


def test_numpy_views_share_and_keep_memory() -> None:
    array = as_numpy(allocate(24), (2, 3), np.float32)
    array[:] = 1.5
    ptr = array.ctypes.data
    assert allocate(24).ptr != ptr and array.sum() == 9
    assert as_numpy(allocate(0), (0, 4), np.float64).shape == (0, 4)
    assert as_numpy(allocate(4), (2,), ml_dtypes.bfloat16).dtype == ml_dtypes.bfloat16
    with pytest.raises(ValueError, match="needs 8 bytes"):
        as_numpy(allocate(4), (2,), np.float32)


def test_from_numpy_borrows() -> None:
    source = np.arange(6, dtype=np.int64)
    buffer = from_numpy(source)
    assert buffer.ptr == source.ctypes.data and buffer.owner is source
    as_numpy(buffer, (6,), np.int64)[0] = 42
    assert source[0] == 42
    with pytest.raises(ValueError, match="C-contiguous"):
        from_numpy(source[::2])


def test_threads_share_the_pool() -> None:
    pool = Pool(1 << 40)

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(300):
            buffers = [pool.allocate(int(n)) for n in rng.integers(1, 40_000, 4)]
            arrays = [as_numpy(b, (b.nbytes,), np.uint8) for b in buffers]
            for array in arrays:
                array[:] = seed
            assert all((array == seed).all() for array in arrays)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gc.collect()
    assert pool.in_use == 0


def test_a_badly_placed_array_is_copied_once_nobody_else_can_see_it() -> None:
    import treadle
    raw = np.zeros((1 << 18) + 128, np.uint8)
    start = -raw.__array_interface__["data"][0] % memory.ALIGNMENT + 16
    array = raw[start:start + (1 << 18)].view(np.float32)
    del raw
    t = treadle.from_numpy(array)
    view, total = t[10:], treadle.compile(lambda x: x.sum())
    for number in (1.0, 2.0, 3.0):
        array[10] = number
        assert (total(t).item(), view[0].item()) == (number, number)
    assert t.data_ptr() == array.__array_interface__["data"][0]
    del array
    for _ in range(3):
        assert (total(t).item(), view[0].item()) == (3.0, 3.0)
    assert t.data_ptr() % memory.ALIGNMENT == 0 and view.data_ptr() == t.data_ptr() + 40
    view[0] = 5.0
    assert (total(t).item(), t.numpy()[10]) == (5.0, 5.0)


def test_rows_of_memory_shared_with_numpy_are_read_at_once_and_without_a_snapshot() -> None:
    import treadle
    array = np.arange(40_000, dtype=np.float32).reshape(200, 200)
    t, rows = treadle.from_numpy(array), treadle.tensor([3, 100])
    before = memory.memory_stats()["in_use"]
    for number in (1.0, 2.0, 3.0):
        array[100, 7] = number
        found = [t[rows], t[:, rows], t[50:][treadle.tensor([0, 50])], t.index_select(0, rows), t[[3, 100]]]
        array[100, 7] = -1.0
        assert [f[1, 7].item() for f in found if f.shape[1] == 200] == [number] * 4
        assert found[1].tolist() == array[:, [3, 100]].tolist()
    assert memory.memory_stats()["in_use"] - before < array.nbytes
    weight = treadle.from_numpy(array).requires_grad_()
    (weight[rows] * 2).sum().backward()
    assert weight.grad.sum().item() == 800.0 and weight.grad[100].tolist() == [2.0] * 200
    t[rows] = 5.0
    assert array[100, 7] == 5.0 and t[rows][0, 0].item() == 5.0
