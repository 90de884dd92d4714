"""Tensor's methods: operators, Python's protocols, conversions, in-place forms, and every function that takes a tensor first."""
from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from treadle import (
    autograd,
    complex_numbers,
    conversions,
    counting,
    creation,
    functions,
    gathering,
    indexing,
    interop,
    joining,
    later_methods,
    layout,
    legacy,
    linear_algebra,
    method_docs,
    order,
    overlapping,
    printing,
    random_fills,
    reductions,
    shaping,
    statistics,
)
from treadle.arguments import guarded, guarded_method, misfit
from treadle.complex_numbers import as_real
from treadle.creation import to_array
from treadle.device import device
from treadle.emitter import fast_path
from treadle.functions import MUL, TABLE, cast, operand
from treadle.ir import dtypes
from treadle.ir.dtypes import FLOAT, DType
from treadle.later_methods import in_place, only
from treadle.runtime import engine, memory
from treadle.tensor import Tensor, alias, apply, assign, check_writable, detached, read, seen, storage_of, wrap


# -- operators -----------------------------------------------------------------------------------------------------------------
def _binary(name: str) -> Callable[..., Any]:
    op = TABLE[name]

    def foreign(self: Tensor, other: Any, out: Any = None) -> Any:
        other = operand(other)
        return other if other is NotImplemented else apply(op, (self, other))
    return fast_path(op, foreign) or foreign


def _reflected(name: str) -> Callable[..., Any]:
    op = TABLE[name]

    def method(self: Tensor, other: Any) -> Any:
        if not isinstance(self, Tensor):
            raise TypeError(f"the reflected operator of '{name}' for Tensor objects doesn't apply to a {type(self).__name__}")
        if other.__class__ not in functions.PLAIN:
            other = operand(other)
        return other if other is NotImplemented else apply(op, (other, self))
    return method


def _in_place_operator(name: str, label: str) -> Callable[..., Any]:
    op = TABLE[name]

    def method(self: Tensor, other: Any) -> Any:
        other = operand(other)
        return other if other is NotImplemented else assign(self, apply(op, (self, other)), label)
    return method


ARITHMETIC = {"add": "add", "sub": "sub", "mul": "mul", "truediv": "div", "mod": "remainder",
              "and": "bitwise_and", "or": "bitwise_or", "xor": "bitwise_xor", "lshift": "shift_left", "rshift": "shift_right"}


def power(self: Tensor, exponent: Any) -> Any:
    """`self ** exponent`; NotImplemented for what is neither a tensor nor a number."""
    if exponent.__class__ not in functions.PLAIN:
        exponent = operand(exponent)
        if exponent is NotImplemented:
            return exponent
    return functions.power(self, exponent)


def _floor_divide(x: Any, y: Any) -> Any:
    x, y = operand(x), operand(y)
    return NotImplemented if x is NotImplemented or y is NotImplemented else functions.without_derivative(TABLE["floor_divide"], x, y)


def _install_operators() -> None:
    for symbol, name in ARITHMETIC.items():
        setattr(Tensor, f"__{symbol}__", _binary(name))
        setattr(Tensor, f"__r{symbol}__", _reflected(name))
        setattr(Tensor, f"__i{symbol}__", _in_place_operator(name, f"{name}_"))
    for name in ("eq", "ne", "lt", "le", "gt", "ge"):
        setattr(Tensor, f"__{name}__", _binary(name))
    for name, function in {
        "__floordiv__": lambda self, other: _floor_divide(self, other), "__rfloordiv__": lambda self, other: _floor_divide(other, self),
        "__ifloordiv__": lambda self, other: assign(self, functions.floor_divide(self, other), "floor_divide_"),
        "__pow__": power, "__rpow__": _reflected("pow"), "__ipow__": lambda self, n: assign(self, power(self, n), "pow_"),
        "__rdiv__": _reflected("div"),
        "__matmul__": linear_algebra.matmul, "__rmatmul__": lambda self, other: linear_algebra.matmul(other, self),
        "__neg__": functions.neg, "__invert__": later_methods.invert, "__pos__": lambda self: self, "__abs__": functions.abs,
        "__getitem__": _getitem, "__setitem__": indexing.setitem, "__repr__": printing.tensor_repr, "__hash__": lambda self: id(self),
    }.items():
        setattr(Tensor, name, function)


