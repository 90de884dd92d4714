"""The pickles inside PyTorch's files: written with PyTorch's names for tensors, read without running the file's code.

A pickle can call what its globals give it and set attributes of what it has made. So in strict reading every global is
refused or stands for an immutable object of ours, whose call only notes what was asked; the tensors are made afterwards.
"""
from __future__ import annotations

import contextlib
import io
import math
import pickle
import struct
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from typing import IO, Any, NamedTuple

import numpy as np

import treadle
from treadle.ir import dtypes
from treadle.ir.dtypes import DType
from treadle.legacy import LAYOUTS, layout
from treadle.nn.parameter import Buffer, Parameter
from treadle.tensor import Tensor

Place = Callable[[Tensor, str], Tensor]

_UNTYPED = (*dtypes.WIDE_UNSIGNED, dtypes.complex32)  # dtypes without a storage class: the tensor names its dtype, its storage holds bytes
STORAGES: dict[str, DType] = {f"{d.title}Storage": d for d in dtypes.ALL if d not in _UNTYPED} | {"UntypedStorage": dtypes.uint8}
_STORAGE_OF = {dtype: name for name, dtype in STORAGES.items() if name != "UntypedStorage"}
_DTYPES: dict[str, DType] = {dtype.name: dtype for dtype in dtypes.ALL}

_safe_globals: dict[str, Any] = {}


def _full_name(entry: Any) -> str:
    return f"{entry.__module__}.{entry.__qualname__}"


def add_safe_globals(safe_globals: list[Any]) -> None:
    """Allow these functions and classes in files read with `weights_only`; entries may be (object, "module.name") pairs."""
    for entry in safe_globals:
        value, name = entry if isinstance(entry, tuple) else (entry, _full_name(entry))
        _safe_globals[name] = value


def get_safe_globals() -> list[Any]:
    """What `add_safe_globals` has allowed."""
    return list(_safe_globals.values())


def clear_safe_globals() -> None:
    """Forget what `add_safe_globals` has allowed."""
    _safe_globals.clear()


# Writing


class safe_globals:
    """`with safe_globals([Class]):` allows the classes inside only."""

    def __init__(self, safe_globals: list[Any]) -> None:
        self.added = safe_globals

    def __enter__(self) -> None:
        self.before = get_safe_globals()
        add_safe_globals(self.added)

    def __exit__(self, *exc: Any) -> None:
        clear_safe_globals()
        add_safe_globals(self.before)


