"""`autograd.Function` and what goes with it, at its place in PyTorch."""
from treadle.custom_function import Context as FunctionCtx
from treadle.custom_function import Function, once_differentiable

InplaceFunction = Function  # PyTorch's older name

__all__ = ["Function", "FunctionCtx", "InplaceFunction", "once_differentiable"]
