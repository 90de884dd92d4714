"""The reference of the Python API: a page for each namespace, its functions and classes described by autodoc."""
from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch_names

import treadle

NAMESPACES = (
    "treadle", "treadle.nn", "treadle.nn.functional", "treadle.nn.init", "treadle.nn.utils", "treadle.nn.utils.parametrize",
    "treadle.nn.utils.rnn", "treadle.optim", "treadle.optim.lr_scheduler", "treadle.optim.swa_utils", "treadle.autograd", "treadle.func",
    "treadle.linalg", "treadle.special", "treadle.distributions", "treadle.signal.windows", "treadle.utils.data",
    "treadle.utils.checkpoint",
    "treadle.amp", "treadle.quantization", "treadle.profiler", "treadle.compiler", "treadle.cuda", "treadle.distributed", "treadle.masked",
    "treadle.sparse",
    "treadle.jit", "treadle.hub", "treadle.testing", "treadle.random", "treadle.array_api", "treadle.array_api.linalg",
    "treadle.array_api.fft", "treadle.ops",
)
# Sections of the top namespace: the modules its functions stand in.
SECTIONS = ("creation", "functions", "reductions", "shaping", "gathering", "linear_algebra", "convolution", "random", "legacy", "older",
            "aten")


def public(space: str) -> list[str]:
    """Names of the functions and classes that a namespace offers: its own list, or what it defines and PyTorch has there too."""
    module = importlib.import_module(space)
    listed = getattr(module, "__all__", None)
    names = set(listed or [n for n in vars(module) if not n.startswith("_")])
    if module is treadle:
        for late in ("older", "aten"):
            names |= {n for n in importlib.import_module(f"treadle.{late}").__all__ if not n.startswith("_")}
    theirs = torch_names.load().get(space.removeprefix("treadle").lstrip("."), {})
    found = []
    for name in sorted(names - {"Tensor"}):
        value = getattr(module, name, None)
        if not callable(value) or isinstance(value, ModuleType) or str(getattr(value, "__module__", "")).split(".")[0] != "treadle":
            continue
        if listed or module is treadle or name in theirs or f"{value.__module__}.".startswith(f"{space}."):
            found.append(name)
    return found


@functools.cache
def homes() -> dict[type, str]:
    """Where a class is described when several namespaces offer it: in the one nearest to the module that defines it."""
    found: dict[type, str] = {}
    for space in NAMESPACES:
        for name in public(space):
            value = getattr(importlib.import_module(space), name)
            if isinstance(value, type):
                best = found.get(value)
                path = f"{space}.{name}"
                if best is None or _nearness(value, path) > _nearness(value, best):
                    found[value] = path
    return found


def _nearness(value: type, path: str) -> tuple[bool, int]:
    space = path.rpartition(".")[0]
    return path.endswith("." + value.__name__), len(space) if f"{value.__module__}.".startswith(f"{space}.") else 0


def introduction(module: ModuleType) -> str:
    return inspect.cleandoc(module.__doc__ or "").split("\n\n")[0].replace("\n", " ")


def entry(path: str, value: Any) -> str:
    if isinstance(value, type) and homes()[value] != path:
        return f".. py:data:: {path}\n   :no-index:\n\n   The class :py:class:`{homes()[value]}`.\n"
    if isinstance(value, type):
        return f".. autoclass:: {path}\n   :members:\n"
    return f".. autofunction:: {path}\n"


def section_of(value: Any) -> str:
    """The module among SECTIONS in which a function of the top namespace stands."""
    try:
        path = inspect.getsourcefile(inspect.unwrap(value)) or ""
    except TypeError:
        return ""
    name = Path(path).stem
    if "/nn/" in path:
        return "nn"
    return {"tensor": "functions"}.get(name, name)


def _rst(text: str) -> str:
    return f"```{{eval-rst}}\n{text}```\n"


def _entries(space: str, module: Any, names: list[str]) -> str:
    return _rst("\n".join([entry(f"{space}.{name}", getattr(module, name)) for name in names]))


def top_page() -> str:
    """The namespace `treadle`, by subject."""
    names = public("treadle")
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(section_of(getattr(treadle, name)), []).append(name)
    parts = ["# treadle\n", introduction(treadle) + "\n"]
    for section in SECTIONS:
        found = groups.pop(section, [])
        if found:
            module = importlib.import_module(f"treadle.{section}")
            parts += [f"## {section.replace('_', ' ').capitalize()}\n", introduction(module) + "\n", _entries("treadle", treadle, found)]
    rest = sorted([name for group in groups.values() for name in group])
    parts += ["## More\n", _entries("treadle", treadle, rest)]
    return "\n".join(parts)


def tensor_page() -> str:
    """`treadle.Tensor`: methods by name."""
    names = sorted([n for n in dir(treadle.Tensor) if not n.startswith("_") and not hasattr(object, n)])
    parts = ["# treadle.Tensor\n", _rst(".. autoclass:: treadle.Tensor\n")]
    methods = [n for n in names if callable(getattr(treadle.Tensor, n))]
    in_place = [n for n in methods if n.endswith("_")]
    attributes = [n for n in names if n not in methods]
    pure = [n for n in methods if n not in in_place]
    for title, kind, group in (("Attributes", "attribute", attributes), ("Methods", "method", pure),
                               ("In-place methods", "method", in_place)):
        lines = [f".. auto{kind}:: treadle.Tensor.{n}\n" for n in group]
        parts += [f"## {title}\n", _rst("\n".join(lines))]
    return "\n".join(parts)


def pages() -> Iterator[tuple[str, str]]:
    """(file name, text) of every page."""
    yield "treadle", top_page()
    yield "treadle.Tensor", tensor_page()
    for space in NAMESPACES[1:]:
        module = importlib.import_module(space)
        names = public(space)
        yield space, "\n".join([f"# {space}\n", introduction(module) + "\n", _entries(space, module, names)])


def write(folder: Path) -> None:
    """Write the pages of the API reference into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    written = list(pages())
    for name, text in written:
        (folder / f"{name}.md").write_text(text)
    names = "\n".join([name for name, _ in written])
    head = "# Python API\n\nThe names are PyTorch's: `import treadle as torch`.\n"
    (folder / "index.md").write_text(f"{head}\n```{{toctree}}\n:maxdepth: 1\n\n{names}\n```\n")
