"""PyTorch's public names by family, with the arguments of those that tell: what the compatibility page compares with.

`python docs/torch_names.py`, where PyTorch is installed, writes docs/torch_names.json anew. Nothing else here imports PyTorch.
"""
from __future__ import annotations

import importlib
import inspect
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

FILE = Path(__file__).with_suffix(".json")
FAMILIES = (
    "", "Tensor", "nn", "nn.functional", "nn.init", "nn.utils", "nn.utils.parametrize", "nn.utils.rnn", "optim", "optim.lr_scheduler",
    "optim.swa_utils", "autograd", "func", "linalg", "fft", "special", "distributions", "signal.windows", "utils.data", "utils.checkpoint",
    "amp", "masked", "profiler", "compiler", "cuda", "distributed", "hub", "testing", "random", "sparse", "nested",
)# Kernels of PyTorch's own that it does not document.
INTERNAL = re.compile(
    r"_$|_copy$|_backward|_(elemt|reduce|stats|with_counts)$|^(cudnn|miopen|mkldnn|native|fbgemm|quantized|q_|sym_|sparse_csc|sparse_bs)"
    r"|fake_quant|autocast_(inc|dec)|(set|get|is)_autocast_(cpu|gpu|xla|ipu|cache)|^(parse|import_ir|merge_type|unify_type|init_num)"
    r"|^u?int[1-7]$|^bits?\d*|^[A-Z_]{2,}$|_rnn$|^(unsafe|batch_norm|affine_grid|batch_norm)_|(rnn_relu|rnn_tanh|gru|lstm)(_cell)?$")

Names = dict[str, list[str] | None]


def arguments(value: Any) -> list[str] | None:
    """Names of the parameters; None for a builtin, which does not tell."""
    try:
        found = list(inspect.signature(value).parameters.values())
    except (TypeError, ValueError):
        return None
    return [("*" if p.kind is p.VAR_POSITIONAL else "**" if p.kind is p.VAR_KEYWORD else "") + p.name for p in found if p.name != "self"]


def _is_public(holder: ModuleType, name: str, value: Any, listed: set[str]) -> bool:
    if name.startswith("_") or isinstance(value, ModuleType) or name.endswith(("Storage", "Type")):
        return False
    if holder.__name__ == "torch" and INTERNAL.search(name):
        return False
    module = str(getattr(value, "__module__", None))
    if holder.__name__ != "torch":
        here = module.startswith(holder.__name__) or (inspect.isbuiltin(value) and module != "torch._C")
        return name in listed and name != "Tensor" if listed else here and callable(value)
    if inspect.isbuiltin(value) and "VariableFunctions" in repr(value.__self__):
        return True
    if isinstance(value, type) or not callable(value):
        return name in ("Generator", "Size") or not hasattr(holder._C, name) or type(value).__name__ in ("dtype", "layout", "memory_format")
    return name in listed or module == "torch"


def _public(holder: Any) -> list[str]:
    """The names a family offers: the module's own list where it has one, else what it defines."""
    if isinstance(holder, type):
        return [n for n in dir(holder) if not n.startswith("_") and not hasattr(object, n)]
    listed = set(getattr(holder, "__all__", ()))
    return sorted([n for n in {*vars(holder), *listed} if _is_public(holder, n, getattr(holder, n, None), listed)])


def collect() -> dict[str, Names]:
    """family -> name -> arguments, of the installed PyTorch."""
    import torch
    found: dict[str, Names] = {"version": {torch.__version__.split("+")[0]: None}}
    for family in FAMILIES:
        holder = torch.Tensor if family == "Tensor" else importlib.import_module(f"torch.{family}".rstrip("."))
        names: Names = {}
        for name in _public(holder):
            value = getattr(holder, name, None)
            names[name] = arguments(value) if callable(value) else None
        found[family] = names
    return found


def load() -> dict[str, Names]:
    """The checked-in list."""
    found: dict[str, Names] = json.loads(FILE.read_text())
    return found


def save(names: dict[str, Names]) -> None:
    lines = []
    for family, found in names.items():
        rows = ",\n".join([f"  {json.dumps(name)}: {json.dumps(args)}" for name, args in sorted(found.items())])
        lines.append(f"{json.dumps(family)}: {{\n{rows}\n}}")
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    save(collect())
