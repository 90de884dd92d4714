"""Methods that are functions of modules above the tensor: looked up when they are called, as those modules may not be loaded yet."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from treadle import functions
from treadle.ir.dtypes import FLOAT
from treadle.results import fresh
from treadle.tensor import Tensor, assign


def in_place(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def method(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        found = function(self, *args, **kwargs)
        if self._data.type.dtype.is_complex and found._data.type.dtype.category == FLOAT:
            raise RuntimeError(f"In-place {name} is not supported for complex tensors.")
        return assign(self, fresh(found, self), f"{name}_")
    method.__name__ = f"{name}_"
    method.__doc__ = f"In-place `{name}`."
    return method


def only(self: Tensor) -> Any:
    """`item` for Python's own conversions, which raise ValueError when there are more elements or none."""
    if self._data.type.numel != 1:
        raise ValueError("only one element tensors can be converted to Python scalars")
    return self.item()


def invert(self: Tensor) -> Tensor:
    """`~self`. TypeError for floating-point and complex numbers."""
    if self._data.type.dtype.category >= FLOAT:
        raise TypeError("~ (operator.invert) is only implemented on integer and Boolean-type tensors")
    found: Tensor = functions.bitwise_not(self)
    return found


def _later(name: str) -> Callable[..., Any]:
    """A method that is the package's function `name`, looked up when it is called: its module may not be loaded yet."""
    def method(self: Tensor, *args: Any, **kwargs: Any) -> Any:
        import treadle
        function: Callable[..., Any] = getattr(treadle, name)
        return function(self, *args, **kwargs)
    method.__name__, method.__doc__ = name, f"`treadle.{name}` of this tensor."
    return method


def _sparse(name: str) -> Callable[..., Any]:
    """A method that is in `treadle.sparse.conversions`, which is loaded when first used."""
    def method(self: Tensor, *args: Any, **kwargs: Any) -> Any:
        from treadle.sparse import conversions
        function: Callable[..., Any] = getattr(conversions, name)
        return function(self, *args, **kwargs)
    method.__name__, method.__doc__ = name, f"Of sparse tensors: see `treadle.sparse.conversions.{name}`."
    return method


def zero_(self: Tensor) -> Tensor:
    """Overwrite with zeros; a sparse tensor loses its elements."""
    if self._data.type.layout != "strided":
        from treadle.sparse.conversions import zero_
        return zero_(self)
    found: Tensor = self.fill_(0)
    return found


def polygamma(self: Tensor, n: int) -> Tensor:
    """The n-th derivative of digamma."""
    from treadle.special import polygamma as function
    found: Tensor = function(n, self)
    return found


# Functions defined above the tensor that are methods too; those after the bar have in-place forms.
LATER, LATER_IN_PLACE = (part.split() for part in """as_strided_scatter bernoulli cholesky cholesky_inverse cholesky_solve det frexp geqrf
    hash_tensor histogram inverse logdet lu lu_solve matrix_exp narrow_copy nonzero_static orgqr ormqr pinverse qr slogdet svd
    triangular_solve unsafe_chunk unsafe_split | addbmm gcd i0 igamma igammac index_reduce lcm mvlgamma nextafter renorm""".split("|"))

# What is about sparse layouts.
SPARSE = """_indices _nnz _values ccol_indices coalesce col_indices crow_indices dense_dim indices is_coalesced row_indices sparse_dim
    sparse_mask to_dense to_sparse to_sparse_coo to_sparse_csc to_sparse_csr values""".split()


def float_power_(self: Tensor, exponent: Any) -> Tensor:
    """In-place `float_power`. RuntimeError unless the tensor is float64 or complex128, which the result is."""
    result = functions.float_power(self, exponent)
    if result._data.type.dtype is not self._data.type.dtype:
        raise RuntimeError(f"the base given to float_power_ has dtype {self._data.type.dtype.name} but the operation's result requires "
                           f"dtype {result._data.type.dtype.name}")
    return assign(self, fresh(result, self), "float_power_")


def apply_(self: Tensor, function: Callable[[Any], Any]) -> Tensor:
    """Each element replaced by what a Python function makes of it, one by one: slow. RuntimeError for one that needs a gradient."""
    return map_(self, self, lambda x, y: function(x))


def map_(self: Tensor, other: Tensor, function: Callable[[Any, Any], Any]) -> Tensor:
    """Each element replaced by what a Python function makes of it and of the other tensor's, broadcast."""
    if self.requires_grad or other.requires_grad:
        raise RuntimeError("Can't call apply_() or map_() on a Tensor that requires grad. Use var.detach().apply_()")
    import treadle
    second = other.expand(self.shape).reshape(-1).tolist()
    found = [function(x, y) for x, y in zip(self.reshape(-1).tolist(), second, strict=True)]
    return assign(self, treadle.tensor(found, dtype=self.dtype, device=self.device).reshape(self.shape), "map_")


def install() -> None:
    """Give Tensor these methods, where it has none of the name."""
    for name in (*LATER, *LATER_IN_PLACE):
        if not hasattr(Tensor, name):
            setattr(Tensor, name, _later(name))
    for name in SPARSE:
        setattr(Tensor, name, _sparse(name))
    for name in LATER_IN_PLACE:
        setattr(Tensor, f"{name}_", in_place(name, getattr(Tensor, name)))
    for method in (polygamma, in_place("polygamma", polygamma), float_power_, apply_, map_):
        setattr(Tensor, method.__name__, method)
