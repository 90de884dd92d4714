"""`TREADLE_DUMP` and the log channels that show how a graph is compiled."""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import treadle
from treadle.ir.parse import parse
from treadle.passes.pipeline import PASSES
from treadle.runtime import log


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    treadle.ones(1).item()  # computes whatever other tests left pending
    before = ",".join(name for name in log.CHANNELS if log.enabled(name))
    log.set_channels("")
    yield
    log.set_channels(before)


def compile_work(n: int, add: float) -> None:
    """Work whose second run is compiled; the first also makes x."""
    x = treadle.ones(n, 3)
    for _ in range(3):
        total = (treadle.nn.functional.gelu(x + add).softmax(1) * 2).sum().item()  # within assert, pytest would keep every part
        assert total == pytest.approx(2 * n)


def test_each_compiled_graph_is_written_pass_by_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TREADLE_DUMP", str(tmp_path))
    compile_work(37, 0.25)
    compile_work(41, 0.25)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0000", "0001", "index.html"]
    first = tmp_path / "0000"
    stages = ["recorded", *[name for name, _ in PASSES]]
    assert sorted(p.name for p in first.glob("*.mlir")) == [f"{i:02d}-{name}.mlir" for i, name in enumerate(stages)]
    for path in first.glob("*.mlir"):
        assert parse(path.read_text()).outputs
    assert '"treadle.gelu"' in (first / "00-recorded.mlir").read_text()
    diff = (first / "01-decompose.diff").read_text()
    assert "\n-" in diff and "\n+" in diff and "treadle.gelu" in diff
    assert (first / "plan.txt").read_text().startswith("plan: ")
    assert (first / "kernels.txt").read_text().startswith("kernel @k0(")
    assert "define void @k0" in (first / "kernels.ll").read_text()


def test_channels_tell_of_passes_kernels_and_memory(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TREADLE_DUMP", raising=False)
    log.set_channels("passes,kernels,memory")
    compile_work(43, 0.25)
    lines = capsys.readouterr().err.splitlines()
    assert any(line.startswith("[treadle:passes] decompose: ") and line.endswith(" nodes") for line in lines)
    assert any(line.startswith("[treadle:kernels] plan: ") for line in lines)
    assert any(line.startswith("[treadle:kernels] kernel @k0(") for line in lines)
    assert any(line.startswith(f"[treadle:memory] inputs {43 * 3 * 4} bytes, outputs 4, ") for line in lines)


def test_a_new_plan_at_the_same_line_names_what_differs(capsys: pytest.CaptureFixture[str]) -> None:
    log.set_channels("recompile")
    for n in (45, 46, 46):
        treadle.ones(n).exp().sum().item()
    (line,) = capsys.readouterr().err.splitlines()
    here = Path(__file__).name
    assert line.startswith("[treadle:recompile] new plan at ") and here in line
    assert "tensor<46xf32>" in line.split(" instead of ")[0] and "tensor<45xf32>" in line.split(" instead of ")[1]


def test_a_new_number_is_no_new_plan(capsys: pytest.CaptureFixture[str]) -> None:
    log.set_channels("recompile")
    for number in (0.5, 0.25, 0.125):
        (treadle.ones(47) * number).sum().item()
    assert capsys.readouterr().err == ""
