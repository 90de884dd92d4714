"""Making tensors: from Python data, filled, ranges, and random."""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import ml_dtypes
import numpy as np

from treadle.arguments import Flag, Omitted, guarded, misfit, sizes
from treadle.device import device_name
from treadle.functions import as_dtype
from treadle.ir import dtypes
from treadle.ir import op as op_table
from treadle.ir.dtypes import FLOAT, DType
from treadle.ir.ops.common import need_real, refuse_overflow
from treadle.ir.types import TensorType, broadcast_shapes, tensor_type
from treadle.layout import check_format
from treadle.random import Generator, reserve
from treadle.results import into, with_out
from treadle.runtime import engine, memory
from treadle.runtime.recorder import STATE, Wrapped, computed
from treadle.tensor import Tensor, apply, read, seen, wrap


def _dtype(dtype: Any) -> DType:
    """The default float dtype for None; Python's `float`, `int` and `bool` name dtypes too. TypeError for anything else."""
    return dtypes.default_float() if dtype is None else as_dtype(dtype)


FULL, IOTA = op_table.get("full"), op_table.get("iota")


def from_array(array: np.ndarray) -> Tensor:
    """A tensor with a copy of the array's elements."""
    array = np.array(array, order="C", copy=True)
    return adopt(array)


def adopt(array: np.ndarray, like: Tensor | None = None) -> Tensor:
    """A tensor that takes over a C-contiguous array nobody else will write to; on the device of `like`, a copy."""
    dtype = dtypes.from_numpy(array.dtype)
    type = tensor_type(array.shape, dtype)
    data = computed(type, memory.taken(array, type))
    if STATE.here.capture is not None:
        STATE.here.capture.constants.add(data)
    where = "cpu" if like is None else like._data.type.device
    return wrap(data) if where == "cpu" else apply(op_table.TABLE["to_device"], (wrap(data),), (where,))


def _finish(t: Tensor, requires_grad: Flag) -> Tensor:
    return t.requires_grad_() if requires_grad else t


def _placed(t: Tensor, device: Any) -> Tensor:
    """A tensor made on the host, on the device wanted."""
    where = device_name(device)
    return t if where == "cpu" else apply(op_table.TABLE["to_device"], (t,), (where,))


def _into(out: Tensor, function: Callable[..., Tensor], args: tuple[Any, ...], **kwargs: Any) -> Tensor:
    """What `function` creates, of the dtype and on the device of `out`, written there."""
    made = function(*args, dtype=kwargs.pop("dtype", None) or out._data.type.dtype, device=out._data.type.device, **kwargs)
    found: Tensor = into(out, made, function.__name__)
    return found


