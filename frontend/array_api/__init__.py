"""The Python array API standard (2024.12, https://data-apis.org/array-api) on Treadle's tensors: what `x.__array_namespace__()` gives.

Differences from PyTorch's functions of the same names: axes are `axis` and `keepdims`, dtypes of 0-d tensors count in promotion, and
functions take exactly the standard's arguments. The dtypes uint16, uint32 and uint64 promote to floats
only and are left out, so sums of uint8 are int64.
"""
from __future__ import annotations

import math
from typing import Any

from treadle.array_api.creation import *
from treadle.array_api.elementwise import *
from treadle.array_api.information import *
from treadle.array_api.manipulation import *
from treadle.array_api.searching import *
from treadle.array_api.statistical import *
from treadle.ir.dtypes import bool_ as bool
from treadle.ir.dtypes import complex64 as complex64
from treadle.ir.dtypes import complex128 as complex128
from treadle.ir.dtypes import float32 as float32
from treadle.ir.dtypes import float64 as float64
from treadle.ir.dtypes import int8 as int8
from treadle.ir.dtypes import int16 as int16
from treadle.ir.dtypes import int32 as int32
from treadle.ir.dtypes import int64 as int64
from treadle.ir.dtypes import uint8 as uint8

e, inf, nan, pi = math.e, math.inf, math.nan, math.pi
newaxis = None
__array_api_version__ = "2024.12"


def __getattr__(name: str) -> Any:
    if name in ("fft", "linalg"):
        import importlib
        return importlib.import_module(f"treadle.array_api.{name}")
    raise AttributeError(f"module 'treadle.array_api' has no attribute {name!r}")
