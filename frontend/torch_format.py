"""PyTorch's checkpoint files: the zip archive of today, and the stream of pickles from before 1.6 (read only)."""
from __future__ import annotations

import io
import mmap
import os
import sys
import zipfile
import zlib
from collections.abc import Callable
from typing import IO, Any

import numpy as np

from treadle.torch_pickle import STORAGES, Builder, Place, Scanner, Storage, Unpickler, clear_errors, load_plain, resolved, write_pickle

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_ALIGNMENT = 64
_DATE = (1980, 1, 1, 0, 0, 0)  # so that equal objects give equal files


def write(obj: Any, file: IO[bytes], protocol: int = 2) -> None:
    """Write a zip archive that torch.load(weights_only=True) reads if `obj` holds tensors and plain data only."""
    data, arrays = write_pickle(obj, protocol)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        _add(archive, "archive/data.pkl", data)
        _add(archive, "archive/byteorder", sys.byteorder.encode())
        for key, array in enumerate(arrays):
            _add(archive, f"archive/data/{key}", array.reshape(-1).view(np.uint8).data if array.size else b"")
        _add(archive, "archive/version", b"3\n")


def _add(archive: zipfile.ZipFile, name: str, data: Any) -> None:
    """Add an uncompressed record whose data starts at a multiple of 64 bytes, as readers that map the file want it."""
    info = zipfile.ZipInfo(name, _DATE)
    start = archive.fp.tell() + 30 + len(name) + 4  # type: ignore[union-attr]
    padding = -start % _ALIGNMENT
    info.extra = b"FB" + padding.to_bytes(2, "little") + b"Z" * padding
    archive.writestr(info, data)


def read(file: IO[bytes], place: Place, weights_only: bool, use_mmap: bool, encoding: str) -> Any:
    """The object in the file, which may be of either format."""
    start = file.tell()
    head = file.read(4)
    file.seek(start)
    if head == b"PK\x03\x04":
        with clear_errors(weights_only):
            return _read_zip(_Archive(file, use_mmap), place, weights_only, encoding)
    if use_mmap:
        raise RuntimeError("mmap can only be used with files in PyTorch's zip format or .safetensors files")
    return _read_stream(file, place, weights_only, encoding)


class _Archive:
    """The records of a zip file, under its one top folder; RuntimeError when damaged."""

    def __init__(self, file: IO[bytes], use_mmap: bool) -> None:
        self._file = file
        try:
            self._zip = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as problem:
            raise RuntimeError(f"failed reading zip archive: {problem} (is the file cut short?)") from problem
        self._infos = {}
        for info in self._zip.infolist():
            _, _, name = info.filename.partition("/")
            self._infos[name] = info
        self._map = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY), np.uint8) if use_mmap else None

    def __contains__(self, name: str) -> bool:
        return name in self._infos

    def record(self, name: str) -> np.ndarray:
        """The bytes of a record (uint8, writable)."""
        info = self._infos.get(name)
        if info is None:
            raise RuntimeError(f"failed finding file {name} in the archive: it is damaged or was not written by save")
        try:
            if info.compress_type != zipfile.ZIP_STORED:
                return np.frombuffer(bytearray(self._zip.read(info)), np.uint8)
            return self._stored(name, info)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError, ValueError) as problem:
            raise RuntimeError(f"failed reading {name} in the archive: {problem}") from problem

    def _stored(self, name: str, info: zipfile.ZipInfo) -> np.ndarray:
        self._file.seek(info.header_offset)
        header = self._file.read(30)
        if len(header) < 30 or header[:4] != b"PK\x03\x04":
            raise zipfile.BadZipFile("bad local header")
        begin = info.header_offset + 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        if self._map is not None:
            data = self._map[begin:begin + info.file_size]
        else:
            data = _read_exactly(self._file, begin, info.file_size)
        if len(data) != info.file_size:
            raise zipfile.BadZipFile("cut short")
        # A checksum of 0 means that torch.save was told not to compute it; a mapped file is not read through just for this.
        if self._map is None and info.CRC not in (0, zlib.crc32(data.data)):
            raise RuntimeError(f"failed reading {name} in the archive: its checksum is wrong, the file is damaged")
        return data


def _read_exactly(file: Any, begin: int, size: int) -> np.ndarray:
    """`size` bytes from `begin` on; fewer at the end of the file."""
    file.seek(0, os.SEEK_END)
    size = max(0, min(size, file.tell() - begin))  # before memory is taken on a damaged file's word
    file.seek(begin)
    data = np.empty(size, np.uint8)
    done = 0
    while done < size:
        if hasattr(file, "readinto"):
            count = file.readinto(data[done:].data)
        else:
            part = file.read(size - done)
            count = len(part)
            data[done:done + count] = np.frombuffer(part, np.uint8)
        if not count:
            return data[:done]
        done += count
    return data


