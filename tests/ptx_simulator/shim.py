"""Writes a libcuda.so.1 without a compiler: an ELF shared object whose one function jumps to an address that we fill in.

It exports `cuGetProcAddress_v2` (code: jump through the slot) and the data symbol `slot`. Everything else of the driver
API is asked for through that function. System V ABI, chapter 4 and 5 (object files, dynamic linking).
"""

from __future__ import annotations

import platform
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

PAGE = 0x10000
SONAME = b"libcuda.so.1"


class _Machine(NamedTuple):
    number: int
    jump: Callable[[int], bytes]


def _jump_x86(distance: int) -> bytes:
    """jmp *[rip + distance - 6]"""
    return b"\xff\x25" + struct.pack("<i", distance - 6)


def _jump_arm(distance: int) -> bytes:
    """ldr x16, [pc + distance]; br x16"""
    return struct.pack("<II", 0x58000010 | (distance // 4 & 0x7FFFF) << 5, 0xD61F0200)


MACHINES = {"x86_64": _Machine(62, _jump_x86), "aarch64": _Machine(183, _jump_arm)}


def shared_object(machine: str) -> bytes:
    """The file's bytes. KeyError for a processor that it has no jump for."""
    number, jump = MACHINES[machine]
    names = [b"", b"cuGetProcAddress_v2", b"slot", SONAME]
    strings = b"\0".join(names) + b"\0"
    starts = [len(b"\0".join(names[:place])) + (place > 0) for place in range(4)]
    text = 64 + 56 * 4 + 32
    symbols = text + 16
    hashes = symbols + 3 * 24
    names_at = hashes + 24
    end = names_at + len(strings)
    dynamic = [(14, starts[3]), (4, hashes), (5, names_at), (6, symbols), (10, len(strings)), (11, 24), (0, 0)]
    slot = PAGE + 16 * len(dynamic)
    pieces = {
        0: _header(number),
        64: _segments(end, slot),
        text: jump(slot - text),
        symbols: _symbol(0, 0, 0, 0) + _symbol(starts[1], 0x12, 1, text) + _symbol(starts[2], 0x11, 2, slot),
        hashes: struct.pack("<6I", 1, 3, 1, 0, 2, 0),
        names_at: strings,
        PAGE: b"".join(struct.pack("<QQ", *entry) for entry in dynamic),
    }
    image = bytearray(slot + 8)
    for start, piece in pieces.items():
        image[start : start + len(piece)] = piece
    return bytes(image)


def _header(machine: int) -> bytes:
    return b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", 3, machine, 1, 0, 64, 0, 0, 64, 56, 4, 0, 0, 0)


def _segments(end: int, slot: int) -> bytes:
    """Code (read, execute), data (read, write), the dynamic section, a stack that is not executable."""
    entries = [(1, 5, 0, end, PAGE), (1, 6, PAGE, slot + 8 - PAGE, PAGE), (2, 6, PAGE, slot - PAGE, 8), (0x6474E551, 6, 0, 0, 16)]
    return b"".join(struct.pack("<II6Q", kind, flags, at, at, at, size, size, align) for kind, flags, at, size, align in entries)


def _symbol(name: int, info: int, section: int, value: int) -> bytes:
    return struct.pack("<IBBHQQ", name, info, 0, section, value, 8 if section else 0)


def write(folder: Path) -> Path:
    """libcuda.so.1 for this machine in `folder`. OSError if this processor is not supported."""
    machine = platform.machine().replace("arm64", "aarch64").replace("AMD64", "x86_64")
    if machine not in MACHINES:
        raise OSError(f"the software driver has no code for {machine}, only for {', '.join(MACHINES)}")
    path = folder / SONAME.decode()
    path.write_bytes(shared_object(machine))
    return path