# What reads a number of a dtype from memory: item() takes 0.7 us so, and 2.4 through an array.
_NUMBERS: dict[str, Any] = {"float32": ctypes.c_float, "float64": ctypes.c_double, "int64": ctypes.c_int64, "int32": ctypes.c_int32,
                            "int16": ctypes.c_int16, "int8": ctypes.c_int8, "uint8": ctypes.c_uint8, "bool": ctypes.c_bool}


# -- looking at values -----------------------------------------------------------------------------------------------------------
def item(self: Tensor) -> Any:
    """The only element as a Python number. RuntimeError when there are more or none."""
    data = read(self)
    if data.type.numel != 1:
        raise RuntimeError(f"a Tensor with {data.type.numel} elements cannot be converted to Scalar")
    if data.buffer is None:
        data = seen(data, "item")
    engine.materialize(data, "item")
    number = _NUMBERS.get(data.type.dtype.name)
    if number is not None and data.type.device == "cpu":
        return number.from_address(data.buffer.ptr).value
    value = dtypes.plain(memory.array_of(data.buffer, data.type)).reshape(-1)[0]
    return float(value) if data.type.dtype.category == FLOAT else value.item()


def tolist(self: Tensor) -> Any:
    array = dtypes.plain(to_array(self))
    return (array.astype(np.float64) if self._data.type.dtype.category == FLOAT else array).tolist()


def _bool(self: Tensor) -> bool:
    numel = self._data.type.numel
    if numel != 1:
        raise RuntimeError(f"Boolean value of Tensor with {'no values' if numel == 0 else 'more than one value'} is ambiguous")
    if self._data.buffer is None:
        seen(read(self), "bool")
    return bool(item(self))


def _index(self: Tensor) -> int:
    if self._data.type.dtype.category >= FLOAT or self._data.type.numel != 1:
        raise TypeError("only integer tensors of a single element can be converted to an index")
    return int(item(self))


def _len(self: Tensor) -> int:
    if not self._data.type.shape:
        raise TypeError("len() of a 0-d tensor")
    return self._data.type.shape[0]


def _iter(self: Tensor) -> Iterator[Tensor]:
    if not self._data.type.shape:
        raise TypeError("iteration over a 0-d tensor")
    return iter(shaping.unbind(self, 0))


def _getitem(self: Tensor, index: Any) -> Tensor:
    """`self[index]`; one integer, the commonest index, without parsing."""
    shape = self._data.type.shape
    if index.__class__ is int and shape and -shape[0] <= index < shape[0]:
        return indexing.row(self, index)
    return indexing.getitem(self, index)


def _format(self: Tensor, spec: str) -> str:
    return format(printing.tensor_repr(self) if self._data.type.shape else item(self), spec)


def _array(self: Tensor, dtype: Any = None, copy: Any = None) -> np.ndarray:
    array = interop.to_numpy(self)
    return array if dtype is None else array.astype(dtype)


def _rebuild(array: np.ndarray, dtype: DType, requires_grad: bool, cls: type) -> Tensor:
    t = creation.from_array(np.asarray(array).view(dtype.np))
    return t.requires_grad_() if requires_grad else t


def _reduce(self: Tensor, protocol: Any) -> Any:
    if self._data.type.layout != "strided":
        from treadle.sparse.conversions import reduced
        return reduced(self)
    array = to_array(self).copy()
    plain = array.view(np.uint16) if self._data.type.dtype is dtypes.bfloat16 else array
    return _rebuild, (plain, self._data.type.dtype, self._requires_grad, type(self))


def _deepcopy(self: Tensor, memo: dict[int, Any]) -> Tensor:
    if self._node is not None:
        raise RuntimeError("Only Tensors created explicitly by the user (graph leaves) support the deepcopy protocol at the moment.")
    found = memo.get(id(self))
    if found is None:
        found = wrap(apply(TABLE["copy"], (wrap(read(self)),))._data)
        found._requires_grad = self._requires_grad
        memo[id(self)] = found
    return found