class _Global:
    """Stands for `module.name` in a pickle, which need not be importable here."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name

    def __call__(self, *args: Any) -> Any:
        raise TypeError(f"{self.module}.{self.name} exists only in files")


class _StorageName(NamedTuple):
    """The persistent id of a storage."""

    kind: str
    key: str
    location: str
    numel: int


class _SavedTensor:
    """A tensor whose values have been given a storage."""

    def __init__(self, storage: _StorageName, shape: tuple[int, ...], requires_grad: bool, dtype: DType) -> None:
        self.storage, self.shape, self.requires_grad, self.dtype = storage, shape, requires_grad, dtype


def _contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(max(1, size) for size in shape[i + 1:]) for i in range(len(shape)))


class _Pickler(pickle._Pickler):  # the Python version: the C one insists on importing the globals it writes
    """Writes tensors as PyTorch does and collects their values in `arrays`; tensors with the same memory share a storage."""

    dispatch = dict(pickle._Pickler.dispatch)

    def __init__(self, file: IO[bytes], protocol: int) -> None:
        super().__init__(file, protocol)
        self.arrays: list[np.ndarray] = []
        self._known: dict[tuple, _StorageName] = {}
        self._globals: dict[tuple[str, str], _Global] = {}

    def _global(self, module: str, name: str) -> _Global:
        return self._globals.setdefault((module, name), _Global(module, name))

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if isinstance(obj, DType):
            obj = self._global("torch", obj.name)
        super().save(obj, save_persistent_id)  # type: ignore[misc]

    def persistent_id(self, obj: Any) -> Any:
        if isinstance(obj, _StorageName):
            module = "torch.storage" if obj.kind == "UntypedStorage" else "torch"
            return "storage", self._global(module, obj.kind), obj.key, obj.location, obj.numel
        return None

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, Tensor) and obj.layout is not treadle.strided:
            return self._global("torch._utils", "_rebuild_sparse_tensor"), self._saved_sparse(obj)
        if isinstance(obj, layout):
            return self._global("torch.serialization", "_get_layout"), (f"torch.{obj.name}",)
        if isinstance(obj, Parameter):
            return self._global("torch._utils", "_rebuild_parameter"), (self._saved(obj, False), obj.requires_grad, OrderedDict())
        if isinstance(obj, Tensor):
            obj = self._saved(obj, obj.requires_grad and obj.is_leaf)
        if isinstance(obj, _SavedTensor):
            form, named = ("v3", (obj.dtype,)) if obj.dtype in _UNTYPED else ("v2", ())
            return self._global("torch._utils", f"_rebuild_tensor_{form}"), (
                obj.storage, 0, obj.shape, _contiguous_strides(obj.shape), obj.requires_grad, OrderedDict(), *named)
        if isinstance(obj, treadle.device):
            index = () if obj.index is None else (obj.index,)
            return self._global("torch", "device"), (obj.type, *index)
        return NotImplemented

    def _saved_sparse(self, tensor: Tensor) -> tuple[Any, ...]:
        size = tuple(tensor.shape)
        if tensor.layout is treadle.sparse_coo:
            return treadle.sparse_coo, (tensor._indices(), tensor._values().detach(), size, tensor.is_coalesced())
        rows = tensor.layout is treadle.sparse_csr
        places = (tensor.crow_indices(), tensor.col_indices()) if rows else (tensor.ccol_indices(), tensor.row_indices())
        return tensor.layout, (*places, tensor.values().detach(), size)

    def _saved(self, tensor: Tensor, requires_grad: bool) -> _SavedTensor:
        host = tensor.detach().cpu()
        array = np.asarray((treadle.view_as_real(host) if tensor.dtype is dtypes.complex32 else host).numpy())
        if not array.flags.c_contiguous:
            array = np.ascontiguousarray(array)
        location = str(tensor.device)
        address = array.__array_interface__["data"][0] if location == "cpu" else tensor.data_ptr()
        where = (location, address, array.nbytes, array.dtype) if array.nbytes else (object(),)
        storage = self._known.get(where)
        if storage is None:
            kind = _STORAGE_OF.get(tensor.dtype, "UntypedStorage")
            size = array.nbytes if kind == "UntypedStorage" else array.size
            storage = self._known[where] = _StorageName(kind, str(len(self.arrays)), location, size)
            self.arrays.append(array)  # also keeps the memory, whose address is the storage's identity
        return _SavedTensor(storage, tuple(tensor.shape), requires_grad, tensor.dtype)


def _save_global(pickler: Any, obj: _Global) -> None:
    pickler.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())
    pickler.memoize(obj)


_Pickler.dispatch[_Global] = _save_global


def write_pickle(obj: Any, protocol: int) -> tuple[bytes, list[np.ndarray]]:
    """The pickle of `obj`, and the values of the storages named "0", "1", ... in it."""
    buffer = io.BytesIO()
    pickler = _Pickler(buffer, protocol)
    pickler.dump(obj)
    return buffer.getvalue(), pickler.arrays


# Reading


class Storage(NamedTuple):
    """The bytes of a storage in a file (uint8), its element type and the device it was saved from."""

    key: str
    dtype: DType
    location: str
    data: np.ndarray


class Pending(NamedTuple):
    """Something to make when unpickling is over: `make(builder, *args)`."""

    make: Callable[..., Any]
    args: tuple


class _Allowed(NamedTuple):
    """A global of a strictly read file: calling it gives a Pending."""

    make: Callable[..., Any]

    def __call__(self, *args: Any) -> Pending:
        return Pending(self.make, args)


class Builder:
    """Makes tensors of storages. Tensors with the same place in a storage share memory; other overlaps become copies."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._made: dict[tuple, Tensor] = {}

    def tensor(self, storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any = False, hooks: Any = None,
               metadata: Any = None) -> Tensor:
        return self._tensor(storage, offset, size, stride, requires_grad, storage.dtype)

    def tensor_with_dtype(self, storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, hooks: Any, dtype: Any,
                          metadata: Any = None) -> Tensor:
        return self._tensor(storage, offset, size, stride, requires_grad, dtype)

    def _tensor(self, storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, dtype: DType) -> Tensor:
        if not isinstance(storage, Storage):
            raise pickle.UnpicklingError(f"a tensor in the file has no storage but {type(storage).__name__}")
        spot = (storage.key, dtype, offset, tuple(size), tuple(stride))
        made = self._made.get(spot)
        if made is None:
            array = strided(storage.data, dtype, offset, tuple(size), tuple(stride))
            made = self._made[spot] = self.place(treadle.from_numpy(array), storage.location)
        tensor = made.detach()
        return tensor.requires_grad_(True) if requires_grad else tensor

    def sparse(self, kind: Any, data: Any) -> Tensor:
        if kind is treadle.sparse_coo:
            return treadle.sparse_coo_tensor(*data[:3], is_coalesced=bool(data[3]) if len(data) > 3 else None)
        return treadle.sparse_compressed_tensor(*data, layout=kind)

    def layout(self, name: Any) -> Any:
        found = LAYOUTS.get(str(name).removeprefix("torch."))
        if found is None:
            raise pickle.UnpicklingError(f"a tensor in the file has the layout {name}, which there is not")
        return found

    def parameter(self, data: Any, requires_grad: Any = True, hooks: Any = None, state: Any = None) -> Parameter:
        return Parameter(data, requires_grad=bool(requires_grad))

    def subclass(self, function: Any, kind: Any, args: Any, state: Any) -> Any:
        """A Tensor with attributes of its own or of a class other than Tensor: the tensor alone."""
        found = self.finished(function(*args))
        return Buffer(found) if kind is Buffer else found

    def device(self, kind: Any, index: Any = None) -> Any:
        return treadle.device(str(kind)) if index is None else treadle.device(f"{kind}:{int(index)}")

    def finished(self, value: Any) -> Any:
        return resolved(value, self) if isinstance(value, Pending) else value


