"""Layers whose input size is found at the first call."""
from __future__ import annotations

import inspect
from typing import Any

import treadle
from treadle.nn import batch_normalization, convolution
from treadle.nn.linear import Linear
from treadle.nn.module import Module
from treadle.nn.parameter import Parameter
from treadle.tensor import Tensor

_TEXT = ("Attempted to use an uninitialized parameter in {}. This error happens when you are using a `LazyModule` or explicitly "
         "manipulating uninitialized parameters. Call `forward` with an example first.")


class UninitializedParameter(Parameter):
    """A parameter that has no shape yet; `materialize(shape)` gives it one and makes it an ordinary Parameter."""

    def __new__(cls, requires_grad: bool = True, device: Any = None, dtype: Any = None) -> UninitializedParameter:
        return Tensor._make_subclass(cls, treadle.empty(0, device=device, dtype=dtype), requires_grad)

    def materialize(self, shape: Any, device: Any = None, dtype: Any = None) -> None:
        """Uninitialized memory of `shape`; the parameter stays the same object."""
        self.data = treadle.empty(tuple(shape), device=device or self.device, dtype=dtype or self.dtype)
        self.__class__ = Parameter  # type: ignore[assignment]

    @property
    def shape(self) -> Any:
        raise RuntimeError(_TEXT.format("shape"))

    def __repr__(self) -> str:
        return "<UninitializedParameter>"

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if id(self) not in memo:
            memo[id(self)] = UninitializedParameter(self.requires_grad, self.device, self.dtype)
        return memo[id(self)]


def is_lazy(value: Any) -> bool:
    return isinstance(value, UninitializedParameter)


