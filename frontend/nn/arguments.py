"""Small helpers of Module: type names and indentation for text, and the overloads of `to`."""
from __future__ import annotations

from typing import Any

import treadle
from treadle.tensor import Tensor


def type_name(value: Any) -> str:
    """The type's name for messages, with its module unless that is builtins."""
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def add_indent(text: str) -> str:
    first, *rest = text.split("\n")
    return "\n".join([first, *("  " + line if line.strip() else "" for line in rest)])


def parse_to(*args: Any, device: Any = None, dtype: Any = None, non_blocking: bool = False, copy: bool = False,
              memory_format: Any = None) -> tuple[Any, Any, bool]:
    """(device, dtype, non_blocking) from the overloads of `to`."""
    values = list(args)
    if values and isinstance(values[0], Tensor):
        other = values.pop(0)
        device, dtype = other.device, other.dtype
    elif values and isinstance(values[0], treadle.dtype):
        dtype = values.pop(0)
    elif values and (values[0] is None or isinstance(values[0], (str, int, treadle.device))) and not isinstance(values[0], bool):
        device = values.pop(0)
        if values and (values[0] is None or isinstance(values[0], treadle.dtype)):
            dtype = values.pop(0)
    if values and isinstance(values[0], bool):
        non_blocking = values.pop(0)
        values = values[1:] if values and isinstance(values[0], bool) else values
    if values:
        raise TypeError(f"to() received an invalid combination of arguments - got {', '.join(type_name(a) for a in args)}")
    return None if device is None else treadle.device(device), dtype, non_blocking
