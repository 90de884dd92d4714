"""Log channels, the dump directory and the counters."""
from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from treadle.runtime import log


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    before = ",".join(name for name in log.CHANNELS if log.enabled(name))
    log.set_channels("")
    yield
    log.set_channels(before)


def test_only_channels_that_are_on_write(capsys: pytest.CaptureFixture[str]) -> None:
    log.set_channels(" flush , memory,")
    log.log("flush", "item() at train.py:12")
    log.log("passes", "not shown")
    assert capsys.readouterr() == ("", "[treadle:flush] item() at train.py:12\n")
    assert log.enabled("memory") and not log.enabled("passes")


def test_every_line_has_the_prefix(capsys: pytest.CaptureFixture[str]) -> None:
    log.set_channels("all")
    log.log("kernels", "one\ntwo\n")
    log.log("compile", "")
    assert capsys.readouterr().err == "[treadle:kernels] one\n[treadle:kernels] two\n[treadle:compile] \n"


def test_unknown_channels_are_named() -> None:
    valid = "flush, compile, recompile, passes, kernels, memory and all"
    with pytest.warns(UserWarning, match=f"TREADLE_LOG: no channel named 'flash', 'x'; there are {valid}"):
        log.set_channels("flash,x,memory")
    assert log.enabled("memory") and not log.enabled("flash")


def test_the_environment_sets_the_channels() -> None:
    code = "from treadle.runtime.log import enabled; print(enabled('passes'), enabled('flush'))"
    environment = {**os.environ, "TREADLE_LOG": "passes"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "True False\n"


def test_the_dump_directory_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TREADLE_DUMP", raising=False)
    assert log.dump_dir() is None
    monkeypatch.setenv("TREADLE_DUMP", str(tmp_path / "a" / "b"))
    assert log.dump_dir() == tmp_path / "a" / "b" and (tmp_path / "a" / "b").is_dir()


def test_a_dump_directory_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TREADLE_DUMP", str(tmp_path / "file" / "sub"))
    with pytest.raises(RuntimeError, match=r"TREADLE_DUMP=.*sub: cannot make this directory: "):
        log.dump_dir()