PROTOCOL = {
    "__bool__": _bool, "__int__": lambda self: int(as_real(only(self), "int64_t")),
    "__float__": lambda self: float(as_real(only(self), "double")), "__complex__": lambda self: complex(only(self)),
    "__len__": _len, "__iter__": _iter, "__format__": _format, "__array__": _array, "__reduce_ex__": _reduce, "__deepcopy__": _deepcopy,
    "__contains__": lambda self, x: bool(item(reductions.any(self == x))), **interop.ARRAY_PROTOCOL,
    "item": item, "tolist": tolist, "numpy": interop.to_numpy, "__index__": _index,
}


# -- facts -----------------------------------------------------------------------------------------------------------------------
def _size(self: Tensor, dim: int | None = None) -> Any:
    shape = layout.Size(self._data.type.shape)
    if dim is None:
        return shape
    n = len(shape)
    if not -max(n, 1) <= dim < max(n, 1):
        raise IndexError(f"Dimension out of range (expected to be in range of [{-max(n, 1)}, {max(n, 1) - 1}], but got {dim})")
    return shape[dim]


def _stride(self: Tensor, dim: int | None = None) -> Any:
    strides = layout.strides_of(self)
    return strides if dim is None else strides[dim]


def _set_requires_grad(self: Tensor, value: bool) -> None:
    if self._node is not None:
        if not value:
            raise RuntimeError("you can only change requires_grad flags of leaf variables.")
        return
    if value and self._data.type.dtype.category < FLOAT:
        raise RuntimeError("only Tensors of floating point dtype can require gradients")
    self._requires_grad = bool(value)
    storage = self._storage
    if storage is not None and not self._chain:
        import weakref
        storage.leaf = weakref.ref(self) if value else None


def _requires_grad_(self: Tensor, requires_grad: bool = True) -> Tensor:
    """Whether a gradient is wanted of this leaf. TypeError unless it is a bool."""
    if not isinstance(requires_grad, bool):
        raise misfit("requires_grad_", "requires_grad", 1, "bool", requires_grad)
    _set_requires_grad(self, requires_grad)
    return self


def _set_grad(self: Tensor, value: Tensor | None) -> None:
    if value is not None:
        if not isinstance(value, Tensor):
            raise TypeError(f"assigned grad expected to be a Tensor or None but got grad of type {type(value).__name__}")
        if value._data.type.shape != self._data.type.shape:
            raise RuntimeError(f"assigned grad has data of a different size: {list(value._data.type.shape)} for "
                               f"{list(self._data.type.shape)}")
    self._grad = value


def _set_data(self: Tensor, value: Tensor) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"Variable data has to be a tensor, but got {type(value).__name__}")
    if not self._requires_grad and self._edge is None and _is_plain(value):
        shared = alias(value)
        self._data, self._storage, self._chain, self._seen = shared._data, shared._storage, shared._chain, shared._seen
        return
    new = apply(TABLE["copy"], (wrap(read(value)),))
    if self._storage is None or autograd.STATE.here.capture is None or new._data.type is not self._data.type:
        # what shared the old memory keeps it: a program puts averaged weights in their place, and the weights back afterwards
        self._data, self._storage, self._chain, self._seen = new._data, None, (), 0
        return
    state = autograd.STATE.here
    before, state.grad = state.grad, False
    try:
        assign(self, new, "data")
    finally:
        state.grad = before


def _is_plain(value: Tensor) -> bool:
    """Whether a tensor's memory is no leaf's, and its history none."""
    if value._edge is not None or value._requires_grad or autograd.STATE.here.capture is not None:
        return False
    storage = value._storage
    leaf = None if storage is None or storage.leaf is None else storage.leaf()
    return (leaf is None or not leaf._requires_grad) and (storage is None or storage.base._edge is None)


def _version(self: Tensor) -> int:
    return self._writes if self._storage is None else self._storage.version


def _data_ptr(self: Tensor) -> int:
    data = read(storage_of(self).base)
    engine.materialize(data, "data_ptr")
    return int(data.buffer.ptr) + layout.layout_of(self)[2] * self._data.type.dtype.itemsize


def _is_pinned(self: Tensor) -> bool:
    data = read(self)
    if data.buffer is None or data.buffer.owner is None:
        return False
    from treadle.runtime.cuda_memory import is_pinned
    return is_pinned(data.buffer)


def _get_device(self: Tensor) -> int:
    """The number of its CUDA device, -1 for the CPU."""
    name = self._data.type.device
    return -1 if name == "cpu" else int(name.partition(":")[2])


