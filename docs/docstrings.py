"""Docstrings as reStructuredText. They are written as plain text with `code` in backticks and parameters as "name: meaning" lines."""
from __future__ import annotations

import re
import textwrap
from typing import Any

_FIELD = re.compile(r"(\*{0,2}\w+(?:, \*{0,2}\w+)*): (?=\S)")
_TITLE = re.compile(r"(Args|Arguments|Returns|Raises|Attributes|Yields):\n    ")
_CODE = re.compile(r"(`[^`\n]+`)")


def inline(text: str) -> str:
    """`code` becomes literal; characters that mean something to reStructuredText are escaped."""
    out = ""
    for part in _CODE.split(text):
        if _CODE.fullmatch(part):
            joint = "" if not out or out[-1] in " ([{<-'\"/" else "\\ "
            out += f"{joint}`{part}`"
        else:
            joint = "" if not out or not part or part[0] in " .,;:!?)]}>-'\"/" else "\\ "
            out += joint + re.sub(r"([*|_`\\])", r"\\\1", part)
    return out


def _fields(lines: list[str]) -> list[str]:
    """A paragraph: lines of the form "name: meaning", with indented continuations, become a list."""
    out: list[str] = []
    inside = False
    for line in lines:
        match = _FIELD.match(line)
        if match and (inside or any(_FIELD.match(other) for other in lines[1:])):
            out += [""] if out and not inside else []
            inside = True
            out.append(f"* ``{match[1]}``: {inline(line[match.end():])}")
        elif inside:
            out.append("  " + inline(line.strip()))
        else:
            out.append(inline(line))
    return out


def convert(lines: list[str]) -> list[str]:
    """A whole docstring; an indented paragraph is code."""
    out: list[str] = []
    for paragraph in re.split(r"\n\s*\n", "\n".join(lines).strip("\n")):
        if not paragraph.strip():
            continue
        if paragraph.startswith("    "):
            block = textwrap.indent(textwrap.dedent(paragraph), "    ")
            if out and out[-2:-1] == ["::"]:
                out += [*block.splitlines(), ""]
            else:
                out += ["::", "", *block.splitlines(), ""]
        elif _TITLE.match(paragraph):
            title, _, rest = paragraph.partition("\n")
            out += [f"**{title.rstrip(':')}**", "", *_fields(textwrap.dedent(rest).splitlines()), ""]
        else:
            out += [*_fields(paragraph.splitlines()), ""]
    return out


def process(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Sphinx's hook: changes `lines` in place."""
    lines[:] = convert(lines)