def _creating(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`function` with the keywords that all creations take: `out`, `layout`, `pin_memory`."""
    function = guarded(function)

    @wraps(function)
    def wrapper(*args: Any, out: Tensor | None = None, layout: Any = None, pin_memory: Flag = False, **kwargs: Any) -> Tensor:
        if out is not None:
            kwargs.pop("device", None)
            return _into(out, function, args, **kwargs)
        made = function(*args, **kwargs)
        return made.pin_memory() if pin_memory else made
    return wrapper


def _to_array(data: Any, floats: np.dtype) -> np.ndarray:
    """Python data as an array of the dtype PyTorch would choose; Python's floats become `floats`."""
    if isinstance(data, Tensor):
        return dtypes.plain(to_array(data))
    if isinstance(data, np.ndarray | np.generic):
        return np.asarray(data)
    if isinstance(data, bool):
        return np.asarray(data)
    if isinstance(data, int):
        return np.asarray(data, np.int64)
    if isinstance(data, float):
        return np.asarray(data, floats)
    if isinstance(data, complex):
        return np.asarray(data, _complex_like(floats))
    if isinstance(data, Sequence) and not isinstance(data, str | bytes):
        return _sequence_to_array(data, floats)
    if hasattr(data, "__array__") or hasattr(data, "__array_interface__"):
        return np.asarray(data)
    if isinstance(data, str):
        raise TypeError("new(): invalid data type 'str'")
    raise RuntimeError(f"tensor: Could not infer dtype of {type(data).__name__}; expected numbers, nested sequences, arrays or tensors")


def _complex_like(floats: np.dtype) -> np.dtype:
    return np.dtype(np.complex128 if floats == np.float64 else np.complex64)


def _sequence_to_array(data: Sequence[Any], floats: np.dtype) -> np.ndarray:
    shape = _shape_of(data)
    if any(isinstance(x, Tensor | np.ndarray) for x in data):
        parts = [_to_array(x, floats) for x in data]
        return np.stack(parts) if parts else np.zeros((0,), floats)
    try:
        array = np.array(data)
    except ValueError as error:
        length = shape[-1] if shape else 0
        raise ValueError(f"expected sequence of length {length} at dim {len(shape) - 1} (got a ragged sequence)") from error
    if array.dtype == object:
        array = _nested_tensors(data)
    if array.size == 0 and array.dtype == np.float64:
        return array.astype(floats)
    if array.dtype.kind in "US":
        raise TypeError("new(): invalid data type 'str'")
    if array.dtype == np.float64 and not _has_numpy_double(data):
        return array.astype(floats)
    if array.dtype == np.complex128 and not _has_numpy_double(data):
        return array.astype(_complex_like(floats))
    return array


def _nested_tensors(data: Any) -> np.ndarray:
    def convert(x: Any) -> Any:
        if isinstance(x, Tensor):
            return x.tolist()
        if isinstance(x, list | tuple):
            return [convert(y) for y in x]
        if isinstance(x, int | float | bool | complex | np.generic):
            return x
        raise RuntimeError(f"tensor: Could not infer dtype of {type(x).__name__}")
    array = np.array(convert(data))
    if array.dtype == object:
        raise ValueError("Overflow when unpacking long long, or a sequence of unequal lengths")
    return array


def _has_numpy_double(data: Any) -> bool:
    while isinstance(data, list | tuple) and data:
        data = data[0]
    return isinstance(data, np.generic) and data.dtype in (np.float64, np.complex128)


def _shape_of(data: Any) -> list[int]:
    shape = []
    while isinstance(data, list | tuple):
        shape.append(len(data))
        if not data:
            break
        data = data[0]
    return shape


def to_array(t: Tensor) -> np.ndarray:
    """The tensor's current elements, sharing memory: for reading only."""
    data = read(t)
    if data.buffer is None:
        data = seen(data, "value read")
    engine.materialize(data)
    return memory.array_of(data.buffer, data.type)


def tensor(data: Any, *, dtype: DType | None = None, device: Any = None, requires_grad: bool = False, pin_memory: bool = False) -> Tensor:
    """A new tensor with a copy of `data`: numbers, nested sequences, arrays or tensors."""
    where = device_name(device)
    dtype = None if dtype is None else as_dtype(dtype)
    array = _to_array(data, (dtypes.default_float() if dtype is None else dtypes.float64).np)
    numbers = array.dtype.kind in "if" and array.size and isinstance(data, int | float | list | tuple)
    if dtype is not None and dtype is not dtypes.uint64 and numbers:
        for extreme in (array.min(), array.max()):
            refuse_overflow(extreme.item(), dtype)
    if dtype is None:
        dtype = dtypes.from_numpy(array.dtype)
    elif array.dtype.kind == "c" and not dtype.is_complex and not isinstance(data, Tensor | np.ndarray):
        raise TypeError("must be real number, not complex")
    elif array.dtype.kind == "f" and dtype.category < FLOAT and dtype is not dtypes.bool_:
        array = _unrounded(data) if dtype is dtypes.uint64 and isinstance(data, list | tuple) else array.astype(np.int64)
    array = dtypes.converted(array, dtype) if dtype is dtypes.complex32 else array
    made = _placed(adopt(np.array(array, dtype.np, order="C", copy=True)), where)
    return _finish(made.pin_memory() if pin_memory else made, requires_grad)


def _unrounded(data: Sequence[Any]) -> np.ndarray:
    """Integers of which some are beyond int64, which numpy would make floats of."""
    whole = np.array(data, object)
    return np.array([int(x) for x in whole.flat], np.uint64).reshape(whole.shape)


def as_tensor(data: Any, dtype: DType | None = None, device: Any = None) -> Tensor:
    """`data` itself when it is a tensor of the right dtype; shares memory with numpy arrays when it can."""
    if isinstance(data, Tensor):
        return data.to(device=device, dtype=dtype)
    if isinstance(data, np.ndarray) and device is None and (dtype is None or dtypes.from_numpy(data.dtype) is dtype):
        from treadle.interop import from_numpy
        return from_numpy(data)
    return tensor(data, dtype=dtype, device=device)


def asarray(obj: Any, *, dtype: DType | None = None, device: Any = None, copy: bool | None = None, requires_grad: Flag = False) -> Tensor:
    """A tensor of data; it shares memory with arrays where it can, unless `copy` is True."""
    return _finish(tensor(obj, dtype=dtype, device=device) if copy else as_tensor(obj, dtype, device), requires_grad)


@_creating
def scalar_tensor(value: Any, *, dtype: DType | None = None, device: Any = None, requires_grad: Flag = False) -> Tensor:
    """A 0-d tensor."""
    return full((), value, dtype=_dtype(dtype), device=device, requires_grad=requires_grad)


def legacy_tensor(args: tuple[Any, ...]) -> Tensor:
    """`Tensor()`, `Tensor(2, 3)` (uninitialised sizes), `Tensor([1, 2])` (data): PyTorch's old constructor, float32."""
    if not args:
        return empty(0)
    if all(isinstance(a, int) and not isinstance(a, bool) for a in args):
        return empty(*args)
    if len(args) == 1 and isinstance(args[0], tuple) and type(args[0]).__name__ == "Size":
        return empty(args[0])
    if len(args) == 1 and isinstance(args[0], Tensor):
        return wrap(read(args[0]))
    return tensor(args[0], dtype=dtypes.default_float())


def _shape(size: Any) -> tuple[int, ...]:
    if len(size) == 1 and isinstance(size[0], list | tuple):
        size = size[0]
    out = []
    for n in size:
        if isinstance(n, Tensor | np.generic):
            n = int(n)
        if not isinstance(n, int):
            raise TypeError(f"a size must be an int, got {type(n).__name__}")
        if n < 0:
            raise RuntimeError(f"Trying to create tensor with negative dimension {n}: {list(size)}")
        out.append(n)
    return tuple(out)


def full(size: Any, fill_value: Any, *, dtype: DType | None = None, device: Any = None, requires_grad: Flag = False, layout: Any = None,
         pin_memory: Flag = False, out: Any = None) -> Tensor:
    """Every element is `fill_value`; dtype from the value when not given."""
    value = fill_value.item() if isinstance(fill_value, Tensor | np.generic) else fill_value
    if out is not None:
        return _into(out, full, (size, value), dtype=dtype)
    if dtype is None:
        dtype = {bool: dtypes.bool_, int: dtypes.int64, complex: dtypes.default_complex()}.get(type(value), dtypes.default_float())
    dtype = as_dtype(dtype)
    refuse_overflow(value, dtype)
    if isinstance(size, int):
        raise misfit("full", "size", 1, "tuple of ints", size)
    return _finish(apply(FULL, (value,), (_shape(tuple(size)), dtype, device_name(device))), requires_grad)


def zeros(*shape: Any, size: Any = None, dtype: DType | None = None, device: Any = None, requires_grad: Flag = False, layout: Any = None,
          pin_memory: Flag = False, out: Any = None, names: Any = None) -> Tensor:
    """Zeros of a shape."""
    shape = sizes("zeros", shape, size)
    if out is not None:
        return _into(out, zeros, shape, dtype=dtype)
    if layout is not None and layout.name != "strided":
        return sparse_zeros(_shape(shape), _dtype(dtype), device_name(device), layout.name, requires_grad)
    return _finish(apply(FULL, (0,), (_shape(shape), _dtype(dtype), device_name(device))), requires_grad)


def ones(*shape: Any, size: Any = None, dtype: DType | None = None, device: Any = None, requires_grad: Flag = False, layout: Any = None,
         pin_memory: Flag = False, out: Any = None) -> Tensor:
    """Ones of a shape."""
    shape = sizes("ones", shape, size)
    if out is not None:
        return _into(out, ones, shape, dtype=dtype)
    return _finish(apply(FULL, (1,), (_shape(shape), _dtype(dtype), device_name(device))), requires_grad)


def empty(*shape: Any, size: Any = None, dtype: DType | None = None, device: Any = None, requires_grad: Flag = False, layout: Any = None,
          pin_memory: Flag = False, memory_format: Any = None, out: Any = None) -> Tensor:
    """Treadle fills new memory with zeros: a value must be a function of the program."""
    shape = sizes("empty", shape, size)
    if memory_format is not None:
        if getattr(memory_format, "name", "") == "preserve_format":
            raise RuntimeError("unsupported memory format Preserve")
        check_format(memory_format, len(_shape(shape)))
    return zeros(*shape, dtype=dtype, device=device, requires_grad=requires_grad, layout=layout, out=out)


def _like(x: Tensor, value: float, dtype: DType | None, device: Any, requires_grad: Flag, memory_format: Any) -> Tensor:
    t = x._data.type
    check_format(memory_format, t.ndim)
    refuse_overflow(value, as_dtype(dtype or t.dtype))
    where = t.device if device is None else device_name(device)
    if t.layout != "strided" and value == 0:
        return sparse_zeros(t.shape, as_dtype(dtype or t.dtype), where, t.layout, requires_grad)
    return _finish(for_each_example(apply(FULL, (value,), (t.shape, as_dtype(dtype or t.dtype), where)), x), requires_grad)


def sparse_zeros(shape: tuple[int, ...], dtype: DType, device: str, layout: str, requires_grad: Flag) -> Tensor:
    """A sparse tensor without elements."""
    from treadle.legacy import LAYOUTS
    from treadle.sparse import sparse_coo_tensor
    made: Tensor = sparse_coo_tensor(size=shape, dtype=dtype, device=device).to_sparse(layout=LAYOUTS[layout])
    return _finish(made, requires_grad)


def _dense_type(like: Tensor, memory_format: Any = None) -> TensorType:
    """The type of a tensor to be filled with numbers. NotImplementedError where it is sparse."""
    type = like._data.type
    check_format(memory_format, type.ndim)
    if type.layout != "strided":
        raise NotImplementedError(f"there is no tensor of layout treadle.{type.layout} with every element the same, or random; "
                                  "give shape and dtype for a dense one")
    return type


def for_each_example(made: Tensor, like: Tensor) -> Tensor:
    """Inside `vmap`, a new tensor of its own for every example where `like` has one: then in-place ops may differ."""
    if read(like).trace.__class__ is not Wrapped:
        return made
    _dense_type(like)
    from treadle import levels
    return levels.like(made, like)


def zeros_like(input: Tensor, *, dtype: DType | None = None, device: Any = None, requires_grad: Flag = False, layout: Any = None,
               pin_memory: Flag = False, memory_format: Any = None) -> Tensor:
    """Zeros of the shape of `input`."""
    return _like(input, 0, dtype, device, requires_grad, memory_format)


def ones_like(input: Tensor, *, dtype: DType | None = None, device: Any = None, requires_grad: Flag = False, layout: Any = None,
              pin_memory: Flag = False, memory_format: Any = None) -> Tensor:
    """Ones of the shape of `input`."""
    return _like(input, 1, dtype, device, requires_grad, memory_format)


empty_like = zeros_like


def full_like(input: Tensor, fill_value: Any, *, dtype: DType | None = None, device: Any = None, requires_grad: Flag = False,
              layout: Any = None, pin_memory: Flag = False, memory_format: Any = None) -> Tensor:
    """A tensor of the shape of `input`, filled with a number."""
    number = fill_value.item() if isinstance(fill_value, Tensor | np.generic) else fill_value
    return _like(input, number, dtype, device, requires_grad, memory_format)


def arange(*args: Any, dtype: DType | None = None, device: Any = None, requires_grad: Flag = False, layout: Any = None,
           start: Any = None, end: Any = None, step: Any = None, pin_memory: Flag = False, out: Tensor | None = None) -> Tensor:
    """`arange(end)`, `arange(start, end)`, `arange(start, end, step)`."""
    numbers = [a.item() if isinstance(a, Tensor | np.generic) else a for a in args]
    begin = start if start is not None else (numbers.pop(0) if numbers and (len(numbers) > 1 or end is not None) else 0)
    stop = end if end is not None else numbers.pop(0)
    by = step if step is not None else (numbers.pop(0) if numbers else 1)
    kind = out.dtype if out is not None else as_dtype(dtype) if dtype else None
    if by == 0:
        raise RuntimeError("arange: step must be nonzero")
    if kind is dtypes.int64 and all(map(math.isfinite, (begin, stop, by))):
        begin, stop, by = int(begin), int(stop), int(by)
        if by == 0:
            raise ValueError("arange: step must be nonzero, also as an integer")
    if not all(map(math.isfinite, (begin, stop))):
        raise RuntimeError(f"arange: unsupported range: {begin} -> {stop}")
    if (stop - begin) / by < 0:
        raise RuntimeError(f"arange: upper bound and lower bound inconsistent with step sign (start {begin}, end {stop}, step {by})")
    size = max(0, math.ceil((stop - begin) / by))
    integral = all(isinstance(v, int) for v in (begin, stop, by))
    if dtype is not None and as_dtype(dtype).is_complex:
        raise NotImplementedError(f"\"arange\" not implemented for '{as_dtype(dtype).title}'")
    dtype = as_dtype(dtype) if dtype else (dtypes.int64 if integral else dtypes.default_float())
    if kind is not None and kind.category < FLOAT:  # other integers are cut once the size is known, as in PyTorch
        begin, by = int(begin), int(by)
    if out is not None:
        return into(out, _ramp(size, begin, by, out._data.type.dtype, out._data.type.device), "arange")
    return _finish(_ramp(size, begin, by, dtype, device_name(device)), requires_grad)


def _ramp(size: int, begin: Any, by: Any, dtype: DType, device: str) -> Tensor:
    """begin + by * (0, 1, ..., size - 1)"""
    wide = dtypes.int64 if isinstance(begin, int) and isinstance(by, int) else dtypes.float64
    t = apply(IOTA, (), (size, dtype if (begin, by) == (0, 1) else wide, device))
    if (begin, by) == (0, 1):
        return t
    if by != 1:
        t = apply(op_table.TABLE["mul"], (t, by))
    if begin != 0:
        t = apply(op_table.TABLE["add"], (t, begin))
    return t if wide is dtype else apply(op_table.TABLE["cast"], (t,), (dtype,))


@_creating
def linspace(start: Any, end: Any, steps: int, *, dtype: DType | None = None, device: Any = None, requires_grad: Flag = False) -> Tensor:
    """`steps` values from start to end, both included."""
    values, dtype = _between(np.linspace, start, end, steps, dtype)
    return _finish(_placed(adopt(dtypes.converted(values, dtype)), device), requires_grad)


@_creating
def logspace(start: Any, end: Any, steps: int, base: float = 10.0, *, dtype: DType | None = None, device: Any = None,
             requires_grad: Flag = False) -> Tensor:
    """`steps` numbers from base ** start to base ** end, at equal ratios."""
    if dtype is not None and _dtype(dtype).category < FLOAT:  # PyTorch cuts the ends, not what is between
        start, end = (int(x) for x in (start, end))
    values, dtype = _between(np.logspace, start, end, steps, dtype, base=base)
    return _finish(_placed(adopt(dtypes.converted(values, dtype)), device), requires_grad)


def _between(function: Any, start: Any, end: Any, steps: int, dtype: Any, **options: Any) -> tuple[np.ndarray, DType]:
    """Numbers from start to end, and their dtype: complex where an end is. RuntimeError when a real dtype is asked for then."""
    for x in (start, end):
        if isinstance(x, str) or x is None:
            raise TypeError(f"linspace(): its ends must be numbers or tensors, not {type(x).__name__}")
        if isinstance(x, Tensor) and x._data.type.shape:
            raise RuntimeError(f"linspace only supports 0-dimensional start and end tensors, but got {list(x._data.type.shape)}")
    ends = [x.item() if isinstance(x, Tensor) else x for x in (start, end)]
    whole = any(isinstance(x, complex) for x in ends)
    wanted = dtypes.default_complex() if dtype is None and whole else _dtype(dtype)
    if whole and not wanted.is_complex:
        raise RuntimeError(f"linspace(): inferred dtype {dtypes.default_complex()!r} can't be safely cast to passed dtype {wanted!r}")
    if steps < 0:
        raise RuntimeError(f"number of steps must be non-negative, got {steps}")
    kind = complex if whole else float
    with np.errstate(all="ignore"):  # numbers beyond the largest are infinite
        return function(kind(ends[0]), kind(ends[1]), steps, **options), wanted


@_creating
def eye(n: int, m: int | Omitted = None, *, dtype: DType | None = None, device: Any = None, requires_grad: Flag = False) -> Tensor:
    """Ones on the diagonal of an (n, m) matrix, zeros elsewhere; m defaults to n."""
    for name, size in (("n", n), ("m", m)):
        if size is not None and size < 0:
            raise RuntimeError(f"{name} must be greater or equal to 0, got {size}")
    return _finish(_placed(adopt(dtypes.converted(np.eye(n, m), _dtype(dtype))), device), requires_grad)


# -- random ----------------------------------------------------------------------------------------------------------------
def _draw(op_name: str, draws: int, shape: tuple[int, ...], dtype: DType | None, device: Any, generator: Generator | None) -> Tensor:
    dtype = _dtype(dtype)
    if dtype.is_complex:  # pairs; of normal ones each part has half of the variance
        pairs = _draw(op_name, draws, (*shape, 2), dtypes.to_real(dtype), device, generator)
        if op_name == "random_normal":
            pairs = apply(op_table.TABLE["mul"], (pairs, math.sqrt(0.5)))
        return apply(op_table.TABLE["view_as_complex"], (pairs,))
    if dtype.category != FLOAT:
        raise NotImplementedError(f'"{op_name}" not implemented for \'{dtype.name.capitalize()}\'')
    seed, offset = reserve(math.prod(shape), generator, draws)
    return apply(op_table.TABLE[op_name], (seed, offset), (shape, dtype, device_name(device)))


def drawn(op_name: str, like: Tensor, dtype: DType, generator: Generator | None) -> Tensor:
    """Draws of `random_exponential` and its like, as many as `like` has elements."""
    return _draw(op_name, 1, like._data.type.shape, dtype, None, generator)


def rand(*shape: Any, size: Any = None, generator: Generator | None = None, dtype: DType | None = None, device: Any = None,
         requires_grad: Flag = False, layout: Any = None, pin_memory: Flag = False, out: Any = None) -> Tensor:
    """Uniform in [0, 1)."""
    shape = sizes("rand", shape, size)
    if out is not None:
        return _into(out, rand, shape, dtype=dtype, generator=generator)
    return _finish(_draw("random_uniform", 1, _shape(shape), dtype, device, generator), requires_grad)


def randn(*shape: Any, size: Any = None, generator: Generator | None = None, dtype: DType | None = None, device: Any = None,
          requires_grad: Flag = False, layout: Any = None, pin_memory: Flag = False, out: Any = None) -> Tensor:
    """Standard normal."""
    shape = sizes("randn", shape, size)
    if out is not None:
        return _into(out, randn, shape, dtype=dtype, generator=generator)
    return _finish(_draw("random_normal", 2, _shape(shape), dtype, device, generator), requires_grad)


def rand_like(input: Tensor, *, dtype: DType | None = None, device: Any = None, requires_grad: Flag = False, generator: Any = None,
              layout: Any = None, pin_memory: Flag = False, memory_format: Any = None) -> Tensor:
    """Uniform numbers in [0, 1) of the shape of `input`."""
    type = _dense_type(input, memory_format)
    return rand(type.shape, dtype=dtype or type.dtype, device=device or type.device, requires_grad=requires_grad, generator=generator)


def randn_like(input: Tensor, *, dtype: DType | None = None, device: Any = None, requires_grad: Flag = False, generator: Any = None,
               layout: Any = None, pin_memory: Flag = False, memory_format: Any = None) -> Tensor:
    """Normal numbers of the shape of `input`."""
    type = _dense_type(input, memory_format)
    return randn(type.shape, dtype=dtype or type.dtype, device=device or type.device, requires_grad=requires_grad, generator=generator)


@_creating
def randint(low: int = 0, high: Any = None, size: Any = None, *, generator: Generator | None = None, dtype: DType | None = None,
            device: Any = None, requires_grad: Flag = False) -> Tensor:
    """Integers uniform in [low, high); `randint(high, size)` starts at 0."""
    if size is None or high is None:
        low, high, size = 0, low, high if size is None else size
    if high is None or low >= high:
        raise RuntimeError(f"random_ expects 'from' to be less than 'to', but got from={low} >= to={high}")
    shape = _shape((size,) if isinstance(size, int) else tuple(size))
    seed, offset = reserve(math.prod(shape), generator)
    bits = apply(op_table.TABLE["random_bits"], (seed, offset), (shape, device_name(device)))
    table = op_table.TABLE
    unsigned = apply(table["bitwise_and"], (apply(table["cast"], (bits,), (dtypes.int64,)), 0xFFFFFFFF))
    # Fixed-point multiplication maps 32 bits onto the range with a bias below range / 2**32.
    value = apply(table["add"], (apply(table["shift_right"], (apply(table["mul"], (unsigned, int(high) - int(low))), 32)), int(low)))
    dtype = as_dtype(dtype or dtypes.int64)
    return _finish(value if dtype is dtypes.int64 else apply(table["cast"], (value,), (dtype,)), requires_grad)


def randint_like(input: Tensor, low: int, high: int | None = None, *, dtype: DType | None = None, device: Any = None,
                 requires_grad: Flag = False, layout: Any = None, pin_memory: Flag = False, memory_format: Any = None) -> Tensor:
    """Integers in [low, high) of the shape of `input`."""
    type = _dense_type(input, memory_format)
    dtype, where = dtype or type.dtype, device or type.device
    if dtype.is_complex:
        raise RuntimeError(f"randint_like handles only integral, floating-point and boolean types, got {dtype.name}")
    begin, end = (0, low) if high is None else (low, high)
    return randint(begin, end, type.shape, dtype=dtype, device=where, requires_grad=requires_grad)


def _check_permutation(n: int, dtype: DType) -> None:
    """Whether 0..n-1 have different values in `dtype`."""
    if dtype is dtypes.bool_ or dtype.is_complex:
        raise NotImplementedError(f'"randperm" not implemented for \'{dtype.title}\'')
    exact = {dtypes.float16: 11, dtypes.float32: 24, dtypes.float64: 53}.get(dtype)
    if exact is not None and n > (1 << exact) + 1:
        raise RuntimeError(f"n cannot be greater than {(1 << exact) + 1 if exact == 11 else f'2^{exact}+1'} for {dtype.title} type.")
    if dtype.category != FLOAT and n - 1 > np.iinfo(dtype.np).max:
        raise RuntimeError(f"value cannot be converted to type {dtype.name} without overflow")


@_creating
def randperm(n: int, *, generator: Generator | None = None, dtype: DType | None = None, device: Any = None,
             requires_grad: Flag = False) -> Tensor:
    """A random permutation of 0..n-1: the order that sorts n random words of 64 bits (Philox, so any process agrees)."""
    if n < 0:
        raise RuntimeError(f"randperm: Trying to create tensor with negative dimension {n}: [{n}]")
    kind = as_dtype(dtype or dtypes.int64)
    _check_permutation(n, kind)
    table, where = op_table.TABLE, ((n,), device_name(device))
    high, low = (apply(table["cast"], (apply(table["random_bits"], reserve(n, generator), where),), (dtypes.int64,)) for _ in range(2))
    words = apply(table["bitwise_or"], (apply(table["shift_left"], (high, 32)), apply(table["bitwise_and"], (low, 0xFFFFFFFF))))
    # Signed words have the order of unsigned ones when their first bit is turned over.
    _, order = apply(table["sort"], (apply(table["bitwise_xor"], (words, -1 << 63)),), (0, False, True))
    return _finish(order if kind is dtypes.int64 else apply(table["cast"], (order,), (kind,)), requires_grad)


@_creating
def normal(mean: Any = 0.0, std: Any = 1.0, size: Any = None, *, generator: Generator | None = None, dtype: DType | None = None,
           device: Any = None, requires_grad: Flag = False) -> Tensor:
    """Normal with the given mean and standard deviation: numbers with `size`, or tensors."""
    if size is None:
        shapes = [x._data.type.shape for x in (mean, std) if isinstance(x, Tensor)]
        need_real("normal", *[x._data.type for x in (mean, std) if isinstance(x, Tensor)])
        size = broadcast_shapes("normal", *shapes)
        dtype = dtype or next(x._data.type.dtype for x in (mean, std) if isinstance(x, Tensor))
    if not isinstance(std, Tensor) and std < 0:
        raise RuntimeError(f"normal expects std >= 0.0, but found std {std}")
    z = randn(_shape((tuple(size),)), generator=generator, dtype=dtype, device=device)
    table = op_table.TABLE
    return _finish(apply(table["add"], (apply(table["mul"], (z, std)), mean)), requires_grad)


@with_out
def bernoulli(input: Any, p: float | None = None, *, generator: Generator | None = None) -> Tensor:
    """1 with probability `input` (or p), else 0, in the input's dtype."""
    t = input._data.type
    dtype = t.dtype if t.dtype.category == FLOAT else dtypes.default_float()
    u = rand(t.shape, generator=generator, dtype=dtypes.float32, device=t.device)
    table = op_table.TABLE
    return apply(table["cast"], (apply(table["lt"], (u, input if p is None else p)),), (dtype if p is None else t.dtype,))


def frombuffer(buffer: Any, *, dtype: DType, count: int = -1, offset: int = 0, requires_grad: bool = False) -> Tensor:
    """A 1-d tensor that shares the memory of a buffer."""
    kind = ml_dtypes.bfloat16 if dtype is dtypes.bfloat16 else dtype.np
    return _finish(from_array(np.frombuffer(buffer, kind, count, offset)), requires_grad)


__all__ = ["arange", "as_tensor", "asarray", "bernoulli", "empty", "empty_like", "empty_strided", "eye", "frombuffer", "full", "full_like",
           "linspace", "logspace", "normal", "ones", "ones_like", "rand", "rand_like", "randint", "randint_like", "randn", "randn_like",
           "randperm", "scalar_tensor", "tensor", "zeros", "zeros_like"]


def empty_strided(size: Sequence[int], stride: Sequence[int], *, dtype: Any = None, device: Any = None,
                  requires_grad: Flag = False, layout: Any = None, pin_memory: Flag = False) -> Tensor:
    """A tensor of this size and these strides, over as little memory as they need. RuntimeError for lists of different lengths."""
    if len(size) != len(stride):
        raise RuntimeError(f"empty_strided: mismatch in length of strides and shape: got size {tuple(size)} and stride {tuple(stride)}")
    last = sum([(n - 1) * s for n, s in zip(size, stride, strict=True)]) + 1 if 0 not in size else 0
    made = empty(last, dtype=dtype, device=device).as_strided(tuple(size), tuple(stride))
    return made.requires_grad_() if requires_grad else made
