"""`memory_format` changes no result, but one for tensors with another number of axes is refused, as in PyTorch."""
from __future__ import annotations

import pytest

import treadle

CASTS = "float double half bfloat16 long int short char byte bool chalf cfloat cdouble clone contiguous cpu".split()


@pytest.mark.parametrize("name", CASTS)
def test_methods(name: str) -> None:
    for format, rank in ((treadle.channels_last, 4), (treadle.channels_last_3d, 5)):
        for n in (0, 1, 3, 4, 5):
            x = treadle.zeros((2,) * n)
            if n == rank:
                assert getattr(x, name)(memory_format=format).shape == x.shape
                continue
            assert not x.is_contiguous(memory_format=format)
            with pytest.raises(RuntimeError, match=f"required rank {rank} tensor"):
                getattr(x, name)(memory_format=format)
    assert getattr(treadle.zeros(2), name)(memory_format=treadle.contiguous_format).shape == (2,)


def test_to_and_makers() -> None:
    x, last = treadle.zeros(3), treadle.channels_last
    calls = [lambda: x.to(memory_format=last), lambda: x.to(treadle.int64, memory_format=last),
             lambda: treadle.empty(3, memory_format=last),
             lambda: treadle.clone(x, memory_format=last), lambda: treadle.full_like(x, 1, memory_format=last),
             lambda: treadle.randint_like(x, 3, memory_format=last), lambda: treadle.empty(3, memory_format=treadle.preserve_format)]
    makers = [getattr(treadle, f"{name}_like") for name in ("zeros", "ones", "empty", "rand", "randn")]
    calls += [lambda make=make: make(x, memory_format=last) for make in makers]
    for call in calls:
        with pytest.raises(RuntimeError, match=r"required rank 4|unsupported memory format"):
            call()
    assert treadle.randint_like(treadle.zeros(2, 2, 2, 2), 3, memory_format=last, requires_grad=True).requires_grad