def strided(raw: np.ndarray, dtype: DType, offset: Any, size: tuple, stride: tuple) -> np.ndarray:
    """The elements of a uint8 buffer with this dtype, offset and strides (in elements), contiguous.

    It is the buffer itself when it is all of it, else a copy; RuntimeError when it would reach outside.
    """
    numbers = (offset, *size, *stride)
    if len(size) != len(stride) or not all(isinstance(n, int) and n >= 0 for n in numbers):
        raise RuntimeError(f"damaged file: a tensor has offset {offset}, size {list(size)}, stride {list(stride)}")
    numel = math.prod(size)
    if numel == 0:
        return np.empty(size, dtype.np)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    available = len(raw) // dtype.itemsize
    if last >= available:
        raise RuntimeError(f"damaged file: a tensor of size {list(size)}, stride {list(stride)} and offset {offset} does not fit its "
                           f"storage of {available} elements")
    flat = raw[:available * dtype.itemsize].view(dtype.np)
    if numel == available and offset == 0 and _is_contiguous(size, stride):
        return flat.reshape(size)
    view = np.lib.stride_tricks.as_strided(flat[offset:], size, [step * dtype.itemsize for step in stride])
    return np.array(view, order="C")


def _is_contiguous(size: tuple, stride: tuple) -> bool:
    return all(n == 1 or step == expected for n, step, expected in zip(size, stride, _contiguous_strides(size), strict=True))


def resolved(value: Any, builder: Builder, memo: dict[int, Any] | None = None) -> Any:
    """`value` with every Pending in its containers made, each once; dicts and lists are changed in place."""
    memo = {} if memo is None else memo
    if id(value) in memo:
        return memo[id(value)][1]
    made = value
    if type(value) is Pending:
        made = value.make(builder, *(resolved(arg, builder, memo) for arg in value.args))
    elif isinstance(value, dict):
        memo[id(value)] = value, value
        entries = [(resolved(k, builder, memo), resolved(v, builder, memo)) for k, v in value.items()]
        value.clear()
        value.update(entries)
    elif type(value) is list:
        memo[id(value)] = value, value
        value[:] = [resolved(entry, builder, memo) for entry in value]
    elif type(value) in (tuple, set, frozenset):
        made = type(value)(resolved(entry, builder, memo) for entry in value)
    else:
        return value
    memo[id(value)] = value, made  # the original is kept so that its id stays taken
    return made