def _read_zip(archive: _Archive, place: Place, strict: bool, encoding: str) -> Any:
    if "data.pkl" not in archive:
        raise RuntimeError("failed finding file data.pkl in the archive: it was not written by save")
    if "constants.pkl" in archive:
        raise RuntimeError("the file is a TorchScript archive, which cannot be loaded; save the model's state_dict() instead")
    swap = "byteorder" in archive and archive.record("byteorder").tobytes().decode("ascii") != sys.byteorder
    known: dict[str, Storage] = {}

    def storage_of(kind: str, key: str, location: str, numel: Any, view: Any) -> Storage:
        if key not in known:
            dtype = STORAGES[kind]
            data = archive.record(f"data/{key}")
            if not isinstance(numel, int) or numel < 0 or numel * dtype.itemsize > len(data):
                raise RuntimeError(f"damaged file: storage {key} should have {numel} elements of {dtype.name} but has {len(data)} bytes")
            known[key] = Storage(key, dtype, location, _native(data[:numel * dtype.itemsize], dtype.itemsize, swap))
        return known[key]

    return _unpickled(io.BytesIO(archive.record("data.pkl").tobytes()), place, storage_of, strict, encoding)


def _native(data: np.ndarray, itemsize: int, swap: bool) -> np.ndarray:
    return data.reshape(-1, itemsize)[:, ::-1].reshape(-1) if swap and itemsize > 1 else data


def _unpickled(file: Any, place: Place, storage_of: Callable[..., Storage], strict: bool, encoding: str) -> Any:
    builder = Builder(place)
    unpickler = Unpickler(file, builder, storage_of, strict, encoding)
    loaded = unpickler.load()
    return resolved(loaded, builder) if unpickler.late else loaded


def _read_stream(file: Any, place: Place, strict: bool, encoding: str) -> Any:
    """The format before 1.6: magic number, version, machine, object, storage keys, then each storage's size and bytes.

    The object comes before its storages, so it is gone through twice: once to find them, once to be made.
    """
    little_endian = _stream_header(file)
    swap = little_endian != (sys.byteorder == "little")
    begin = file.tell()
    with clear_errors(True):
        scanner = Scanner(file, encoding)
        scanner.load()
        keys = [key.decode("ascii") if isinstance(key, bytes) else str(key) for key in load_plain(file)]
    data = {key: _stream_storage(file, key, scanner.itemsizes.get(key, 1), swap) for key in keys}
    end = file.tell()
    known: dict[str, Storage] = {}

    def storage_of(kind: str, key: str, location: str, numel: Any, view: Any) -> Storage:
        if key not in data:
            raise RuntimeError(f"damaged file: storage {key} is missing")
        dtype = STORAGES[kind]
        if view is None:
            return known.setdefault(key, Storage(key, dtype, location, data[key]))
        view_key, offset, size = view
        part = data[key][offset * dtype.itemsize:(offset + size) * dtype.itemsize]
        return known.setdefault(str(view_key), Storage(str(view_key), dtype, location, part))

    file.seek(begin)
    with clear_errors(strict):
        loaded = _unpickled(file, place, storage_of, strict, encoding)
    file.seek(end)
    return loaded


def _stream_header(file: Any) -> bool:
    """Check the first three pickles; whether the file is little-endian. RuntimeError when it is no such file."""
    try:
        magic = load_plain(file)
        if magic != _MAGIC:
            raise RuntimeError("Invalid magic number; corrupt file?")
        version, system = load_plain(file), load_plain(file)
    except RuntimeError:
        raise
    except Exception as problem:
        raise RuntimeError(f"the file is in no format that load knows, or damaged: {type(problem).__name__}: {problem}") from problem
    if version != _PROTOCOL:
        raise RuntimeError(f"Invalid protocol version: {version}")
    return bool(system.get("little_endian", True)) if isinstance(system, dict) else True


def _stream_storage(file: Any, key: str, itemsize: int, swap: bool) -> np.ndarray:
    head = file.read(8)
    numel = int.from_bytes(head, "little" if not swap else ("big" if sys.byteorder == "little" else "little"), signed=True)
    if len(head) < 8 or numel < 0:
        raise RuntimeError(f"damaged file: the size of storage {key} is missing")
    data = _read_exactly(file, file.tell(), numel * itemsize)
    if len(data) < numel * itemsize:
        raise RuntimeError(f"unexpected EOF, expected {numel * itemsize - len(data)} more bytes. The file might be corrupted.")
    return _native(data, itemsize, swap)
