"""The reference of the op table: a page for each op, and an index by kind. Text is MyST Markdown."""
from __future__ import annotations

import re
from pathlib import Path

from callers import callers
from op_examples import DTYPES, operand_types, output_of, program
from op_facts import KINDS, dtype_rows, errors, gradient, made_of, shapes, signature

from treadle.ir.builder import Builder
from treadle.ir.graph import Graph
from treadle.ir.op import TABLE, Kind, Op
from treadle.ir.samples import samples_of

MLIR_LINE = 400
SHAPE_ROWS = 8

# What fusion makes of a kind is in KINDS; these are the ones that a reader of a page may take for something else.
KIND_NOTES = {
    Kind.COMPOSITE: "recorded as one node, which a pass replaces by the ops it is made of",
    Kind.EXTERN: "computed on the host by numpy or scipy",
}


def kind_note(op: Op) -> str:
    words = KIND_NOTES.get(op.kind) or KINDS.get(op.kind.name, "")
    return f"[{op.kind.value}](../ops.md#{op.kind.value})" + (f": {prose(words)}" if words else "")


def link(name: str, folder: str = "") -> str:
    return f"[{name}]({folder}{name}.md)"


def code(text: str) -> str:
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple(["---"] * len(head)), *rows]
    return "\n".join(["| " + " | ".join([cell(c) for c in line]) + " |" for line in lines]) + "\n"


def sentence(op: Op) -> str:
    """The first sentence of the docstring, for lists."""
    text = re.split(r"(?<=[.;])\s", op.doc.strip(), maxsplit=1)[0].rstrip(".;")
    return text or op.name


def prose(doc: str) -> str:
    """A docstring as Markdown: characters that would start emphasis are kept as they are, `code` stays code."""
    parts = re.split(r"(`[^`]*`)", doc.strip())
    return "".join([p if p.startswith("`") else re.sub(r"([*_<>|\[\]#])", r"\\\1", p) for p in parts])


def facts(op: Op) -> str:
    rows = [("Kind", kind_note(op)), ("Gradient", gradient(op))]
    parts = made_of(op)
    if parts:
        rows.append(("Made of", ", ".join([link(n) if n in TABLE else n for n in parts])))
    public = callers().get(op.name, [])
    if public:
        rows.append(("From Python", ", ".join([f"{{py:obj}}`{name}`" for name in public])))
    rows.append(("In MLIR", f'`"{op.mlir or "treadle." + op.name}"`'))
    if op.onnx:
        rows.append(("In ONNX", op.onnx))
    if op.autocast:
        rows.append(("Autocast", "may cast the operands"))
    return table(("", ""), rows)


def mlir_line(op: Op) -> str:
    """The op as a line of the IR's text, from its first sample."""
    for sample in samples_of(op):
        graph = graph_of(op, sample)
        if graph is not None:
            line = str(graph.nodes[-1] if not graph.nodes else graph).splitlines()
            found = [text.strip() for text in line if f'"{op.mlir or "treadle." + op.name}"(' in text]
            if found and len(found[-1]) < MLIR_LINE:
                return found[-1]
    return ""


def graph_of(op: Op, sample: tuple) -> Graph | None:
    for dtype in DTYPES:
        b = Builder(Graph())
        try:
            values = [g if isinstance(g, (bool, int, float)) else b.input(t)
                      for g, t in zip(sample[0], operand_types(op, sample, dtype), strict=True)]
            found = b.apply(op, tuple(values), tuple(sample[1]))
        except (RuntimeError, TypeError, IndexError, ValueError):
            continue
        b.graph.outputs = list(found) if isinstance(found, tuple) else [found]
        return b.graph
    return None


def fenced(text: str, language: str) -> str:
    return f"```{language}\n{text.rstrip()}\n```\n"


def page(op: Op) -> str:
    parts = [f"---\norphan: true\n---\n\n# {op.name}\n", fenced(f"treadle.ops.{signature(op)}", "python"), prose(op.doc) + "\n", facts(op)]
    source = program(op)
    if source:
        parts += ["## Example\n", fenced(source, "python"), fenced(output_of(source), "text")]
    rows = shapes(op)
    if rows:
        parts += ["## Shapes\n", table(("call", "result"), [(code(call), code(result)) for call, result in rows[:SHAPE_ROWS]])]
    types = dtype_rows(op)
    if types:
        parts += ["## Dtypes\n", table(("operands", "result"), types)]
    mistakes = errors(op)
    if mistakes:
        parts += ["## Errors\n", "What mistakes with the example's operands are answered with:\n",
                  table(("error", "message"), [(f"`{kind}`", code(message.replace("\n", " "))) for kind, message in mistakes])]
    line = mlir_line(op)
    if line:
        parts += ["## In the IR\n", fenced(line, "text")]
    return "\n".join(parts)


INTRODUCTION = """# Operations

Every operation is one record of the op table; this reference is made from it. `treadle.ops.NAME` records the op itself, with operands and
attributes as the record has them: axes are non-negative, sizes are complete. The functions named under *From Python* are what programs
call; they take PyTorch's arguments and end in these ops.

Operands are tensors, and Python numbers used as data, which are run-time values. Attributes are what the shape of the result or the loop
depends on. A name with a star stands for any number of operands. What is said about shapes, dtypes and errors was found by asking the op's
type rule.

"""


def index() -> str:
    parts = [INTRODUCTION]
    for kind in Kind:
        ops = sorted([op for op in TABLE.values() if op.kind is kind], key=lambda op: op.name)
        if ops:
            parts += [f"## {kind.value.capitalize()}\n", f"{KINDS[kind.name]}.\n" if kind.name in KINDS else "",
                      table(("op", "meaning", "gradient"),
                            [(link(op.name, "ops/"), prose(sentence(op)), "no" if gradient(op) == "none" else "yes") for op in ops])]
    return "\n".join(parts)


def write(folder: Path) -> None:
    """Write the index of the ops into `folder`, and their pages below it."""
    (folder / "ops").mkdir(parents=True, exist_ok=True)
    (folder / "ops.md").write_text(index())
    for op in TABLE.values():
        (folder / "ops" / f"{op.name}.md").write_text(page(op))
