"""Random streams: a seed and an offset into its Philox sequence, reserved when a draw is recorded.

So the numbers depend on the order of the calls alone, not on fusion, threads, tier or device.
"""
from __future__ import annotations

import os
from typing import Any

import numpy as np

from treadle.runtime.recorder import STATE


def _not_captured(what: str) -> None:
    """A call that looks at or restarts a stream cannot be replayed."""
    if STATE.here.capture is not None:
        STATE.here.capture.refuse(what)


class Generator:
    """A random stream. `manual_seed` restarts it; `get_state`/`set_state` save and restore its place."""

    def __init__(self, device: Any = "cpu") -> None:
        from treadle.device import device as device_type
        self.device = device_type(device)
        self._seed = 67280421310721
        self._offset = 0

    def manual_seed(self, seed: int) -> Generator:
        _not_captured("seeds a generator")
        seed = int(seed)
        if not -(1 << 63) <= seed < 1 << 64:
            raise RuntimeError(f"Overflow when unpacking long: the seed {seed} does not fit into 64 bits")
        self._seed = seed - (1 << 64) if seed >= 1 << 63 else seed
        self._offset = 0
        return self

    def seed(self) -> int:
        """Seed from the system's entropy; returns the seed."""
        seed = int.from_bytes(os.urandom(6), "little")
        self.manual_seed(seed)
        return seed

    def initial_seed(self) -> int:
        """The seed of the default generator."""
        return self._seed

    def get_state(self) -> Any:
        """The state as a uint8 tensor of 16 bytes."""
        _not_captured("reads a generator's state")
        from treadle.creation import from_array
        return from_array(np.array([self._seed, self._offset], np.int64).view(np.uint8))

    def set_state(self, state: Any) -> Generator:
        _not_captured("sets a generator's state")
        array = np.asarray(state.tolist(), np.uint8)
        if array.size != 16:
            raise RuntimeError(f"RNG state is wrong size: expected 16 bytes, got {array.size}")
        self._seed, self._offset = (int(x) for x in array.view(np.int64))
        return self

    def reserve(self, blocks: int) -> tuple[int, int]:
        """Take the next `blocks` counter blocks (of four 32-bit words) of the stream: (seed, offset)."""
        offset = self._offset
        self._offset = offset + blocks
        capture = STATE.here.capture
        return (self._seed, offset) if capture is None else capture.reserve(self, blocks, (self._seed, offset))


default_generator = Generator()


def reserve(count: int, generator: Generator | None = None, draws: int = 1) -> tuple[int, int]:
    """(seed, offset) for `draws` independent draws of `count` elements. Inside `vmap` the offset may be a value of its level."""
    if STATE.here.levels:
        from treadle.levels import reserve_batched
        return reserve_batched(lambda n: (generator or default_generator).reserve(draws * ((n + 3) // 4)), count)
    return (generator or default_generator).reserve(draws * ((count + 3) // 4))


def manual_seed(seed: int) -> Generator:
    """Restart the default stream."""
    return default_generator.manual_seed(seed)


def seed() -> int:
    """Seed the default generator from the system's entropy, and return the seed."""
    return default_generator.seed()


def initial_seed() -> int:
    """The seed of the default generator."""
    return default_generator.initial_seed()


def get_rng_state() -> Any:
    """The state of the default generator, as a tensor of bytes."""
    return default_generator.get_state()


def set_rng_state(state: Any) -> None:
    """Put back what `get_rng_state` gave."""
    default_generator.set_state(state)


class fork_rng:
    """Restores the default stream on leaving the block."""

    def __init__(self, devices: Any = None, enabled: bool = True) -> None:
        self.enabled = enabled

    def __enter__(self) -> None:
        _not_captured("forks the random stream")
        self._saved = default_generator._seed, default_generator._offset

    def __exit__(self, *exc: Any) -> None:
        if self.enabled:
            default_generator._seed, default_generator._offset = self._saved
