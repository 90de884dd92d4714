"""The page that shows how graphs compile: complete, self-contained, escaped; and, where there is a browser, alive."""
from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import zlib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import treadle
from treadle.ir.builder import Builder
from treadle.ir.dtypes import float32
from treadle.ir.interpreter import run
from treadle.ir.types import tensor_type
from treadle.passes.pipeline import PASSES
from treadle.runtime import html, report

HOSTILE = """</script><script>document.title = "owned"</script><img src=x onerror="document.title='owned'"> & \u2028 <!--"""

PROGRAM = f"""import sys
import treadle as torch
note = {HOSTILE!r}
x, w = torch.ones(16, 32), torch.ones(32, 8)
for i in range(3):
    y = torch.relu(x @ w + 1); hostile = "</script><b>"
    print(y.softmax(1).sum().item(), sys.argv[1:], __name__)
if len(sys.argv) > 2:
    raise SystemExit(int(sys.argv[2]))
"""


class Reader(HTMLParser):
    """What is in a page: tags, addresses, and the texts of scripts and styles by their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.scripts: list[tuple[dict[str, Any], str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "action", "data")]
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] == "script" and self.scripts[-1][1] == "":
            self.scripts[-1] = (self.scripts[-1][0], data)


def data_of(page: str) -> dict[str, Any]:
    reader = Reader(page)
    (text,) = [text for attrs, text in reader.scripts if attrs.get("id") == "data"]
    found: dict[str, Any] = json.loads(zlib.decompress(base64.b64decode(text)))
    return found


def command(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "treadle", *arguments], cwd=place, capture_output=True, text=True)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The page that the command writes about PROGRAM."""
    place = tmp_path_factory.mktemp("inspect")
    (place / "program.py").write_text(PROGRAM)
    done = command(place, "inspect", "program.py", "--lr", "3")
    return place / "program.html", done


