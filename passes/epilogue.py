"""Epilogues: a map that is the only reader of a matrix product is applied to each tile while it is in cache."""
from __future__ import annotations

from treadle.ir.graph import Node, Value
from treadle.ir.size import beyond
from treadle.passes.build import KernelBuilder, Place
from treadle.passes.demand import is_view
from treadle.passes.index import Axes, Expr, by_coefficient
from treadle.passes.product import has_kernel
from treadle.passes.program import GemmStep, KernelStep
from treadle.passes.unit import Unit


def only_readers(units: list[Unit], kept: set[Value]) -> dict[Unit, Unit]:
    """Map units that may become a product's epilogue, each with the product's unit. `kept`: values needed in memory anyway."""
    readers: dict[Value, list[Unit]] = {}
    for unit in units:
        for value in unit.loads:
            readers.setdefault(value, []).append(unit)
    found: dict[Unit, Unit] = {}
    for unit in units:
        if unit.node is None or not has_kernel(unit.node):
            continue
        value = unit.node.out
        users = readers.get(value, [])
        if len(users) == 1 and value not in kept and users[0].node is None and not users[0].reduce and users[0] not in found:
            found[users[0]] = unit
    return found


def same_elements(units: list[Unit], kept: set[Value], writers: dict[Value, list[Unit]], place: Place,
                  order: dict[Node, int]) -> dict[Unit, tuple[Value, Value]]:
    """Units that only copy a product nobody else reads, element by element in order: each with the product and what is written, which
    may then be one memory. `kept`: values needed in memory anyway."""
    readers: dict[Value, int] = {}
    for unit in units:
        for value in unit.loads:
            readers[value] = readers.get(value, 0) + 1
    found = {}
    for unit in units:
        if unit.node is not None or unit.reduce or len(unit.stores) != 1 or len(unit.loads) != 1 or not all(map(is_view, unit.inside)):
            continue
        (value,), store = unit.loads, unit.stores[0]
        if value in kept or readers[value] != 1 or not has_kernel(value.node) or writers[store.target] != [unit]:
            continue
        if len(unit.neighbours()) > 1:  # it also has to follow something
            continue
        probe = KernelBuilder(unit, place, order)
        probe.sweep_back()
        whole = value.type.numel == store.target.type.numel and value.dtype is store.target.dtype
        if whole and probe.loads.get(value) == [unit.axes.resolve(store.place)]:
            found[unit] = value, store.target
    return found


def tile_axes(axes: Axes, form: Expr, parallel: list[int], m: int, n: int, batch: int) -> list[list[int]] | None:
    """The axes of the map as (batch, rows, columns), or (rows, columns), from how it walks through the product; None: it does not fit."""
    if form.const or {a for a, _ in form.terms} != set(parallel):
        return None
    groups: list[list[int]] = [[], [], []]
    reach = 1
    for axis, c in by_coefficient(form.terms):
        if c != reach:
            return None
        reach *= axes.size[axis]
        group = next((i for i, size in enumerate((m * n, n)) if c == size or beyond(c, size)), 2)
        if group and not reach <= (m * n if group == 1 else n):
            return None
        groups[group].insert(0, axis)
    if reach != batch * m * n or not groups[2] or not groups[1]:
        return None
    return groups if groups[0] else groups[1:]


def build_epilogue(unit: Unit, place: Place, order: dict[Node, int], step: GemmStep) -> KernelStep | None:
    """The unit as a tile kernel for `step`; None when its axes are not those of the product."""
    assert step.node is not None
    value = step.node.out
    probe = KernelBuilder(unit, place, order)
    probe.sweep_back()
    forms = probe.loads.get(value, [])
    batch = 1
    for size in step.batch:
        batch *= size
    if len(forms) != 1:
        return None
    groups = tile_axes(unit.axes, forms[0], probe.parallel, step.m, step.n, batch)
    if groups is None or len(groups) != 2 + bool(step.batch):
        return None
    builder = KernelBuilder(unit, place, order, groups)
    builder.sweep_back()
    builder.join_axes()
    if len(builder.kernel_axes) != len(groups):
        return None
    return builder.emit_all()
