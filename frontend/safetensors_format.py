"""The safetensors format: an 8-byte header length, a JSON header, and the tensors' bytes."""
from __future__ import annotations

import json
import math
import mmap
import os
from collections.abc import Callable
from typing import IO, Any

import numpy as np

import treadle
from treadle.ir import dtypes
from treadle.tensor import Tensor

_LETTERS = {dtypes.INT: "I", dtypes.FLOAT: "F", dtypes.COMPLEX: "C"}
_NAMES = {d: f"{_LETTERS[d.category] if d.signed else 'U'}{8 * d.itemsize}" for d in (*dtypes.REALS, dtypes.complex64)}
_NAMES |= {dtypes.bool_: "BOOL", dtypes.bfloat16: "BF16"}
_BY_NAME = {name: dtype.np for dtype, name in _NAMES.items()}
_MAX_HEADER = 100_000_000


def check(tensors: Any) -> None:
    """TypeError unless `tensors` is a dict of tensors by string."""
    if not isinstance(tensors, dict) or not all(isinstance(key, str) for key in tensors):
        raise TypeError(f"a .safetensors file holds a dict of tensors by name, got {type(tensors).__name__}")
    for key, value in tensors.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"a .safetensors file holds tensors only, but {key!r} is {type(value).__name__}")
        if value.dtype not in _NAMES:
            raise TypeError(f"a .safetensors file cannot hold {value.dtype!r}, the dtype of {key!r}")


def write(tensors: dict[str, Tensor], file: IO[bytes], metadata: dict[str, str] | None) -> None:
    """Write the dict of tensors; wider dtypes come first, so that all are aligned."""
    arrays = {key: np.ascontiguousarray(value.detach().cpu().numpy()) for key, value in tensors.items()}
    order = sorted(arrays, key=lambda key: (-arrays[key].itemsize, key))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"} | (metadata or {})}
    offset = 0
    for key in order:
        array = arrays[key]
        header[key] = {"dtype": _NAMES[dtypes.from_numpy(array.dtype)], "shape": list(tensors[key].shape),
                       "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for key in order:
        file.write(arrays[key].reshape(-1).view(np.uint8).data)


def read(file: IO[bytes], place: Callable[[Tensor, str], Tensor], use_mmap: bool) -> dict[str, Tensor]:
    """The dict of tensors in the file; RuntimeError when its header does not fit its size."""
    size = os.fstat(file.fileno()).st_size
    header, start = _header(file, size)
    whole = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY), np.uint8) if use_mmap and size else None
    found = {}
    for key, entry in header.items():
        dtype, shape, begin, end = _entry(key, entry, size - start)
        if whole is not None:
            raw = whole[start + begin:start + end]
        else:
            raw = np.empty(end - begin, np.uint8)
            file.seek(start + begin)
            if file.readinto(raw.data) != len(raw):  # type: ignore[attr-defined]
                raise RuntimeError(f"Error while reading the safetensors file: {key!r} is cut short")
        found[key] = place(treadle.from_numpy(raw.view(dtype).reshape(shape)), "cpu")
    return found


def _header(file: IO[bytes], size: int) -> tuple[dict[str, Any], int]:
    """The entries and where the data starts."""
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(size - 8, _MAX_HEADER):
        raise RuntimeError("Error while deserializing header: the file is too short or no safetensors file")
    try:
        header = json.loads(file.read(length))
    except ValueError as problem:
        raise RuntimeError(f"Error while deserializing header: {problem}") from problem
    if not isinstance(header, dict):
        raise RuntimeError("Error while deserializing header: it is no JSON object")
    header.pop("__metadata__", None)
    return header, 8 + length


def _entry(key: str, entry: Any, available: int) -> tuple[np.dtype, tuple[int, ...], int, int]:
    try:
        name, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        numbers = all(isinstance(n, int) and n >= 0 for n in (*shape, begin, end))
    except (TypeError, KeyError, ValueError) as problem:
        raise RuntimeError(f"Error while deserializing header: bad entry for {key!r}") from problem
    if name not in _BY_NAME:
        raise RuntimeError(f"safetensors: {key!r} has dtype {name}, which is not supported")
    dtype = _BY_NAME[name]
    if not numbers or end > available or end - begin != math.prod(shape) * dtype.itemsize:
        raise RuntimeError(f"Error while deserializing header: {key!r} does not fit the file (shape {list(shape)}, bytes {begin} to {end})")
    return dtype, shape, begin, end
