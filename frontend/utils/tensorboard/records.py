"""The parts of an event file: checked records that hold messages in the format of Protocol Buffers."""
from __future__ import annotations

import functools
import math
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

POLYNOMIAL = 0x82F63B78  # of CRC-32C, its bits reversed


# -- records -------------------------------------------------------------------------------------------------------------------------
@functools.cache
def _table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return table


def crc32c(data: bytes) -> int:
    """The checksum of Castagnoli et al. (1993)."""
    table, value = _table(), 0xFFFFFFFF
    for byte in data:
        value = table[(value ^ byte) & 0xFF] ^ value >> 8
    return value ^ 0xFFFFFFFF


def _masked(data: bytes) -> bytes:
    """The checksum as records have it: rotated and shifted, so that a checksum of data with checksums is another."""
    value = crc32c(data)
    return struct.pack("<I", ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def record(data: bytes) -> bytes:
    """Length, its checksum, data, its checksum."""
    length = struct.pack("<Q", len(data))
    return length + _masked(length) + data + _masked(data)


# -- messages ------------------------------------------------------------------------------------------------------------------------
def _varint(value: int) -> bytes:
    value &= 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def number(field: int, value: int) -> bytes:
    """A field with an integer."""
    return _varint(field << 3) + _varint(value)


def double(field: int, value: float) -> bytes:
    """A field with a float64."""
    return _varint(field << 3 | 1) + struct.pack("<d", value)


def single(field: int, value: float) -> bytes:
    """A field with a float32."""
    return _varint(field << 3 | 5) + struct.pack("<f", value)


def part(field: int, data: bytes | str) -> bytes:
    """A field with text, bytes or a message."""
    data = data.encode() if isinstance(data, str) else data
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def doubles(field: int, values: Sequence[float] | np.ndarray) -> bytes:
    """A field with a list of float64."""
    return part(field, np.asarray(values, "<f8").tobytes())


def event(wall_time: float, step: int | None = None, summary: bytes | None = None, file_version: str | None = None) -> bytes:
    """What a record holds: values at a step, or the version that a file begins with."""
    return (double(1, wall_time) + (number(2, step) if step is not None else b"") + (part(3, file_version) if file_version else b"")
            + (part(5, summary) if summary is not None else b""))


def _value(tag: str, *fields: bytes) -> bytes:
    return part(1, part(1, tag) + b"".join(fields))


def scalar(tag: str, value: float, twice_as_precise: bool = False) -> bytes:
    """A summary with one number."""
    if twice_as_precise:
        tensor = number(1, 2) + part(2, b"") + doubles(6, [value])
        return _value(tag, part(8, tensor), part(9, part(1, part(1, "scalars")) + number(4, 1)))
    return _value(tag, single(2, value))


def text(tag: str, string: str) -> bytes:
    """A summary with text, which TensorBoard takes for Markdown."""
    tensor = number(1, 7) + part(2, part(2, number(1, 1))) + part(8, string)
    return _value(f"{tag}/text_summary", part(9, part(1, part(1, "text"))), part(8, tensor))


def image(tag: str, pixels: np.ndarray) -> bytes:
    """A summary with an image (H, W, C) of bytes, one to four channels."""
    height, width, channels = pixels.shape
    return _value(tag, part(4, number(1, height) + number(2, width) + number(3, channels) + part(4, png(pixels))))


def histogram(tag: str, values: np.ndarray, limits: np.ndarray) -> bytes:
    """A summary with how many of the values lie between one limit and the next; empty ranges at the ends are left out."""
    flat = values.reshape(-1).astype(np.float64)
    counts, limits = np.histogram(flat, limits)
    there = np.flatnonzero(counts)
    first, last = int(there[0]), int(there[-1])
    # a range's count stands with its upper limit; one empty range before the first shows where that begins
    uppers, kept = limits[first:last + 2], np.concatenate([[0], counts[first:last + 1]])
    moments = double(1, flat.min()) + double(2, flat.max()) + double(3, len(flat)) + double(4, flat.sum()) + double(5, float(flat @ flat))
    return _value(tag, part(5, moments + doubles(6, uppers) + doubles(7, kept)))


@functools.cache
def default_limits() -> np.ndarray:
    """Limits that grow by a tenth, from 1e-12 to 1e20, on both sides of 0."""
    count = math.ceil(math.log(1e32) / math.log(1.1))
    above = 1e-12 * 1.1 ** np.arange(count)
    return np.concatenate([-above[::-1], [0.0], above])


def png(pixels: np.ndarray) -> bytes:
    """An image (H, W, C) of bytes as a PNG file."""
    height, width, channels = pixels.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, width * channels)], axis=1)
    head: Any = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows.tobytes())) + chunk(b"IEND", b"")