PROPERTIES: dict[str, Any] = {
    "shape": property(lambda self: layout.Size(self._data.type.shape)),
    "dtype": property(lambda self: self._data.type.dtype),
    "device": property(lambda self: device(self._data.type.device)),
    "ndim": property(lambda self: len(self._data.type.shape)),
    "is_leaf": property(lambda self: self._node is None),
    "requires_grad": property(lambda self: self._requires_grad or self._node is not None, _set_requires_grad),
    "grad": property(lambda self: self._grad, _set_grad, lambda self: _set_grad(self, None)),
    "grad_fn": property(lambda self: (read(self), self._node)[1]),
    "data": property(lambda self: detached(self), _set_data),
    "retains_grad": property(lambda self: self._node is not None and bool(self._node.retained) and self._out in self._node.retained),
    "_version": property(_version),
    "T": property(shaping.reversed_axes),
    "mT": property(shaping.matrix_transpose),
    **complex_numbers.PROPERTIES,
    "itemsize": property(lambda self: self._data.type.dtype.itemsize),
    "nbytes": property(lambda self: self._data.type.nbytes),
    "is_cuda": property(lambda self: self._data.type.device.startswith("cuda")),
    "is_cpu": property(lambda self: self._data.type.device == "cpu"),
    "is_sparse": property(lambda self: self._data.type.layout == "sparse_coo"),
    "is_sparse_csr": property(lambda self: self._data.type.layout == "sparse_csr"),
    "is_meta": property(lambda self: False),
    "is_quantized": property(lambda self: False),
    "is_mps": property(lambda self: False),
    "layout": property(lambda self: legacy.LAYOUTS[self._data.type.layout]),
}

FACTS: dict[str, Any] = {
    "size": layout.SizeMethod(_size), "stride": _stride, "dim": lambda self: len(self._data.type.shape),
    "ndimension": lambda self: len(self._data.type.shape),
    "numel": lambda self: self._data.type.numel, "nelement": lambda self: self._data.type.numel,
    "element_size": lambda self: self._data.type.dtype.itemsize, "is_contiguous": layout.is_contiguous,
    "storage_offset": lambda self: layout.layout_of(self)[2], "data_ptr": _data_ptr, "get_device": _get_device,
    "is_floating_point": lambda self: self._data.type.dtype.category == FLOAT,
    "is_signed": lambda self: self._data.type.dtype.signed, "is_pinned": _is_pinned, "is_inference": lambda self: False,
    "is_same_size": lambda self, other: self._data.type.shape == other._data.type.shape,
}


# -- conversions ------------------------------------------------------------------------------------------------------------------
def _detach_(self: Tensor) -> Tensor:
    self._node, self._out, self._requires_grad = None, 0, False
    return self


CONVERSIONS: dict[str, Callable[..., Any]] = {
    "to": conversions.to, "clone": conversions.clone, "contiguous": conversions.contiguous,
    "cpu": lambda self, memory_format=None: conversions.to(self, device="cpu", memory_format=memory_format),
    "cuda": conversions.cuda, "pin_memory": conversions.pin_memory,
    "type_as": lambda self, other: cast(self, other._data.type.dtype), "detach": detached, "detach_": _detach_,
    "share_memory_": lambda self: self, "is_shared": lambda self: False, "requires_grad_": _requires_grad_,
    "view": shaping.view_method, "reshape": shaping.reshape, "permute": shaping.permute, "expand": shaping.expand,
    "expand_as": guarded(shaping.expand_as), "repeat": joining.repeat, "reshape_as": guarded(shaping.reshape_as),
}


# -- autograd ------------------------------------------------------------------------------------------------------------------------
def _backward(self: Tensor, gradient: Tensor | None = None, retain_graph: bool | None = None, create_graph: bool = False,
              inputs: Any = None) -> None:
    autograd.backward(self, None if gradient is None else [gradient], retain_graph, create_graph, inputs)


def _register_hook(self: Tensor, hook: Callable[..., Any]) -> Any:
    if self._node is not None:
        self._node.hooks = self._node.hooks or {}
        return autograd.add_hook(self._node.hooks.setdefault(self._out, {}), hook)
    if not self._requires_grad:
        raise RuntimeError("cannot register a hook on a tensor that doesn't require gradient")
    self._hooks = self._hooks or {}
    assert self._edge is not None
    self._edge[0].strong = self
    return autograd.add_hook(self._hooks, hook)