def test_the_command_runs_the_program_and_writes_the_page(written: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    page, done = written
    assert done.returncode == 3, done.stderr
    assert done.stdout == "16.0 ['--lr', '3'] __main__\n" * 3
    assert done.stderr == "program.html: 2 of 2 graphs that program.py ran\n"
    graphs = data_of(page.read_text())["graphs"]
    assert len(graphs) == 2 and "program.py:6 to program.py:7" in graphs[1]["title"]
    for graph in graphs:
        assert [s["name"] for s in graph["stages"]] == ["recorded", *[name for name, _ in PASSES]]


def test_every_op_has_its_line_and_the_launch_it_went_into(written: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    graph = data_of(written[0].read_text())["graphs"][1]
    recorded = graph["stages"][0]
    nodes = {n["op"]: n for n in recorded["nodes"]}
    assert list(nodes) == ["matmul", "add", "relu", "softmax", "sum"]
    relu = nodes["relu"]
    place = graph["places"][relu["place"]]
    assert place["line"] == 6 and place["text"][6 - place["first"]] == """    y = torch.relu(x @ w + 1); hostile = "</script><b>\""""
    assert [graph["steps"][i]["title"] for i in relu["steps"]] == ["add_relu_amax_sub_exp_sum"] and relu["exact"]
    assert [graph["steps"][i]["title"] for i in nodes["softmax"]["steps"]] == ["add_relu_amax_sub_exp_sum", "div_sum"]
    (product,) = nodes["matmul"]["steps"]
    assert graph["steps"][product]["code"][0].startswith("gemm_")
    for line, number in recorded["lines"]:
        assert (number >= 0) == bool(re.match(r'\s*%\d+ = "treadle', line))
    for step in graph["steps"]:
        for key in step["code"]:
            name = key.split(",")[0]
            assert f"@{name}(" in graph["codes"][key]["llvm"] and f"{name}:" in graph["codes"][key]["asm"]
    assert "kernel @k0(" in graph["steps"][relu["steps"][0]]["kernel"]


def test_launches_have_the_times_of_their_runs(written: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    graphs = data_of(written[0].read_text())["graphs"]
    assert [[step.get("runs") for step in graph["steps"]] for graph in graphs][1] == [2, 2, 2] or "runs" in graphs[1]["steps"][0]
    assert all(step["us"] > 0 and step["roofline"] > 0 for graph in graphs for step in graph["steps"] if "runs" in step)


def test_changes_are_shown_without_renumbering(written: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    graph = data_of(written[0].read_text())["graphs"][1]
    decompose = graph["stages"][1]
    cut = [line for line in decompose["diff"] if line.startswith("-")]
    assert len(cut) == 1 and '"treadle.softmax"' in cut[0]
    assert sum(line.startswith("+") for line in decompose["diff"]) >= 4
    assert all("same" in s or s["diff"] for s in graph["stages"][1:])


def test_the_page_needs_nothing_from_outside_and_nothing_escapes(written: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    text = written[0].read_text()
    reader = Reader(text)
    assert reader.addresses == [] and "default-src 'none'" in text
    assert len(reader.scripts) == 2 and "img" not in reader.tags and "b" not in reader.tags
    assert not re.search(r"\b(fetch|import|XMLHttpRequest|WebSocket|eval|innerHTML)\b", reader.scripts[1][1])


def test_hostile_texts_stay_texts() -> None:
    page = html.page(HOSTILE, [], HOSTILE)
    reader = Reader(page)
    assert len(reader.scripts) == 2 and "img" not in reader.tags and data_of(page)["note"] == HOSTILE
    links = Reader(html.index(HOSTILE, [('a"b.html', HOSTILE)]))
    assert links.addresses == ['a"b.html'] and "script" not in links.tags and "img" not in links.tags
    assert "@" in data_of(html.page("@DATA@", [], "@SCRIPT@"))["note"]


def test_inspect_has_a_page_too() -> None:
    seen = treadle.inspect(lambda x: (x.exp() + 1).sum(), treadle.ones(5))
    (graph,) = data_of(seen.html)["graphs"]
    assert [n["op"] for n in graph["stages"][0]["nodes"]] == ["exp", "add", "sum"]
    lstm, x = treadle.nn.LSTM(3, 4), treadle.ones(5, 2, 3)
    (graph,) = data_of(treadle.inspect(lambda: lstm(x)[0].sum()).html)["graphs"]
    inner = [n for n in graph["stages"][graph["stages"][-1].get("same", -1)]["nodes"] if n["inner"]]
    assert inner and any(n["steps"] for n in inner)


def test_inspect_looks_into_compiled_functions() -> None:
    x = treadle.ones(6)
    step = treadle.compile(lambda: (x.exp() + 1).sum())
    for _ in range(3):
        step()
    assert step.last.hits and [n.op.name for n in treadle.inspect(step).graph.nodes if n.op] == ["exp", "add", "sum"]
    with pytest.raises(RuntimeError, match="inspect: the call recorded no operation"):
        treadle.inspect(lambda: None)


def test_tagging_changes_nothing_else() -> None:
    b = Builder()
    b.loc = ("program.py", 7)
    x = b.input(tensor_type((3,), float32))
    b.graph.outputs = [b.exp(b.neg(x))]
    copy = report.tagged(b.graph)
    assert repr(copy) == repr(b.graph) and [report.origin(n) for n in copy.nodes] == [0, 1]
    assert run(copy, [np.zeros(3, np.float32)])[0].tolist() == [1.0] * 3 and report.origin(b.graph.nodes[0]) == -1


def test_a_dump_has_pages_and_a_list_of_them(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    environment = {**os.environ, "TREADLE_DUMP": "dump"}
    subprocess.run([sys.executable, "program.py"], cwd=tmp_path, env=environment, check=True, capture_output=True)
    links = Reader((tmp_path / "dump/index.html").read_text())
    assert links.addresses == ["0000/index.html"]
    (graph,) = data_of((tmp_path / "dump/0000/index.html").read_text())["graphs"]
    assert graph["steps"] and (tmp_path / "dump/0000/kernels.s").read_text().count("k0:") == 1


@pytest.mark.parametrize(("arguments", "message"), [
    (["inspect", "nothing.py"], "there is no program nothing.py"), (["inspect", "-n", "0", "program.py"], "-n expects at least 1")])
def test_mistakes_are_named(tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "program.py").write_text("raise ValueError('mine')")
    done = command(tmp_path, *arguments)
    assert done.returncode == 2 and message in done.stderr


def test_a_program_that_fails_still_gets_its_page(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("import treadle as t\nt.ones(2).exp().tolist()\nraise ValueError('mine')")
    done = command(tmp_path, "inspect", "-o", "x.html", "program.py")
    assert done.returncode == 1 and "ValueError: mine" in done.stderr
    assert len(data_of((tmp_path / "x.html").read_text())["graphs"]) == 1


# -- in a browser ------------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install -e '.[browser]'")
    with api.sync_playwright() as playwright:
        own = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
        try:
            started = playwright.chromium.launch(executable_path=own, args=["--no-sandbox"])
        except api.Error as error:
            pytest.skip(f"needs a browser: playwright install chromium ({str(error).splitlines()[0]})")
        yield started
        started.close()


def test_clicking_through_the_page(written: tuple[Path, subprocess.CompletedProcess[str]], browser: Any) -> None:
    page = browser.new_page()
    errors: list[str] = []
    requests: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: requests.append(request.url))
    page.goto(written[0].as_uri())
    page.wait_for_selector("#stages button")
    page.select_option("#graphs", "1")
    page.click('#view [data-node="2"]')
    details = page.locator("#details")
    assert details.locator("h2.op").inner_text() == "relu : tensor<16x8xf32>"
    assert details.locator("h2.source").inner_text().endswith("program.py:6") and "hostile" in details.locator("pre .chosen").inner_text()
    assert details.locator("h2.launch").all_inner_texts() == ["launch 1: add_relu_amax_sub_exp_sum"]
    assert "kernel @k0(" in details.locator("details.kernel pre").inner_text()
    details.locator("details.llvm summary").click()
    assert "define void @k0(" in details.locator("details.llvm pre").inner_text()
    details.locator("details.assembly summary").click()
    assert "k0:" in details.locator("details.assembly pre").inner_text()
    page.click("#stages button:nth-child(2)")  # the same op after the first pass
    assert details.locator("h2.op").inner_text() == "relu : tensor<16x8xf32>" and page.locator("#view .chosen").count() == 1
    page.click("#views button:nth-child(2)")
    assert '"treadle.softmax"' in page.locator("#view .cut").inner_text() and page.locator("#view .add").count() >= 4
    page.click("#views button:nth-child(3)")
    assert page.locator("#view svg g").count() == page.evaluate("stage().nodes.length")
    page.click('#view svg g[data-node="0"]')
    assert details.locator("h2.op").inner_text().startswith("matmul")
    page.click("#views button:nth-child(4)")
    page.click('#view [data-step="2"]')
    assert details.locator("h2.launch").inner_text() == "launch 2: div_sum"
    page.keyboard.press("ArrowRight")
    address = page.url
    page.reload()
    page.wait_for_selector("#stages button")
    assert page.url == address and page.locator("#stages [aria-current=true]").inner_text().startswith("regions")
    assert page.title() == "program.py" and errors == [] and [u.split("#")[0] for u in requests] == [written[0].as_uri()] * 2
    page.close()


def test_hostile_texts_in_a_browser(tmp_path: Path, browser: Any) -> None:
    (tmp_path / "x.html").write_text(html.page(HOSTILE, [], HOSTILE), encoding="utf-8")
    page = browser.new_page()
    page.goto((tmp_path / "x.html").as_uri())
    page.wait_for_selector("#view p")
    assert page.title().split() == HOSTILE.replace("\u2028", " ").split() and page.locator("#note").inner_text().startswith("</script>")
    page.close()