class LazyModuleMixin(Module):
    """`initialize_parameters(*inputs)` runs before the first forward; then the module becomes a `cls_to_become`.

    A state dict with shapes materializes the parameters, too.
    """

    cls_to_become: type | None = None

    def has_uninitialized_params(self) -> bool:
        return any(is_lazy(p) for p in self._parameters.values())

    def initialize_parameters(self, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError(f"initialize_parameters is not implemented for {type(self).__name__}")

    def _call_impl(self, *args: Any, **kwargs: Any) -> Any:
        self.initialize_parameters(*args, **kwargs)
        if self.has_uninitialized_params():
            raise RuntimeError(f"module {self._get_name()} has not been fully initialized")
        if self.cls_to_become is not None:
            self.__class__ = self.cls_to_become
        return Module._call_impl(self, *args, **kwargs)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        for name, value in {**self._parameters, **self._buffers}.items():
            if value is not None and name not in self._non_persistent_buffers_set:
                destination[prefix + name] = value if is_lazy(value) or keep_vars else value.detach()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name, value in self._parameters.items():
            given = state_dict.get(prefix + name)
            if isinstance(value, UninitializedParameter) and given is not None:
                if is_lazy(given):
                    del state_dict[prefix + name]
                else:
                    with treadle.no_grad():
                        value.materialize(given.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)


class LazyLinear(LazyModuleMixin, Linear):
    """Linear whose `in_features` is the last size of its first input."""

    cls_to_become = Linear

    def __init__(self, out_features: int, bias: bool = True, device: Any = None, dtype: Any = None) -> None:
        Linear.__init__(self, 0, 0, False, device, dtype)
        self.out_features = out_features
        self.weight = UninitializedParameter(device=device, dtype=dtype)
        if bias:
            self.bias = UninitializedParameter(device=device, dtype=dtype)

    def reset_parameters(self) -> None:
        if not self.has_uninitialized_params() and self.in_features:
            super().reset_parameters()

    def initialize_parameters(self, input: Tensor) -> None:
        if not self.has_uninitialized_params():
            return
        with treadle.no_grad():
            self.in_features = input.size(-1)
            for value, shape in ((self.weight, (self.out_features, self.in_features)), (self.bias, (self.out_features,))):
                if isinstance(value, UninitializedParameter):
                    value.materialize(shape)
            self.reset_parameters()


class _LazyConv(LazyModuleMixin, convolution._ConvNd):
    """A convolution whose `in_channels` is the channel count of its first input."""

    def __init__(self, out_channels: int, kernel_size: Any, *args: Any, bias: bool = True, device: Any = None, dtype: Any = None,
                 **kwargs: Any) -> None:
        assert self.cls_to_become is not None
        settings = {"bias": bias, "device": device, "dtype": dtype, **kwargs}
        given = inspect.signature(self.cls_to_become).bind(1, out_channels, kernel_size, *args, **settings).arguments
        # Built with the fewest channels that `groups` allows; the real shapes follow.
        given["in_channels"] = given.get("groups", 1)
        super().__init__(**given)
        self.in_channels = 0
        self.weight = UninitializedParameter(device=device, dtype=dtype)
        if bias:
            self.bias = UninitializedParameter(device=device, dtype=dtype)

    def reset_parameters(self) -> None:
        if not self.has_uninitialized_params():
            super().reset_parameters()

    def initialize_parameters(self, input: Tensor, *args: Any, **kwargs: Any) -> None:
        if not self.has_uninitialized_params():
            return
        if input.dim() not in (self.n + 1, self.n + 2):
            raise RuntimeError(f"Expected {self.n + 1}D (unbatched) or {self.n + 2}D (batched) input to {self._get_name()}, "
                               f"but got input of size: {list(input.shape)}")
        self.in_channels = input.size(-self.n - 1)
        if self.in_channels % self.groups:
            raise ValueError("in_channels must be divisible by groups")
        out, inside = self.out_channels, self.in_channels
        outer = (inside, out // self.groups) if self.transposed else (out, inside // self.groups)
        with treadle.no_grad():
            for value, shape in ((self.weight, (*outer, *self.kernel_size)), (self.bias, (out,))):
                if isinstance(value, UninitializedParameter):
                    value.materialize(shape)
            self.reset_parameters()


class LazyConv1d(_LazyConv, convolution.Conv1d):
    """`Conv1d` whose `in_channels` is the number of channels of its first input."""

    cls_to_become = convolution.Conv1d


class LazyConv2d(_LazyConv, convolution.Conv2d):
    """`Conv2d` whose `in_channels` is the number of channels of its first input."""

    cls_to_become = convolution.Conv2d


class LazyConv3d(_LazyConv, convolution.Conv3d):
    """`Conv3d` whose `in_channels` is the number of channels of its first input."""

    cls_to_become = convolution.Conv3d


class LazyConvTranspose1d(_LazyConv, convolution.ConvTranspose1d):
    """`ConvTranspose1d` whose `in_channels` is the number of channels of its first input."""

    cls_to_become = convolution.ConvTranspose1d


class LazyConvTranspose2d(_LazyConv, convolution.ConvTranspose2d):
    """`ConvTranspose2d` whose `in_channels` is the number of channels of its first input."""

    cls_to_become = convolution.ConvTranspose2d


class LazyConvTranspose3d(_LazyConv, convolution.ConvTranspose3d):
    """`ConvTranspose3d` whose `in_channels` is the number of channels of its first input."""

    cls_to_become = convolution.ConvTranspose3d


class _LazyNorm(LazyModuleMixin, batch_normalization._NormBase):
    """A norm whose `num_features` is the channel count of its first input. Takes the other arguments of the norm."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(0, *args, **kwargs)
        place: dict[str, Any] = {key: kwargs.get(key) for key in ("device", "dtype")}
        for name in ("weight", "bias"):
            if self._parameters[name] is not None:
                setattr(self, name, UninitializedParameter(**place))

    def has_uninitialized_params(self) -> bool:
        return self.num_features == 0

    def reset_parameters(self) -> None:
        if self.num_features:
            super().reset_parameters()

    def _take(self, channels: int) -> None:
        self.num_features = channels
        with treadle.no_grad():
            for value in (self.weight, self.bias):
                if isinstance(value, UninitializedParameter):
                    value.materialize((channels,))
            if self.track_running_stats:
                for name in ("running_mean", "running_var"):  # filled by reset_parameters
                    setattr(self, name, getattr(self, name).new_empty(channels))
            self.reset_parameters()

    def initialize_parameters(self, input: Tensor) -> None:
        if self.num_features == 0:
            rank = getattr(type(self), "_rank", None)
            self._take(input.size(1 if rank is None else input.dim() - rank - 1))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        given = next((state_dict[prefix + n] for n in ("weight", "running_mean") if prefix + n in state_dict), None)
        if self.num_features == 0 and given is not None and not is_lazy(given) and given.numel():
            self._take(given.size(0))
        super()._load_from_state_dict(state_dict, prefix, *args)


class LazyBatchNorm1d(_LazyNorm, batch_normalization.BatchNorm1d):
    """`BatchNorm1d` whose `num_features` is the number of channels of its first input."""

    cls_to_become = batch_normalization.BatchNorm1d


class LazyBatchNorm2d(_LazyNorm, batch_normalization.BatchNorm2d):
    """`BatchNorm2d` whose `num_features` is the number of channels of its first input."""

    cls_to_become = batch_normalization.BatchNorm2d


class LazyBatchNorm3d(_LazyNorm, batch_normalization.BatchNorm3d):
    """`BatchNorm3d` whose `num_features` is the number of channels of its first input."""

    cls_to_become = batch_normalization.BatchNorm3d


class LazyInstanceNorm1d(_LazyNorm, batch_normalization.InstanceNorm1d):
    """`InstanceNorm1d` whose `num_features` is the number of channels of its first input."""

    cls_to_become = batch_normalization.InstanceNorm1d


class LazyInstanceNorm2d(_LazyNorm, batch_normalization.InstanceNorm2d):
    """`InstanceNorm2d` whose `num_features` is the number of channels of its first input."""

    cls_to_become = batch_normalization.InstanceNorm2d


class LazyInstanceNorm3d(_LazyNorm, batch_normalization.InstanceNorm3d):
    """`InstanceNorm3d` whose `num_features` is the number of channels of its first input."""

    cls_to_become = batch_normalization.InstanceNorm3d