def _encode(builder: Builder, text: Any, encoding: Any = "latin1") -> bytes:
    """How protocol 2 writes bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes encoded as {encoding!r} are not allowed")
    return str(text).encode("latin1")


def _bytearray(builder: Builder, value: Any = b"", encoding: Any = "latin1") -> bytearray:
    return bytearray(value if isinstance(value, bytes) else str(value).encode("latin1"))


_BUILDERS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": Builder.tensor,
    "torch._utils._rebuild_tensor_v2": Builder.tensor,
    "torch._utils._rebuild_tensor_v3": Builder.tensor_with_dtype,
    "torch._utils._rebuild_parameter": Builder.parameter,
    "torch._utils._rebuild_parameter_with_state": Builder.parameter,
    "torch._tensor._rebuild_from_type_v2": Builder.subclass,
    "torch._utils._rebuild_sparse_tensor": Builder.sparse,
    "torch.serialization._get_layout": Builder.layout,
    "torch.device": Builder.device,
    "torch.Size": lambda builder, entries=(): tuple(entries),
    "_codecs.encode": _encode,
    "builtins.bytearray": _bytearray,
    "builtins.complex": lambda builder, real=0.0, imag=0.0: complex(real, imag),
}
# Immutable types that can do no harm when called. Values that a file could change are never given out.
_TYPES: dict[str, Any] = {
    "collections.OrderedDict": OrderedDict, "builtins.set": set, "builtins.frozenset": frozenset,
}
_KINDS: dict[str, Any] = {"torch.Tensor": Tensor, "torch.nn.parameter.Parameter": Parameter, "torch.nn.parameter.Buffer": Buffer}


class Unpickler(pickle.Unpickler):
    """Reads a pickle whose storages come from `storage_of(kind, key, location, numel, view)`."""

    def __init__(self, file: Any, builder: Builder, storage_of: Callable[..., Storage] | None, strict: bool, encoding: str) -> None:
        super().__init__(file, encoding=encoding)
        self._builder, self._storage_of, self._strict = builder, storage_of, strict
        # Classes that the user has allowed need real tensors to be made of.
        self.late = strict and not _safe_globals

    def find_class(self, module: str, name: str) -> Any:
        full = f"{'builtins' if module == '__builtin__' else module}.{name}"
        if full in _TYPES:
            return _TYPES[full]
        if full in _BUILDERS:
            return self._callable(_BUILDERS[full])
        if full in _KINDS:
            return self._value(_KINDS[full])
        if module in ("torch", "torch.storage") and name in STORAGES:
            return name
        if module == "torch" and name in _DTYPES:
            return self._value(_DTYPES[name])
        if full in _safe_globals:
            return _safe_globals[full]
        if full == "collections.Counter" and self._strict:
            return self._callable(lambda builder, counts=(): Counter(counts))
        if self._strict:
            raise pickle.UnpicklingError(
                f"Weights only load failed. Unsupported global: {full} is not allowed in files read with weights_only=True. If you trust "
                f"the file, allow it with treadle.serialization.add_safe_globals([{name}]), or read it with weights_only=False, which can "
                "run code from the file.")
        try:
            return super().find_class(module, name)
        except ImportError as problem:
            raise pickle.UnpicklingError(f"the file needs {full}, which cannot be imported here: {problem}") from problem

    def _callable(self, make: Callable[..., Any]) -> Any:
        if self.late:
            return _Allowed(make)
        return lambda *args: make(self._builder, *args)

    def _value(self, value: Any) -> Any:
        return Pending(lambda builder: value, ()) if self.late else value

    def persistent_load(self, saved_id: Any) -> Any:
        kind, *data = saved_id if isinstance(saved_id, tuple) and saved_id else (None,)
        kind = kind.decode("ascii") if isinstance(kind, bytes) else kind
        if kind == "module" and data:  # a class with its source, in files of whole modules
            return data[0]
        if kind != "storage" or len(data) not in (4, 5) or self._storage_of is None:
            raise pickle.UnpicklingError(f"unknown persistent id {saved_id!r}")
        name, key, location, numel = (part.decode("ascii") if isinstance(part, bytes) else part for part in data[:4])
        if name not in STORAGES:
            raise pickle.UnpicklingError(f"unsupported storage type {name}")
        return self._storage_of(name, str(key), str(location), numel, data[4] if len(data) == 5 else None)


class _Ghost:
    """Takes the place of anything, and does nothing whatever a pickle does to it."""

    def __new__(cls, *args: Any, **kwargs: Any) -> _Ghost:
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Takes any arguments."""

    def _nothing(self, *args: Any, **kwargs: Any) -> _Ghost:
        return self

    __call__ = __setstate__ = append = extend = add = update = __setitem__ = _nothing


class Scanner(pickle.Unpickler):
    """Goes through a pickle without making anything, to find its end and the element sizes of its storages."""

    def __init__(self, file: Any, encoding: str) -> None:
        super().__init__(file, encoding=encoding)
        self.itemsizes: dict[str, int] = {}

    def find_class(self, module: str, name: str) -> Any:
        return name if module in ("torch", "torch.storage") and name in STORAGES else _Ghost

    def persistent_load(self, saved_id: Any) -> Any:
        parts = [part.decode("ascii") if isinstance(part, bytes) else part for part in saved_id]
        if parts[0] == "storage" and parts[1] in STORAGES:
            self.itemsizes[str(parts[2])] = STORAGES[parts[1]].itemsize
        return _Ghost()


def load_plain(file: Any, encoding: str = "utf-8") -> Any:
    """A pickle of plain data, which may name no globals but the harmless ones."""
    return Unpickler(file, Builder(lambda tensor, location: tensor), None, True, encoding).load()


@contextlib.contextmanager
def clear_errors(strict: bool) -> Iterator[None]:
    """Turn the many errors that a damaged pickle can cause into UnpicklingError; with foreign code, only those of the format."""
    damage: tuple[type[Exception], ...] = (EOFError, struct.error)
    try:
        yield
    except RecursionError as problem:
        raise pickle.UnpicklingError("the file nests too deeply") from problem
    except MemoryError as problem:
        raise pickle.UnpicklingError("out of memory: the file is damaged or too large") from problem
    except (pickle.UnpicklingError, RuntimeError):
        raise
    except Exception as problem:
        if strict or isinstance(problem, damage):
            raise pickle.UnpicklingError(f"damaged file: {type(problem).__name__}: {problem}") from problem
        raise
