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
    """Ops named in a piece of source: `TABLE["x"]`, `get("x")`, `EMITTER.x`, or a module's constant for one."""
    found = set()
    for part in ast.walk(node):
        name = None
        if isinstance(part, ast.Subscript) and isinstance(part.slice, ast.Constant):
            name = part.slice.value if ast.unparse(part.value).endswith("TABLE") else None
        elif isinstance(part, ast.Call) and part.args and isinstance(part.args[0], ast.Constant):
            name = part.args[0].value if ast.unparse(part.func).endswith(("op_table.get", "_op")) else None
        elif isinstance(part, ast.Attribute) and ast.unparse(part.value) in ("EMITTER", "b"):
            name = part.attr
        elif isinstance(part, ast.Name):
            name = aliases.get(part.id)
        if isinstance(name, str) and name in TABLE:
            found.add(name)
    return found


def _constants(module: ModuleType) -> dict[str, str]:
    """Names of a module that stand for an op."""
    from treadle.ir.op import Op
    return {name: value.name for name, value in vars(module).items() if isinstance(value, Op)}


@functools.cache
def _by_function() -> dict[tuple[str, str], set[str]]:
    """(file, function) -> the ops that its source names."""
    found: dict[tuple[str, str], set[str]] = {}
    for info in pkgutil.iter_modules(treadle.__path__, "treadle."):
        if info.ispkg and info.name.split(".")[1] in ("ir", "passes", "codegen", "runtime"):
            continue
        modules = [info.name]
        if info.ispkg and info.name == "treadle.nn":
            modules += [m.name for m in pkgutil.iter_modules(treadle.nn.__path__, "treadle.nn.") if not m.ispkg]
        for name in modules:
            if name.endswith("__main__"):
                continue
            module = importlib.import_module(name)
            path = module.__file__
            assert path is not None
            constants = _constants(module)
            for node in ast.parse(Path(path).read_text()).body:
                if isinstance(node, ast.FunctionDef):
                    found[path, node.name] = _op_names(node, constants)
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
            if name in TABLE:
                ops.add(name)
            for op in ops:
                found.setdefault(op, {}).setdefault(id(function), f"{space}.{name}")
    return {op: sorted(names.values(), key=lambda n: (n.rpartition(".")[2] != op, n.count("."), n))[:MOST] for op, names in found.items()}