def _register_post_hook(self: Tensor, hook: Callable[..., Any]) -> Any:
    if self._node is not None or not self._requires_grad:
        raise RuntimeError("post accumulate grad hooks cannot be registered on non-leaf tensors")
    hooks = self.__dict__.setdefault("_post_hooks", {})
    assert self._edge is not None
    self._edge[0].strong = self
    return autograd.add_hook(hooks, hook)


# -- in place ------------------------------------------------------------------------------------------------------------------------
def copy_(self: Tensor, source: Any, non_blocking: bool = False) -> Tensor:
    """Overwrite with `source`, broadcast and cast."""
    check_writable(self, "copy_")
    if isinstance(source, Tensor) and source._data.type.ndim > self._data.type.ndim:
        raise RuntimeError(f"copy_: output with shape {list(self._data.type.shape)} doesn't match the broadcast shape "
                           f"{list(source._data.type.shape)}")
    return assign(self, indexing.broadcast_to(source, self), "copy_")


def fill_(self: Tensor, value: Any) -> Tensor:
    """Write a number everywhere, in an expanded tensor too: each place of its memory takes it once."""
    check_writable(self, "fill_")
    shape, places = self._data.type.shape, self
    if self._chain and 0 in layout.strides_of(self):
        strides = layout.strides_of(self)
        places = shaping.as_strided(self, [n if stride else min(n, 1) for n, stride in zip(shape, strides, strict=True)], strides)
    assign(places, indexing.broadcast_to(operand(value), places), "fill_")
    return self


