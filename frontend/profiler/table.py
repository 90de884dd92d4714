"""A profile as a table, in the manner of PyTorch's."""
from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any


def format_time(us: float) -> str:
    """Microseconds as `1.500us`, `2.250ms`, `3.000s`."""
    if us >= 1e6:
        return f"{us / 1e6:.3f}s"
    return f"{us / 1e3:.3f}ms" if us >= 1e3 else f"{us:.3f}us"


def format_amount(n: float) -> str:
    """Bytes or operations as `0`, `512`, `1.5K`, `2.0M`, `3.1G`, `4.0T`."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("K", 1e3)):
        if n >= size:
            return f"{n / size:.1f}{unit}"
    return f"{n:.0f}"


def _clip(text: str, width: int, left: bool = False) -> str:
    if width < 4 or len(text) <= width:
        return text
    return "..." + text[3 - width:] if left else text[:width - 3] + "..."


def _rate(amount: float, us: float) -> str:
    """Billions a second."""
    return f"{amount / us / 1e3:.1f}" if amount and us else "--"


def format_table(rows: Sequence[Any], total: float, shapes: bool, stacks: bool, flops: bool, source_width: int, name_width: int,
                 shapes_width: int, header: str | None) -> str:
    """`rows` have the attributes of `FunctionEventAvg`; percentages are of `total`, microseconds."""
    def share(us: float) -> str:
        return f"{100 * us / total:.2f}%" if total else "--"

    columns: list[tuple[str, list[str], bool]] = [("Name", [_clip(e.key, name_width) for e in rows], True)]

    def column(title: str, values: list[str], left: bool = False) -> None:
        columns.append((title, values, left))

    column("Self CPU %", [share(e.self_cpu_time_total) for e in rows])
    column("Self CPU", [format_time(e.self_cpu_time_total) for e in rows])
    column("CPU total %", [share(e.cpu_time_total) for e in rows])
    column("CPU total", [format_time(e.cpu_time_total) for e in rows])
    column("CPU time avg", [format_time(e.cpu_time) for e in rows])
    column("# of Calls", [str(e.count) for e in rows])
    column("Bytes", [format_amount(e.bytes) if e.bytes else "--" for e in rows])
    column("GB/s", [_rate(e.bytes, e.self_cpu_time_total) for e in rows])
    if flops:
        column("FLOPs", [format_amount(e.flops) if e.flops else "--" for e in rows])
    column("GFLOP/s", [_rate(e.flops, e.self_cpu_time_total) for e in rows])
    ideal = [e.best / e.self_cpu_time_total if e.best and e.self_cpu_time_total else None for e in rows]
    column("Roofline %", ["--" if r is None else f"{100 * r:.1f}%" for r in ideal])
    if shapes:
        column("Input Shapes", [_clip(str(e.input_shapes), shapes_width) for e in rows], True)
    if stacks:
        here = os.getcwd() + os.sep
        column("Source Location", [_clip(", ".join([s.removeprefix(here) for s in e.stack]), source_width, left=True) for e in rows], True)
    return _layout(columns, total, header)


def _layout(columns: list[tuple[str, list[str], bool]], total: float, header: str | None) -> str:
    widths = [max(len(text) for text in (title, *values)) for title, values, _ in columns]

    def line(cells: Sequence[str]) -> str:
        return "  ".join([c.ljust(w) if left else c.rjust(w) for c, w, (_, _, left) in zip(cells, widths, columns, strict=True)]).rstrip()

    rule = "  ".join(["-" * w for w in widths])
    body = [line(cells) for cells in zip(*[values for _, values, _ in columns], strict=True)]
    top = [] if header is None else ["-" * len(rule), header]
    titles = line([title for title, _, _ in columns])
    return "\n".join([*top, rule, titles, rule, *body, rule, f"Self CPU time total: {format_time(total)}", ""])
