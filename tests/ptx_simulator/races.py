"""Who accessed what, and was it ordered? Vector clocks per warp, one last writer and the readers per element.

After Flanagan and Freund, "FastTrack: efficient and precise dynamic race detection" (2009): the last write of an element
is one thread at one time; reads are one thread, or what several threads have in common (warp, block, grid).
Barriers join the clocks of the warps that take part. Between blocks only a release (fence, then an atomic operation)
seen by an acquire (an atomic operation on the same address) orders.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ptx_simulator.floating import Array

THREAD, WARP, BLOCK, GRID = 1, 2, 3, 4
_WHO, _LEVEL, _ATOMIC, _CLOCK = (1 << 32) - 1, 32, 1 << 35, 36


@dataclass
class Published:
    """What a block let others see: per warp the newest ordered time, and single threads' own times beyond that."""

    warps: Array
    threads: dict[int, int] = field(default_factory=dict)


class Clocks:
    """Times of the warps of a batch of blocks. Arrays are replaced, never changed, so that logs may keep them."""

    def __init__(self, first_block: int, blocks: int, threads: int) -> None:
        warps = -(-threads // 32)
        self.first_block, self.threads, self.warps = first_block, threads, warps
        self.now = np.ones((blocks, warps), np.int64)
        self.seen = np.zeros((blocks, warps, warps), np.int64)
        self.known: dict[int, dict[int, Published]] = {}
        self.fenced = np.zeros(blocks * threads, np.int64)
        self.started = False
        self.epoch: int | None = 1  # the time of all warps, if nothing but barriers of whole blocks has moved it

    def barrier(self, warps: Array, arrive_only: Array | None = None) -> None:
        """The warps (bool, blocks x warps) meet. Those that only arrive are seen by the others but see nothing."""
        self.started = True
        latest = np.where(warps, self.now, 0).max(1)
        rows = np.where(warps[:, :, None], self.seen, 0).max(1)
        joined = np.where(warps, latest[:, None], rows)
        waiting = warps if arrive_only is None else warps & ~arrive_only
        self.seen = np.where(waiting[:, :, None], joined[:, None, :], self.seen)
        self.now = np.where(warps, latest[:, None] + 1, self.now)
        first = int(self.now[0, 0])
        together = bool((self.now == first).all()) and (bool(waiting.all()) or bool((self.seen == first - 1).all()))
        self.epoch = first if together else None

    def warp_barrier(self, warps: Array) -> None:
        """The lanes of each of these warps (bool, blocks x warps) meet."""
        self.started, self.epoch = True, None
        self.seen = self.seen.copy()
        diagonal = np.arange(self.warps)
        self.seen[:, diagonal, diagonal] = np.where(warps, self.now, self.seen[:, diagonal, diagonal])
        self.now = self.now + warps

    def of(self, who: Array) -> Array:
        """The time of each thread (its number in the launch)."""
        if not self.started:
            return np.ones(len(who), np.int64)
        block, lane = np.divmod(who, self.threads)
        return self.now[block - self.first_block, lane >> 5]

    def fence(self, who: Array) -> None:
        """Everything these threads did so far is released by their next atomic operation."""
        local = who - self.first_block * self.threads
        self.fenced[local] = self.of(who)
        self.started, self.epoch = True, None
        block, lane = np.divmod(local, self.threads)
        later = np.zeros_like(self.now)
        later[block, lane >> 5] = 1
        self.now = self.now + later

    def release(self, who: int, sync: dict[int, Published]) -> None:
        """Thread `who` releases its fenced accesses, and what it has seen, into `sync` (block -> what it published)."""
        block, lane = divmod(who, self.threads)
        local = block - self.first_block
        for other, published in self.known.get(block, {}).items():
            _merge(sync, other, published)
        mine = Published(self.seen[local, lane >> 5].copy(), {who: int(self.fenced[who - self.first_block * self.threads])})
        _merge(sync, block, mine)

    def acquire(self, who: int, sync: dict[int, Published]) -> None:
        block = who // self.threads
        mine = self.known.setdefault(block, {})
        for other, published in sync.items():
            if other != block:
                _merge(mine, other, published)

    def entries(self, who: Array, atomic: bool) -> Array:
        """int64 entries for accesses by these threads now."""
        if self.epoch is not None:
            return who + ((self.epoch << _CLOCK) | (THREAD << _LEVEL) | (_ATOMIC if atomic else 0))
        return (self.of(who) << _CLOCK) | (THREAD << _LEVEL) | (_ATOMIC if atomic else 0) | who

    def ordered(self, entries: Array, who: Array, seen: Array) -> Array:
        """For each earlier entry: does it come before what thread `who` does now (with knowledge `seen`)?"""
        level = (entries >> _LEVEL) & 7
        subject = entries & _WHO
        time = entries >> _CLOCK
        block, lane = np.divmod(who, self.threads)
        their_block, their_warp = self._place(level, subject)
        same = (their_block == block) & (level < GRID)
        local = np.where(same, block - self.first_block, 0)
        warp = lane >> 5
        known = seen[local, warp, np.where(level <= WARP, their_warp, 0)]
        if np.any(level == BLOCK):
            known = np.where(level == BLOCK, seen.min(2)[local, warp], known)
        result = same & (known >= time) | (entries == 0) | ((subject == who) & (level == THREAD))
        if self.known and not np.all(result | same):
            self._across(result, entries, block, their_block, their_warp)
        return result

    def _place(self, level: Array, subject: Array) -> tuple[Array, Array]:
        block, lane = np.divmod(subject, self.threads)
        warp_block, warp = np.divmod(subject, self.warps)
        their_block = np.where(level == THREAD, block, np.where(level == WARP, warp_block, np.where(level == BLOCK, subject, -1)))
        return their_block, np.where(level == THREAD, lane >> 5, warp)

    def _across(self, result: Array, entries: Array, block: Array, their_block: Array, their_warp: Array) -> None:
        """Entries of other blocks that a release and an acquire put before now (few: a plain loop)."""
        for place in np.flatnonzero(~result & (their_block >= 0) & (their_block != block)):
            published = self.known.get(int(block[place]), {}).get(int(their_block[place]))
            if published is None:
                continue
            entry = int(entries[place])
            level, subject, time = entry >> _LEVEL & 7, entry & _WHO, entry >> _CLOCK
            seen = published.warps.min() if level == BLOCK else published.warps[their_warp[place]]
            result[place] = seen >= time or (level == THREAD and published.threads.get(subject, 0) >= time)


def _merge(into: dict[int, Published], block: int, other: Published) -> None:
    mine = into.get(block)
    if mine is None:
        into[block] = Published(other.warps, dict(other.threads))
        return
    mine.warps = np.maximum(mine.warps, other.warps)
    for thread, time in other.threads.items():
        mine.threads[thread] = max(time, mine.threads.get(thread, 0))


class Shadow:
    """The last writer and the readers of each element (`1 << shift` bytes), and which were read as read-only."""

    def __init__(self, size: int, shift: int, private: bool = False) -> None:
        """private: each element belongs to one block (shared memory)."""
        self.shift, self.private = shift, private
        count = (size >> shift) + 2
        self.writers = np.zeros(count, np.int64)
        self.readers = np.zeros(count, np.int64)
        self.readonly = np.zeros(count, np.bool_)

    def unordered_writes(self, clocks: Clocks, index: Array, who: Array, atomic: bool) -> Array:
        """For each access: is the last write neither by the same thread, nor ordered before, nor both atomic?"""
        last = self.writers[index]
        return self._unordered(clocks, last, (last & _WHO != who) & (last != 0), who, atomic)

    def unordered_reads(self, clocks: Clocks, index: Array, who: Array, atomic: bool) -> Array:
        """The same for the reads."""
        last = self.readers[index]
        other = (last != 0) & ~((last & _WHO == who) & ((last >> _LEVEL) & 7 == THREAD))
        return self._unordered(clocks, last, other, who, atomic)

    def _unordered(self, clocks: Clocks, last: Array, other: Array, who: Array, atomic: bool) -> Array:
        if atomic:
            other &= (last & _ATOMIC) == 0
        if self.private and clocks.epoch is not None:
            return other & (last >> _CLOCK >= clocks.epoch)
        if not other.any():
            return other
        return other & ~clocks.ordered(last, who, clocks.seen)

    def write(self, clocks: Clocks, index: Array, who: Array, atomic: bool) -> Array:
        """Notes the writes. For each: did another thread of the same instruction win the element?"""
        entries = clocks.entries(who, atomic)
        self.writers[index] = entries
        return self.writers[index] != entries

    def read(self, clocks: Clocks, index: Array, entries: Array, seen: Array | None) -> None:
        """Notes the reads: replaces readers that are ordered before (given what was seen), joins the others."""
        old = self.readers[index]
        if self.private and clocks.epoch is not None and not (old >> _CLOCK >= clocks.epoch).any():
            self._first_reads(clocks, index, entries)
            return
        if seen is not None:
            old = np.where(clocks.ordered(old, entries & _WHO, seen), 0, old)
        entries = _common(clocks, old, entries)
        self.readers[index] = entries
        while True:
            now = self.readers[index]
            joined = _common(clocks, now, entries)
            changed = joined != now
            if not changed.any():
                return
            self.readers[index[changed]] = joined[changed]

    def _first_reads(self, clocks: Clocks, index: Array, entries: Array) -> None:
        """Reads after a barrier of elements that nobody read since: only lanes of this instruction can meet."""
        self.readers[index] = entries
        winner = self.readers[index]
        shared = winner != entries
        if not shared.any():
            return
        index, winner, who = index[shared], winner[shared] & _WHO, entries[shared] & _WHO
        block, lane = np.divmod(who, clocks.threads)
        one_warp = (who >> 5 == winner >> 5) if clocks.threads % 32 == 0 else (lane >> 5 == winner % clocks.threads >> 5)
        rest = entries[shared] & ~((7 << _LEVEL) | _WHO)
        self.readers[index] = np.where(one_warp, rest | (WARP << _LEVEL) | (block * clocks.warps + (lane >> 5)), 0)
        wide = ~one_warp
        self.readers[index[wide]] = (rest | (BLOCK << _LEVEL) | block)[wide]

    def writer(self, place: int) -> int:
        return int(self.writers[place]) & _WHO

    def reader(self, place: int) -> tuple[str, int]:
        """("thread" or what the readers have in common, its number)."""
        entry = int(self.readers[place])
        level = {THREAD: "thread", WARP: "several threads of warp", BLOCK: "several threads of block", GRID: "several blocks"}
        return level[entry >> _LEVEL & 7], entry & _WHO


def _common(clocks: Clocks, a: Array, b: Array) -> Array:
    """The entry that stands for both: the smallest group of threads that holds both, at the later time."""
    level_a, level_b = (a >> _LEVEL) & 7, (b >> _LEVEL) & 7
    subject_a, subject_b = a & _WHO, b & _WHO
    same = (level_a == level_b) & (subject_a == subject_b)
    block_a, warp_a = clocks._place(level_a, subject_a)
    block_b, warp_b = clocks._place(level_b, subject_b)
    one_block = (block_a == block_b) & (level_a < GRID) & (level_b < GRID)
    one_warp = one_block & (warp_a == warp_b) & (level_a <= WARP) & (level_b <= WARP)
    level = np.where(same, level_a, np.where(one_warp, WARP, np.where(one_block, BLOCK, GRID)))
    subject = np.where(same, subject_a, np.where(one_warp, block_a * clocks.warps + warp_a, np.where(one_block, block_a, 0)))
    time = np.maximum(a >> _CLOCK, b >> _CLOCK)
    joined = (time << _CLOCK) | (level << _LEVEL) | (a & b & _ATOMIC) | subject
    return np.where(a == 0, b, np.where(b == 0, a, joined))