def fill_diagonal_(self: Tensor, fill_value: Any, wrap: bool = False) -> Tensor:
    """Write a number over the main diagonal; with `wrap`, over those that follow in tall matrices too."""
    shape = self._data.type.shape
    if len(shape) < 2 or (len(shape) > 2 and len(set(shape)) > 1):
        raise RuntimeError("all dimensions of input must be of equal length" if len(shape) > 2 else "dimensions must larger than 1")
    check_writable(self, "fill_diagonal_")
    step = sum(layout.contiguous_strides(shape))
    length = -(-self._data.type.numel // step) if wrap else min(shape)
    places = apply(MUL, (creation.arange(length), step))
    flat = apply(TABLE["reshape"], (self,), ((self._data.type.numel,),))
    return assign(self, apply(TABLE["reshape"], (gathering.index_fill(flat, 0, places, fill_value),), (shape,)), "fill_diagonal_")


def set_(self: Tensor, source: Tensor) -> Tensor:
    """Share the storage of `source`."""
    return _become(self, alias(source))


def resize_(self: Tensor, *sizes: Any) -> Tensor:
    """Another shape for the same elements in order: the first ones kept, missing ones zero. Views made before keep the old storage.

    A view takes the elements that follow in its storage, as in PyTorch, while these last.
    """
    shape, old = layout.ints(sizes), self._data.type
    if shape == old.shape:
        return self
    if self._requires_grad or self._node is not None:
        raise RuntimeError("cannot resize variables that require grad")
    count = layout.Size(shape).numel()
    if self._chain and count + layout.layout_of(self)[2] <= storage_of(self).base._data.type.numel:
        return _become(self, shaping.as_strided(self, shape, layout.contiguous_strides(shape)))
    flat = apply(TABLE["reshape"], (self,), ((old.numel,),))
    if count <= old.numel:
        flat = apply(TABLE["slice"], (flat,), ((0,), (count,), (1,)))
    else:
        flat = apply(TABLE["pad"], (flat, 0), ((0,), (count - old.numel,)))
    return _become(self, apply(TABLE["reshape"], (flat,), (shape,)))


def resize_as_(self: Tensor, other: Tensor) -> Tensor:
    """`resize_` to the shape of `other`."""
    return resize_(self, *other._data.type.shape)


IN_PLACE: dict[str, Callable[..., Any]] = {
    "copy_": copy_, "fill_": fill_, "zero_": later_methods.zero_, "fill_diagonal_": fill_diagonal_, "set_": set_,
    "resize_": resize_, "resize_as_": resize_as_, **{name: guarded(fill) for name, fill in random_fills.METHODS.items()},
}


def _become(self: Tensor, view: Tensor) -> Tensor:
    """Turn into that view of oneself."""
    if self._requires_grad:
        raise RuntimeError("a leaf Variable that requires grad is being used in an in-place operation.")
    self._data, self._storage, self._chain, self._detached = view._data, view._storage, view._chain, view._detached
    self._edge = view._edge
    if view._storage is not None:
        self._seen = view._seen
    return self


def _viewing(name: str) -> Callable[..., Tensor]:
    function = getattr(shaping, name)

    def method(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return _become(self, function(self, *args, **kwargs))
    method.__name__, method.__doc__ = f"{name}_", f"In-place `{name}`: the tensor becomes that view of itself."
    return method


VIEWING = ("squeeze", "unsqueeze", "t", "transpose", "swapaxes", "swapdims", "as_strided")


def _new(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A tensor like `self` in dtype and device unless they are given."""
    def method(self: Tensor, *args: Any, dtype: Any = None, device: Any = None, **rest: Any) -> Tensor:
        type = self._data.type
        return creation.for_each_example(make(*args, dtype=dtype or type.dtype, device=device or type.device, **rest), self)
    return method


NEW: dict[str, Callable[..., Any]] = {
    "new_zeros": _new(creation.zeros), "new_ones": _new(creation.ones), "new_empty": _new(creation.zeros), "new_full": _new(creation.full),
    "new_tensor": _new(creation.tensor), "new_empty_strided": _new(creation.empty_strided),
    "new": lambda self, *args: creation.legacy_tensor(args).to(self._data.type.device, self._data.type.dtype),
}


# Methods whose signature differs from the function's, and those of autograd.
METHODS: dict[str, Callable[..., Any]] = {
    "split": lambda self, split_size, dim=0: shaping.split(self, split_size, dim),
    "where": lambda self, condition, other: functions.where(condition, self, other),
    "backward": _backward, "retain_grad": autograd.retain, "register_hook": _register_hook,
    "register_post_accumulate_grad_hook": _register_post_hook, **complex_numbers.SPECTRA,
}


# Functions of these modules whose first parameter is `input` become methods.
MODULES = (functions, complex_numbers, shaping, joining, reductions, order, linear_algebra, gathering, counting, statistics)
# Methods whose in-place form makes sense beside the elementwise functions.
ALSO_IN_PLACE = ("sgn", "conj_physical", "masked_fill", "scatter", "scatter_add", "scatter_reduce", "index_add", "index_copy",
                 "index_fill", "index_put", "masked_scatter", "cumsum", "cumprod", "tril", "triu", "addmm", "addmv", "addr", "baddbmm",
                 "put")
NOT_IN_PLACE = frozenset({
    "allclose", "clone", "equal", "is_complex", "is_floating_point", "is_nonzero", "is_same_size", "is_signed", "isclose", "isfinite",
    "isinf", "isnan", "isneginf", "isposinf", "isreal", "positive", "rsub", "signbit", "where",
})


def _is_method(function: Callable[..., Any]) -> bool:
    plain: Any = function
    while hasattr(plain, "__wrapped__"):
        plain = plain.__wrapped__
    return plain.__code__.co_varnames[:1] == ("input",)


def _install_functions() -> None:
    for module in MODULES:
        for name in module.__all__:
            function = getattr(module, name)
            if isinstance(function, type) or not _is_method(function):
                continue
            if not hasattr(Tensor, name):
                setattr(Tensor, name, guarded_method(function))
            wanted = (module is functions or name in ALSO_IN_PLACE) and name not in NOT_IN_PLACE
            if wanted and not hasattr(Tensor, f"{name}_"):
                setattr(Tensor, f"{name}_", overlapping.in_place(name, function, in_place(name, function)))
    for name in VIEWING:
        setattr(Tensor, f"{name}_", _viewing(name))


def install() -> None:
    """Give Tensor its methods. Called once by the package."""
    _install_operators()
    for table in (PROTOCOL, PROPERTIES, FACTS, CONVERSIONS, IN_PLACE, NEW):
        for name, value in table.items():
            setattr(Tensor, name, value)
    for name, dtype in conversions.CASTS.items():
        setattr(Tensor, name, conversions.casting(dtype))
    for name, method in METHODS.items():
        setattr(Tensor, name, method)
    _install_functions()
    later_methods.install()
    method_docs.install(conversions.CASTS)
