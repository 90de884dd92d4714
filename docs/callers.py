"""Which public functions record which op: read from the source of the frontend."""
from __future__ import annotations

import ast
import functools
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import treadle
from treadle.functions import TABLE_NAMES
from treadle.ir.op import TABLE

# Where users find functions: the shortest name is shown.
NAMESPACES = ("treadle", "treadle.nn.functional", "treadle.linalg", "treadle.special", "treadle.func", "treadle.Tensor")
MOST = 6


def _namespaces() -> Iterator[tuple[str, Any]]:
    for name in NAMESPACES:
        if name == "treadle.Tensor":
            yield name, treadle.Tensor
        else:
            yield name, importlib.import_module(name)


def _op_names(node: ast.AST, aliases: dict[str, str]) -> set[str]:
    """Ops and functions of the same module that a piece of source names: `TABLE["x"]`, `EMITTER.x`, `_helper("x", ...)`."""
    found = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Subscript) and isinstance(part.slice, ast.Constant) and ast.unparse(part.value).endswith("TABLE"):
            found.add(part.slice.value)
        elif isinstance(part, ast.Call) and part.args and isinstance(part.args[0], ast.Constant):
            if ast.unparse(part.func).split(".")[-1].startswith(("_", "get", "reduced")):
                found.add(part.args[0].value)
        elif isinstance(part, ast.Attribute) and ast.unparse(part.value) in ("EMITTER", "b", "ops"):
            found.add(part.attr)
        elif isinstance(part, ast.Name):
            found.add(aliases.get(part.id, f"function {part.id}"))
    return {str(name) for name in found}


def _closed(named: dict[str, set[str]]) -> dict[str, set[str]]:
    """The ops of each function, those of the private functions it names included."""
    for _ in range(3):
        for names in named.values():
            for name in [n.removeprefix("function ") for n in names if n.startswith("function _")]:
                names |= named.get(name, set())
    return {name: {n for n in names if n in TABLE} for name, names in named.items()}


def _constants(module: ModuleType) -> dict[str, str]:
    """Names of a module that stand for an op."""
    from treadle.ir.op import Op
    return {name: value.name for name, value in vars(module).items() if isinstance(value, Op)}


@functools.cache
def _by_function() -> dict[tuple[str, str], set[str]]:
    """(file, function) -> the ops that its source names."""
    found: dict[tuple[str, str], set[str]] = {}
    for package in (treadle, treadle.nn):
        for info in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            if info.ispkg or info.name.endswith("__main__"):
                continue
            module = importlib.import_module(info.name)
            path = module.__file__
            assert path is not None
            constants = _constants(module)
            functions = {node.name: _op_names(node, constants) for node in ast.parse(Path(path).read_text()).body
                         if isinstance(node, ast.FunctionDef)}
            found |= {(path, name): ops for name, ops in _closed(functions).items()}
    return found


@functools.cache
def callers() -> dict[str, list[str]]:
    """op name -> public functions that record it, those of the same name first, the shortest path of each."""
    named = _by_function()
    found: dict[str, dict[int, str]] = {}
    for space, holder in _namespaces():
        for name in sorted(vars(holder)) if not isinstance(holder, type) else sorted(dir(holder)):
            function = getattr(holder, name, None)
            if name.startswith("_") or not callable(function) or isinstance(function, type):
                continue
            try:
                path = inspect.getsourcefile(inspect.unwrap(function)) or ""
            except TypeError:
                continue
            ops = set(named.get((path, getattr(function, "__name__", "")), ()))
            ops |= {op for op in TABLE if TABLE_NAMES.get(op, op) == name}
            for op in ops:
                found.setdefault(op, {}).setdefault(id(function), f"{space}.{name}")
    return {op: sorted(names.values(), key=lambda n: (n.rpartition(".")[2] != op, n.count("."), n))[:MOST] for op, names in found.items()}
