"""The page that compares Treadle's names with PyTorch's, family by family. The part about meaning is written by hand: differences.md."""
from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Any

import torch_names

import treadle

HERE = Path(__file__).parent


def holder_of(family: str) -> Any:
    """What holds the family's names here; None when there is nothing of the kind."""
    if family == "Tensor":
        return treadle.Tensor
    try:
        return importlib.import_module(f"treadle.{family}".rstrip("."))
    except ModuleNotFoundError:
        return None


def has(holder: Any, name: str) -> bool:
    return holder is not None and hasattr(holder, name)


def lacking_arguments(value: Any, theirs: list[str] | None) -> list[str]:
    """Parameters of PyTorch's that `value` does not take."""
    if theirs is None or any(a.startswith("*") for a in theirs):
        return []
    try:
        ours = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):
        return []
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in ours):
        return []
    known = {p.name for p in ours}
    return [a for a in theirs if a not in known and not a.startswith("_")]


def comparison(family: str, names: torch_names.Names) -> tuple[list[str], list[str], dict[str, list[str]]]:
    """(names that are here, names that are not, name -> arguments it lacks)."""
    holder = holder_of(family)
    present = [n for n in names if has(holder, n)]
    lacking = {}
    for name in present:
        value = getattr(holder, name)
        missing = lacking_arguments(value, names[name]) if callable(value) else []
        if missing:
            lacking[name] = missing
    return present, [n for n in names if n not in present], lacking


def words(names: list[str]) -> str:
    return ", ".join([f"`{n}`" for n in names])


def page() -> str:
    """The page: hand-written differences, then a table of families, then what each lacks."""
    listed = torch_names.load()
    (version,) = listed.pop("version")
    rows, parts = [], []
    for family, names in listed.items():
        title = f"torch.{family}".rstrip(".")
        present, absent, lacking = comparison(family, names)
        anchor = title.lower().replace(".", "")
        rows.append(f"| [{title}](#{anchor}) | {len(present)} of {len(names)} | {len(lacking) or ''} |")
        parts.append(f"### {title}\n")
        if absent:
            parts.append(f"Not here: {words(absent)}.\n")
        if lacking:
            parts.append("Here without some arguments: " + "; ".join([f"`{n}` ({', '.join(a)})" for n, a in lacking.items()]) + ".\n")
        if not absent and not lacking:
            parts.append("All names and arguments are here.\n")
    table = "\n".join(["| family | names here | with fewer arguments |", "| --- | --- | --- |", *rows])
    by_hand = (HERE / "differences.md").read_text()
    head = (f"Compared with the public names of PyTorch {version}. What is not here fails with an AttributeError, or a TypeError for an\n"
            "argument; nothing is accepted and ignored unless its description says so.\n")
    return "\n".join([by_hand, "## Names\n", head, table, "", *parts])


def write(folder: Path) -> None:
    (folder / "compatibility.md").write_text(page())
