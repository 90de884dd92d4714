"""`treadle.jit`: PyTorch's decorators for TorchScript, on `treadle.compile`.

There is no script language here: Python stays Python. `script` and `trace` of a function give the compiled function; of a module, they
compile its calls in place and give the module. Files of scripted modules are neither written nor read.
"""
from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

import treadle
from treadle.compilation.api import CompiledFunction as ScriptFunction
from treadle.nn.module import Module
from treadle.tensor import Tensor

__all__ = [
    "Attribute", "Final", "ScriptFunction", "ScriptModule", "annotate", "export", "fork", "freeze", "fuser", "ignore",
    "is_scripting", "is_tracing", "isinstance", "load", "optimize_for_inference", "optimized_execution", "save", "script",
    "script_if_tracing", "script_method", "set_fusion_strategy", "trace", "trace_module", "unused", "wait",
]

T = TypeVar("T")
_isinstance = isinstance


class ScriptModule(Module):
    """A base class that old programs use; an ordinary Module here."""


def script(obj: Any, optimize: Any = None, _frames_up: int = 0, _rcb: Any = None, example_inputs: Any = None) -> Any:
    """A function compiled by `treadle.compile`; a module whose calls are compiled from now on; a class as it is."""
    if _isinstance(obj, Module):
        if obj._compiled_call_impl is None:
            obj.compile()
        return obj
    return obj if _isinstance(obj, type) else treadle.compile(obj)


def trace(func: Any, example_inputs: Any = None, optimize: Any = None, check_trace: bool = True, check_inputs: Any = None,
          check_tolerance: float = 1e-5, strict: bool = True, _force_outplace: bool = False, _module_class: Any = None,
          _compilation_unit: Any = None, example_kwarg_inputs: dict[str, Any] | None = None, _store_inputs: bool = True) -> Any:
    """`script(func)`, called once with the example. Unlike in PyTorch, branches stay: every call follows its own."""
    compiled = script(func)
    if example_kwarg_inputs is not None:
        compiled(**example_kwarg_inputs)
    elif example_inputs is not None:
        compiled(*((example_inputs,) if _isinstance(example_inputs, Tensor) else example_inputs))
    return compiled


def trace_module(mod: Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Module:
    """`trace` of the methods named in `inputs`; only "forward" is compiled."""
    for name, example in inputs.items():
        method = mod if name == "forward" else getattr(mod, name)
        method(*((example,) if _isinstance(example, Tensor) else example))
    return script(mod)


def ignore(drop: Any = False, **kwargs: Any) -> Any:
    """A decorator that leaves the function as it is, with or without arguments."""
    return drop if callable(drop) else lambda function: function


def unused(fn: T) -> T:
    """The function as it is."""
    return fn


def export(fn: T) -> T:
    """The function as it is."""
    return fn


def script_method(fn: T) -> T:
    """The function as it is."""
    return fn


def script_if_tracing(fn: T) -> T:
    """The function as it is."""
    return fn


_script_if_tracing = _overload = _overload_method = script_if_tracing  # names that libraries use all the same


def is_scripting() -> bool:
    """Always False: functions run as Python."""
    return False


is_tracing = is_scripting


def annotate(the_type: Any, the_value: T) -> T:
    """The value as it is; the type is for readers."""
    return the_value


def Attribute(value: T, type: Any = None) -> T:
    return value


def isinstance(obj: Any, target_type: Any) -> bool:
    """The built-in, also for generic types, whose arguments are not looked at."""
    import typing
    kinds = target_type if _isinstance(target_type, tuple) else (target_type,)
    return any(_isinstance(obj, typing.get_origin(kind) or kind) for kind in kinds)


def fork(func: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """`func(*args, **kwargs)`, now."""
    return func(*args, **kwargs)


def wait(future: T) -> T:
    """The result of a `fork`."""
    return future


def freeze(mod: Module, preserved_attrs: Any = None, optimize_numerics: bool = True) -> Module:
    """The module. RuntimeError in training mode, as in PyTorch."""
    if mod.training:
        raise RuntimeError("Freezing is currently only implemented for modules in eval mode. "
                           "Please call .eval() on your module before freezing.")
    return mod


def optimize_for_inference(mod: Module, other_methods: Any = None) -> Module:
    """The module as it is, frozen."""
    return freeze(mod)


@contextlib.contextmanager
def optimized_execution(should_optimize: bool) -> Iterator[None]:
    """A context manager that changes nothing."""
    yield


@contextlib.contextmanager
def fuser(name: str) -> Iterator[None]:
    """A context manager that changes nothing."""
    yield


def set_fusion_strategy(strategy: Any) -> None:
    """Accepted: Treadle fuses by its own cost model."""


def save(m: Any, f: Any, _extra_files: Any = None) -> None:
    """NotImplementedError: there are no files of scripted modules."""
    raise NotImplementedError("jit.save: Treadle writes no TorchScript. Save the weights with treadle.save(module.state_dict(), path) "
                              "and build the module from its class.")


def load(f: Any, map_location: Any = None, _extra_files: Any = None, _restore_shapes: bool = False) -> Any:
    """NotImplementedError: TorchScript files hold programs that Treadle does not run."""
    raise NotImplementedError("jit.load: Treadle reads no TorchScript. Save the weights in PyTorch with torch.save(module.state_dict(), "
                              "path), which treadle.load reads.")
