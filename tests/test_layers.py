"""The house rules: imports go downward, every package is listed, functions and files stay small, one version."""
from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = ["ir", "passes", "codegen", "runtime", "frontend"]  # a layer imports itself and those before it
MAX_FILE_LINES = 600
MAX_FUNCTION_LINES = 60

SOURCES = sorted(path.relative_to(ROOT) for layer in LAYERS for path in (ROOT / layer).rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def module_name(path: Path) -> str:
    """`ir/ops/view.py` -> treadle.ir.ops.view; `frontend/nn/module.py` -> treadle.nn.module."""
    parts = path.with_suffix("").parts
    inner = parts[1:] if parts[0] == "frontend" else parts
    return ".".join(["treadle", *[p for p in inner if p != "__init__"]])


def layer_of(module: str) -> str:
    """The layer of a module under treadle; what is not below one of the other layers is the frontend."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in LAYERS[:-1] else "frontend"


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, module) of every import of ours, wherever it stands; relative ones come out as `.name`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            names = [f"{base}.{alias.name}" for alias in node.names] if base == "treadle" else [base]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        yield from ((node.lineno, name) for name in names if name.split(".")[0] in ("treadle", ""))


def parsed(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text(), str(path))


def test_layer_of_knows_the_package_map() -> None:
    assert layer_of("treadle.ir.graph") == "ir" and layer_of("treadle.codegen") == "codegen"
    assert layer_of("treadle") == layer_of("treadle.nn.functional") == "frontend"
    assert module_name(Path("frontend/nn/__init__.py")) == "treadle.nn" and module_name(Path("ir/ops/view.py")) == "treadle.ir.ops.view"
    found = imports(ast.parse("from treadle import ir\nimport treadle.nn\nfrom . import x\nimport numpy"))
    assert [name for _, name in found] == ["treadle.ir", "treadle.nn", "."]


def test_imports_are_absolute_and_go_downward() -> None:
    wrong = []
    for path in SOURCES:
        rank = LAYERS.index(path.parts[0])
        for line, name in imports(parsed(path)):
            if name.startswith("."):
                wrong.append(f"{path}:{line}: relative import; write treadle.<module>")
            elif LAYERS.index(layer_of(name)) > rank:
                wrong.append(f"{path}:{line}: layer {path.parts[0]} imports {name}, a layer above it")
    assert not wrong, "\n".join(wrong)


def test_functions_and_files_are_small() -> None:
    large = []
    for path in SOURCES:
        lines = len((ROOT / path).read_text().splitlines())
        if lines > MAX_FILE_LINES:
            large.append(f"{path}: {lines} lines, at most {MAX_FILE_LINES}")
        for node in ast.walk(parsed(path)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > MAX_FUNCTION_LINES:
                    large.append(f"{path}:{node.lineno}: {node.name} has {length} lines, at most {MAX_FUNCTION_LINES}")
    assert not large, "\n".join(large)


def test_every_package_is_listed() -> None:
    on_disk = {module_name(path.parent) for path in SOURCES}
    assert on_disk == set(PROJECT["tool"]["setuptools"]["packages"])


@pytest.mark.parametrize("layer", LAYERS)
def test_every_folder_with_code_is_a_package(layer: str) -> None:
    folders = {path.parent for path in SOURCES if path.parts[0] == layer}
    assert [str(f) for f in sorted(folders) if not (ROOT / f / "__init__.py").exists()] == []


def test_the_version_stands_in_one_place() -> None:
    found = []
    for path in SOURCES:
        for node in ast.walk(parsed(path)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
            found += [str(path) for target in targets if isinstance(target, ast.Name) and target.id == "__version__"]
    assert found == ["frontend/version.py"]
    assert "version" in PROJECT["project"]["dynamic"]
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "treadle.version.__version__"}


def test_torch_is_imported_by_oracle_tests_only() -> None:
    wrong = []
    for path in [*SOURCES, *sorted(p.relative_to(ROOT) for folder in ("tests", "examples") for p in (ROOT / folder).rglob("*.py"))]:
        text = (ROOT / path).read_text()
        if not re.search(r"^\s*(import|from)\s.*\btorch\b", text, re.MULTILINE):
            continue
        for node in ast.walk(ast.parse(text, str(path))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            if any(name.split(".")[0] == "torch" for name in names) and not (path.parts[0] == "tests" and "pytest.mark.oracle" in text):
                wrong.append(f"{path}:{node.lineno}")
    assert not wrong, "\n".join(wrong)
