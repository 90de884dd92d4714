"""The README's programs print what it says, and what it names exists."""
from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from treadle.runtime import log

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```\n\n```text( times)?\n(.*?)```", README, re.S)
CONSOLE = re.search(r"Saved as `(\w+\.py)`.*?```console\n(.*?)```", README, re.S)
SWITCH = re.compile(r"TREADLE_[A-Z_]+")


def test_every_program_has_its_output() -> None:
    assert len(BLOCKS) == README.count("```python") >= 2


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_programs_print_what_the_readme_shows(number: int, tmp_path: Path) -> None:
    program, times, shown = BLOCKS[number]
    environment = {name: value for name, value in os.environ.items() if name == "TREADLE_CACHE_DIR" or not SWITCH.fullmatch(name)}
    (tmp_path / "tour.py").write_text(program)
    done = subprocess.run([sys.executable, "tour.py"], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    printed = done.stdout.replace(f"{tmp_path}{os.sep}", "")
    assert (without_times(printed) == without_times(shown)) if times else printed == shown


def without_times(table: str) -> str:
    """The text with figures, and the widths that depend on them, taken out."""
    return re.sub(r"[\s-]+", " ", re.sub(r"(\d+\.\d+|(?<!-)--(?!-))(us|ms|s|%)?", "N", table))


def test_commands_print_what_the_readme_shows(tmp_path: Path) -> None:
    assert CONSOLE is not None
    name, session = CONSOLE.groups()
    program = [program for program, times, _ in BLOCKS if times]
    (tmp_path / name).write_text(program[0])
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = {n: value for n, value in os.environ.items() if n == "TREADLE_CACHE_DIR" or not SWITCH.fullmatch(n)} | {"PATH": path}
    commands = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", session, re.M)
    assert len(commands) == session.count("$ ") >= 4
    for command, shown in commands:
        done = subprocess.run(f"({command}) 2>&1", shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True)
        wanted = re.escape(shown).replace(re.escape("...\n"), "(?:.*\n)+?")
        assert re.fullmatch(wanted, done.stdout), f"{command}\n{done.stdout}"


def test_the_commands_are_there() -> None:
    commands = re.findall(r"^    (pip install .*)$", README, re.M)
    assert commands == ["pip install -e '.[examples]' && python examples/digits.py", "pip install -e '.[test]' && pytest"]
    assert (ROOT / "examples/digits.py").is_file()
    extras = (ROOT / "pyproject.toml").read_text()
    assert re.search(r"^examples = ", extras, re.M) and re.search(r"^test = ", extras, re.M)


def test_every_switch_is_one_that_the_code_reads() -> None:
    layers = ("frontend", "runtime", "codegen", "passes", "ir")
    read = {name for layer in layers for path in (ROOT / layer).rglob("*.py")
            for name in re.findall(r'os\.environ\.get\("(TREADLE_[A-Z_]+)"', path.read_text())}
    assert set(SWITCH.findall(README)) == read


def test_the_log_channels_are_these() -> None:
    (names,) = re.findall(r"TREADLE_LOG=([a-z]+,[a-z,]+)", README)
    assert names.split(",") == list(log.CHANNELS)


def test_places_named_exist() -> None:
    for place in re.findall(r"\b(?:ir|passes|codegen|runtime|frontend|tests|examples)/[\w/]*(?:\.py)?", README):
        assert (ROOT / place).exists(), place
    for link in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (ROOT / link).exists(), link
