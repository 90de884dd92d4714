"""`save` and `load`: PyTorch's file formats and safetensors, without running code from the file.

A path ending in `.safetensors` is a safetensors file; everything else is PyTorch's zip format, which torch.load reads too.
`load` also reads PyTorch's format from before 1.6.
"""
from __future__ import annotations

import contextlib
import io
import os
import secrets
from collections.abc import Callable, Iterator
from typing import IO, Any

import treadle
from treadle import safetensors_format, torch_format
from treadle.tensor import Tensor
from treadle.torch_pickle import add_safe_globals, clear_safe_globals, get_safe_globals, safe_globals

__all__ = ["add_safe_globals", "clear_safe_globals", "get_safe_globals", "load", "safe_globals", "save"]

Place = str | os.PathLike[str] | IO[bytes]


def save(obj: Any, f: Place, *, pickle_protocol: int = 2, metadata: dict[str, str] | None = None) -> None:
    """Write `obj` to a path or a binary file.

    Tensors may be nested in dicts, lists and tuples together with numbers, strings, bytes and None; other objects are pickled and need
    `weights_only=False` to load. A `.safetensors` path takes a flat dict of tensors (TypeError otherwise) and string `metadata`.
    A path is replaced in one step when everything is written, so that a crash leaves the old file.
    """
    if _is_safetensors(f):
        safetensors_format.check(obj)
        with _target(f) as file:
            safetensors_format.write(obj, file, metadata)
        return
    if metadata is not None:
        raise TypeError("save(): metadata is for .safetensors files")
    with _target(f) as file:
        torch_format.write(obj, file, pickle_protocol)


def load(f: Place, map_location: Any = None, *, weights_only: bool = True, mmap: bool = False,
         encoding: str = "utf-8") -> Any:
    """Read what `save` or torch.save wrote, from a path or a binary file.

    Args:
        map_location: device for the tensors, or a dict of devices by saved location, or a function (tensor, location) -> tensor.
        weights_only: the default, True, refuses anything but tensors and plain data (pickle.UnpicklingError naming the global).
            False unpickles any object, which can run code: only for files you trust.
        mmap: map the file instead of reading it (paths only). It must not be truncated while the tensors live.

    Raises RuntimeError for a damaged file or a dtype or device that there is not, FileNotFoundError for a missing one.
    """
    place = _placer(map_location)
    if isinstance(f, (str, os.PathLike)):
        with open(f, "rb") as file:
            if _is_safetensors(f):
                return safetensors_format.read(file, place, mmap)
            return torch_format.read(file, place, weights_only, mmap, encoding)
    if mmap:
        raise ValueError("load(): mmap=True needs a path")
    return torch_format.read(_seekable(f), place, weights_only, False, encoding)


def _is_safetensors(f: Place) -> bool:
    return isinstance(f, (str, os.PathLike)) and os.fspath(f).endswith(".safetensors")


def _seekable(f: IO[bytes]) -> IO[bytes]:
    if not hasattr(f, "read"):
        raise AttributeError(f"load(): expected a path or a binary file, got {type(f).__name__}")
    if hasattr(f, "seek") and hasattr(f, "tell") and (not hasattr(f, "seekable") or f.seekable()):
        return f
    return io.BytesIO(f.read())


@contextlib.contextmanager
def _target(f: Place) -> Iterator[IO[bytes]]:
    """A binary file to write to; for a path, a new file beside it that takes its place at the end."""
    if not isinstance(f, (str, os.PathLike)):
        if hasattr(f, "seekable") and f.seekable():
            yield f
        else:
            buffer = io.BytesIO()
            yield buffer
            f.write(buffer.getbuffer())
        return
    path = os.path.realpath(f)
    if os.path.exists(path) and not os.path.isfile(path):
        if os.path.isdir(path):
            raise IsADirectoryError(f"save(): {path} is a directory")
        buffer = io.BytesIO()
        yield buffer
        with open(path, "wb") as device:
            device.write(buffer.getbuffer())
        return
    if not os.path.isdir(os.path.dirname(path)):
        raise RuntimeError(f"Parent directory {os.path.dirname(os.fspath(f))} does not exist.")
    temporary = f"{path}.{secrets.token_hex(4)}.tmp"
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def _placer(map_location: Any) -> Callable[[Tensor, str], Tensor]:
    """The function (tensor on the CPU, saved location) -> tensor where it shall be."""
    if map_location is None:
        return _to_saved_location
    if callable(map_location):
        def by_function(tensor: Tensor, location: str) -> Tensor:
            found = map_location(tensor, location)
            return found if isinstance(found, Tensor) else _to_saved_location(tensor, location)

        return by_function
    if isinstance(map_location, dict):
        return lambda tensor, location: _to_saved_location(tensor, str(map_location.get(location, location)))
    device = treadle.device(map_location)
    return lambda tensor, location: tensor if device.type == "cpu" else tensor.to(device)


def _to_saved_location(tensor: Tensor, location: str) -> Tensor:
    if location == "cpu":
        return tensor
    if location.startswith("cuda") and not treadle.cuda.is_available():
        raise RuntimeError("Attempting to deserialize object on a CUDA device but treadle.cuda.is_available() is False. If you are running "
                           "on a CPU-only machine, please use load with map_location='cpu' to map your storages to the CPU.")
    return tensor.to(treadle.device(location))
