"""Turns a capture into one Python function: check the guards, fetch the tensors, run the plan, put the effects back.

The function is generated as source (`Replay.source`), so what a replay does can be read.
"""
from __future__ import annotations

import cmath
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from treadle.compilation.backward import Joint, Split, Tape
from treadle.compilation.capture import Capture, Seen
from treadle.compilation.donation import dead_inputs, donating, early_drops
from treadle.compilation.generated import RUNTIME, unaliased
from treadle.compilation.known import of_framework
from treadle.compilation.plans import budgeted, run_slowly
from treadle.compilation.shortcut import Shortcut, find_shortcut
from treadle.runtime.recorder import Data
from treadle.runtime.symbols import SymFloat, SymInt
from treadle.tensor import Storage, Tensor, read

if TYPE_CHECKING:
    from treadle.passes.partition import Partition, Rematerialized

_OPERATORS = {"add": "+", "sub": "-", "mul": "*", "truediv": "/", "floordiv": "//", "mod": "%", "pow": "**"}
_LITERALS = (int, str, bool, type(None), bytes)


class Refused(Exception):
    """Why a finished capture cannot be replayed."""


# -- the generator ---------------------------------------------------------------------------------------------------------------------
class Writer:
    """Writes the replay function of a capture."""

    def __init__(self, capture: Capture) -> None:
        self.capture = capture
        self.names: dict[str, Any] = dict(RUNTIME)
        self.bound: dict[int, str] = {}
        self.checks: list[str] = []      # expressions that must be true
        self.lines: list[str] = []
        self.numbers: dict[int, str] = {}
        self.texts: dict[str, str] = {}
        self.built: dict[int, str] = {}
        self.data_names: dict[Data, str] = {}
        self.slots: dict[Data, int] = {}
        self.wanted: dict[int, Any] = {}  # slots that results and effects take from the plan
        self.relevant: set[int] = set()
        self.live: set[int] = set()      # results that are put on a tape

    def constant(self, value: Any) -> str:
        if value.__class__ in _LITERALS and (value.__class__ is not int or abs(value) < 1 << 62):
            return repr(value)
        name = self.bound.get(id(value))
        if name is None:
            name = self.bound[id(value)] = f"k{len(self.bound)}"
            self.names[name] = value
        return name

    def container(self, value: Any) -> str:
        path = self.capture.paths.get(id(value))
        return self.constant(value) if path is None else path

    def tensor_name(self, t: Tensor) -> str:
        return f"t{self.capture.seen[id(t)].number}"

    def place(self, place: tuple[str, Any, Any]) -> str:
        kind, container, key = place
        if kind == "itself":
            return self.constant(container)
        if kind == "grad":
            return f"{self.tensor_name(container)}._grad"
        if kind == "part":
            return f"part({self.place(self.capture.seen[id(container)].place)}, {key!r})"
        text = self.container(container)
        if kind in ("dict", "list"):
            return f"{text}[{self.constant(key)}]"
        if kind == "cell":
            return f"{text}.cell_contents"
        return f"{text}.{key}" if kind == "slot" else f"{text}.__dict__[{key!r}]"

    # -- guards ------------------------------------------------------------------------------------------------------------------------
    def guards_left(self) -> list[Any]:
        """The guards, without those on keys whose values are guarded too, and those that would keep an old value alive to ask its type."""
        guards = [g for g in self.capture.guards.values() if not (g[1].__class__ is Data and g[2] == "type")]

        def name(g: Any) -> Any:
            return id(g[1]), g[2] if g[2].__class__ in _LITERALS else id(g[2])
        read = {name(g) for g in guards if ":dict" in g[0]}
        return [g for g in guards if not (g[0] == "present" and name(g) in read)]

    def guard(self, kind: str, container: Any, key: Any, expected: Any) -> str | None:
        """The check of one guard, None for those that need fetched tensors or numbers first."""
        if ":" in kind:
            what, _, rest = kind.partition(":")
            if what == "same":
                return None
            place = self.place((rest, container, key))
            if what in ("number", "class"):
                return f"{place}.__class__ is {self.constant(expected)}"
            if what == "is" or expected is None or expected is ... or expected.__class__ is bool:
                return f"{place} is {self.constant(expected)}"
            return f"(v := {place}).__class__ is {self.constant(expected.__class__)} and v == {self.constant(expected)}"
        if kind == "value":
            return None
        text = self.container(container)
        if kind == "len":
            return f"len({text}) == {expected}"
        if kind == "keys":
            simple = all(k.__class__ in (str, int) for k in expected)
            return f"tuple({text}) == {self.constant(expected)}" if simple else f"all_are({text}, {self.constant(expected)})"
        if kind == "set":
            return f"frozenset({text}) == {self.constant(expected)}"
        if kind == "truth":
            return text if expected else f"not {text}"
        return f"{self.constant(key)} {'not ' if kind == 'absent' else ''}in {text}"

    def number(self, expr: Any) -> str:
        """Source of a symbolic number; shared parts get names."""
        kind = expr[0]
        if kind == "number":
            return repr(expr[1]) if cmath.isfinite(expr[1]) else self.constant(expr[1])
        found = self.numbers.get(id(expr))
        if found is None:
            if kind == "place":
                text = self.place(expr[1])
            elif kind == "draw":
                return f"drawn{expr[1]}[{expr[2]}]"
            elif kind == "neg":
                text = f"-{self.number(expr[1])}"
            else:
                text = f"{self.number(expr[1])} {_OPERATORS[kind]} {self.number(expr[2])}"
            found = self.texts.get(text)
            if found is None:
                found = self.texts[text] = f"n{len(self.texts)}"
                self.lines.append(f"{found} = {text}")
            self.numbers[id(expr)] = found
            self.capture.keep.append(expr)
        return found

    def check_tensor(self, seen: Seen) -> None:
        t, name = seen.tensor, f"t{seen.number}"
        type_name = self.constant(seen.data.type)
        moving = seen.place[0] != "itself"
        self.lines.append(f"{name} = {self.place(seen.place)}")
        check = [f"{name}._data.type is {type_name}"]
        if seen.node is None and not seen.needs_grad:
            check.append(f"{name}._edge is None")
        elif seen.needs_grad and not moving:  # a leaf that is always the same tensor: an edge to a leaf is one to itself
            check.append(f"{name}._edge is not None and {name}._edge[0].__class__ is LeafNode")
        else:
            check += [f"{name}._requires_grad is {seen.needs_grad}", f"{name}._node is {'not ' if seen.node is not None else ''}None"]
        if moving:
            check.insert(0, f"{name}.__class__ is {self.constant(t.__class__)}")
            if t._chain:
                check.append(f"{name}._chain == {self.constant(t._chain)}")
        elif t._storage is not None:
            check.append(f"{name}._storage is {self.constant(t._storage)}")
        if seen.needs_grad:
            check.append(f"not {name}._hooks" if not t._hooks else f"all_are({name}._hooks, {self.constant(tuple(t._hooks))})")
            if t._grad is not seen.grad or id(t) in self.capture.grad_reads:
                check.append(f"{name}._grad is {'not ' if seen.grad is not None else ''}None")
        if seen.data.type.layout != "strided":
            check.append(f"is_coalesced({name}) is {seen.data.trace.level.coalesced}")  # type: ignore[union-attr]
        self.lines.append(f"if not ({' and '.join(check)}): return MISS")

    # -- values ------------------------------------------------------------------------------------------------------------------------
    def data(self, d: Data) -> str:
        """Where a replay finds the counterpart of `d`."""
        slot = self.slots.get(d)
        if slot is not None:
            self.wanted[slot] = d.type
            return f"v{slot}"
        for seen in self.capture.seen.values():
            if seen.data is d:
                return f"fetch(t{seen.number})"
            if seen.storage_data is d:
                return f"fetch_base(t{seen.number})"
        if d in self.capture.constants or d in self.capture.snapshots.values():
            return self.constant(d)
        raise Refused("uses a tensor that could not be traced to where it came from")

    def build(self, value: Any) -> str:
        """Source that makes the counterpart of a result or of a value written outside."""
        cls = value.__class__
        if cls is SymFloat or cls is SymInt:
            return self.number(value.expr)
        if isinstance(value, Tensor):
            return self.build_tensor(value)
        if cls in _LITERALS or cls is float:
            return self.constant(value)
        found = self.built.get(id(value))
        if found is not None:
            return found
        if cls is tuple and id(value) not in self.capture.paths:
            return "(" + "".join(self.build(v) + ", " for v in value) + ")"
        if isinstance(value, tuple) and hasattr(cls, "_fields"):
            return f"{self.constant(cls)}({', '.join(self.build(v) for v in value)})"
        if id(value) in self.capture.paths:
            return self.capture.paths[id(value)]
        if self.capture.outside(value) or isinstance(value, type):
            return self.constant(value)
        return self.build_fresh(value, cls)

    def build_fresh(self, value: Any, cls: type) -> str:
        name = self.built[id(value)] = f"r{len(self.built)}"
        if cls is list:
            self.lines.append(f"{name} = []")
            for v in value:
                self.lines.append(f"{name}.append({self.build(v)})")
        elif cls in (dict, OrderedDict):
            self.lines.append(f"{name} = {'{}' if cls is dict else 'OrderedDict()'}")
            for k, v in value.items():
                self.lines.append(f"{name}[{self.constant(k)}] = {self.build(v)}")
        elif cls is set and not any(isinstance(v, Tensor) for v in value):
            self.lines.append(f"{name} = set({self.constant(tuple(value))})")
        elif hasattr(value, "__dict__") and not of_framework(cls) and not callable(value) and cls.__new__ is object.__new__:
            fields = ", ".join(f"{k!r}: {self.build(v)}" for k, v in value.__dict__.items())
            self.lines.append(f"{name} = rebuilt({self.constant(cls)}, {{{fields}}})")
        else:
            raise Refused(f"gives back a new {cls.__name__}")
        return name

    def build_tensor(self, t: Tensor) -> str:
        if id(t) in self.capture.seen and (self.capture.seen[id(t)].place[0] != "grad" or id(t) in self.relevant):
            return self.tensor_name(t)
        found = self.built.get(id(t))
        if found is not None:
            return found
        if t.__class__ is not Tensor:
            raise Refused(f"gives back a new {t.__class__.__name__}")
        name = self.built[id(t)] = f"r{len(self.built)}"
        self.capture.keep.append(t)
        if t._data.type.layout != "strided":
            return self.build_sparse(t, name)
        data = self.data(read(t))
        storage = t._storage
        if storage is None:
            self.lines.append(f"{name} = tensor({data}, {t._requires_grad})")
        else:
            self.lines.append(f"{name} = on_storage({self.storage(storage)}, {data}, {self.constant(t._chain)}, {t._detached})")
            if t._requires_grad:
                self.lines.append(f"{name}._requires_grad = True")
        if t._node is not None and not t._requires_grad:
            if getattr(t._node, "released", False):
                self.lines.append(f"released({name})")
            elif id(t) not in self.live:
                raise Refused("stores a result that still requires a backward pass")
        if t._grad is not None:
            self.lines.append(f"{name}._grad = {self.build(t._grad)}")
        return name

    def build_sparse(self, t: Tensor, name: str) -> str:
        trace: Any = read(t).trace
        if t._node is not None or t._grad is not None:
            raise Refused("gives back a sparse result that still requires a backward pass")
        axes = "".join(self.build(a) + ", " for a in trace.level.axes)
        self.lines.append(f"{name} = sparse(({axes}), {self.build(trace.value)}, {self.constant(t._data.type.shape)}, "
                          f"{trace.level.layout!r}, {trace.level.coalesced}, {t._requires_grad})")
        return name

    def storage(self, storage: Storage) -> str:
        for seen in self.capture.seen.values():
            if seen.tensor._storage is storage:
                return f"storage_like(t{seen.number})"
        name = self.built.get(id(storage))
        if name is None:
            name = self.built[id(storage)] = f"r{len(self.built)}"
            self.capture.keep.append(storage)
            self.lines.append(f"{name} = Storage(wrap({self.data(storage.base._data)}), {storage.version})")
        return name

    # -- effects -----------------------------------------------------------------------------------------------------------------------
    def effects(self) -> None:
        """Writes to tensors, gradients and places outside."""
        done: set[int] = set()
        for seen in self.capture.seen.values():
            t, storage = seen.tensor, seen.tensor._storage
            if t._node is not seen.node or t._requires_grad is not seen.needs_grad:
                raise Refused("puts a tensor from outside on the tape, or changes whether it requires a gradient")
            if seen.storage is not None and storage is not seen.storage:
                raise Refused("gives a tensor from outside another storage")
            version = t._writes if storage is None else storage.version
            if version != seen.version and id(storage or t) not in done:
                done.add(id(storage or t))
                data = t._data if storage is None else storage.base._data
                self.lines.append(f"write(t{seen.number}, {self.data(data)}, {version - seen.version})")
            elif storage is None and t._data is not seen.data:
                raise Refused("replaces the content of a tensor from outside")
        for seen in list(self.capture.seen.values()):
            if seen.tensor._grad is not seen.grad:
                self.lines.append(f"t{seen.number}._grad = {self.build(seen.tensor._grad)}")
        for kind, container, key in self.capture.written.values():
            if self.capture.outside(container):
                self.store(kind, container, key)

    def store(self, kind: str, container: Any, key: Any) -> None:
        try:
            value = container[key] if kind in ("dict", "list") else container.cell_contents if kind == "cell" else getattr(container, key)
        except (KeyError, IndexError, AttributeError):
            raise Refused(f"deletes {key!r}") from None
        if kind == "dict" and container.get("__name__") == "__main__" and callable(value) and not isinstance(value, Tensor):
            raise Refused(f"stores a function in {key!r}")
        self.lines.append(f"{self.place((kind, container, key))} = {self.build(value)}")

    @staticmethod
    def version(t: Tensor) -> int:
        return t._writes if t._storage is None else t._storage.version

    def has_writes(self) -> bool:
        return any(self.version(seen.tensor) != seen.version for seen in self.capture.seen.values())

    # -- all of it ---------------------------------------------------------------------------------------------------------------------
    def fetches(self, leaves: dict[Data, int]) -> list[str]:
        """`d<slot> = ...` for each tensor the plan reads."""
        out = []
        for d, slot in leaves.items():
            text = self.data(d)
            if text.startswith("fetch(t"):
                t = text[6:-1]
                text = f"{t}._data if {t}._storage is None else read({t})"
            out += [f"d{slot} = {text}", f"if d{slot}.buffer is None: materialize(d{slot})"]
        return out

    def needed(self) -> list[Seen]:
        """Tensors to fetch and check: gradients only where the call used or changed them."""
        leaves = self.leaf_data
        chosen = []
        for seen in self.capture.seen.values():
            t = seen.tensor
            version = t._writes if t._storage is None else t._storage.version
            owner = seen.place[1] if seen.place[0] == "grad" else None
            if owner is None or seen.data in leaves or seen.storage_data in leaves or version != seen.version or (
                    id(owner) in self.capture.grad_reads and owner._grad is seen.grad):
                chosen.append(seen)
                self.relevant.add(id(t))
        return chosen

    leaf_data: dict[Data, int]


def make_replay(capture: Capture, args: Any, kwargs: Any, result: Any, plan: Any, leaves: dict[Data, int], scalars: list[Any],
                outputs: dict[Data, int], joint: Joint | None, budget: float) -> Replay:
    """The replay of a capture. Refused when something cannot be put back."""
    w = Writer(capture)
    w.leaf_data = leaves
    w.slots = dict(outputs)
    w.live = set() if joint is None else {id(t) for t in joint.outputs}
    needed = w.needed()
    early = _early_guards(w, args, kwargs)
    for seen in needed:
        w.check_tensor(seen)
    _late_guards(w, needed)
    _alias_guards(w, needed)
    every = scalars if joint is None else joint.scalars
    numbers = [w.number(x.expr) if x.__class__ in (SymFloat, SymInt) and x.expr[0] != "draw" else None for x in every]
    for text, cls in dict.fromkeys((t, x.__class__) for t, x in zip(numbers, every, strict=True) if t is not None):
        w.lines.append(f"if {text}.__class__ is not {'float' if cls is SymFloat else 'int'}: return MISS")
    checked = len(w.lines)
    for i, (generator, blocks) in enumerate(capture.draws):
        w.lines.append(f"drawn{i} = {w.constant(generator)}.reserve({blocks})")
    running = len(w.lines)
    w.effects()
    answer = w.build(result)
    given = [w.number(x.expr) if x.__class__ in (SymFloat, SymInt) else w.number(("number", x)) for x in every]
    tail, w.lines = w.lines[running:], w.lines[:running]
    if joint is not None:
        split = _split(w, joint, given, tail, budget)
        plan, types = split.forward, split.types
        parts: Any = split.parts
    else:
        types = {slot: d.type for d, slot in outputs.items()}
        plan, parts = (None, None) if plan is None else budgeted(plan, budget)
    if plan is not None:
        w.lines += w.fetches({d: s for d, s in leaves.items() if s in plan.inputs})
        w.names.update(plan=plan, slow=run_slowly)
        inputs = [f"d{s}" for s in plan.inputs]
        w.lines += early_drops(w, plan, leaves, [*tail, answer])
        dead = {} if joint is not None else dead_inputs(w, plan, leaves, [*tail, answer])
        if dead:
            w.names.update(donating=donating, dead=dead)
            w.lines += ["launch = plan.donating or donating(plan, dead)",
                        f"made = None if launch is None else launch({', '.join([*inputs, *given])})"]
        else:
            w.lines.append("launch = plan.launch")
            w.lines.append(f"made = None if launch is None else launch({', '.join([*[f'{d}.buffer' for d in inputs], *given])})")
        slow_arguments = f"({''.join(d + ', ' for d in inputs)}), ({''.join(n + ', ' for n in given)})"
        w.lines.append(f"if made is None: made = slow(plan, {slow_arguments})")
        w.lines += [f"v{slot} = computed({w.constant(types[slot])}, made[{i}])" for i, slot in enumerate(plan.outputs)]
    w.lines += [*tail, f"return {answer}"]
    places = [(k[3:], c, key, v) for k, c, key, v in capture.guards.values()
              if k.startswith("is:") and isinstance(v, Tensor) and id(c) not in capture.paths]
    replay = Replay(early, w.lines, checked, w.names, plan, places)
    replay.partition = parts
    if joint is None:
        replay.shortcut = find_shortcut(w, args, kwargs, needed, result, plan, leaves, scalars)
    return replay


def _split(w: Writer, joint: Joint, given: list[str], tail: list[str], budget: float) -> Split:
    """Cut the joint graph, and put the results of a replay on the tape."""
    split = Split(joint, list(w.wanted), budget)
    w.names["tape"] = Tape(tuple(t._data.type for t in joint.outputs), split.backward)
    results = "".join(w.built[id(t)] + ", " for t in joint.outputs)
    sources = "".join(f"t{s.number}, " for s in joint.sources)
    saved = "".join(f"v{s}, " if s in split.forward.outputs else f"d{s}, " for s in split.saved)
    tail.append(f"tape(({results}), ({sources}), ({saved}), ({''.join(given[i] + ', ' for i in split.late_numbers)}))")
    return split


def _early_guards(w: Writer, args: Any, kwargs: Any) -> list[str]:
    """Checks of Python state, before any tensor is fetched."""
    checks = [w.guard(*g) for g in w.guards_left()]
    return [f"len(args) == {len(args)} and len(kwargs) == {len(kwargs)}", *[c for c in checks if c is not None]]


def _alias_guards(w: Writer, needed: list[Seen]) -> None:
    """Where tensors are written, those found anew at each call must not share memory with others."""
    for t in w.capture.grad_reads.values():
        seen = w.capture.seen.get(id(t))
        if seen is not None and seen.grad is None:
            w.lines.append(f"if t{seen.number}._grad is not None: return MISS")
    if not w.has_writes():
        return
    _part_guards(w, needed)
    moving = [s for s in needed if s.place[0] not in ("itself", "part")]
    known = frozenset(id(s.tensor._storage) for s in needed if s.place[0] == "itself" and s.tensor._storage is not None)
    if not unaliased(tuple(s.tensor for s in moving), known):
        raise Refused("writes to tensors that share memory with each other")
    w.lines.append(f"if not unaliased(({''.join(f't{s.number}, ' for s in moving)}), {w.constant(known)}): return MISS")


def _part_guards(w: Writer, needed: list[Seen]) -> None:
    """The values of sparse tensors must not be on memory that the call writes."""
    written = "".join([f"t{s.number}._storage, " for s in needed if w.version(s.tensor) != s.version])
    storages = [s.tensor._storage for s in needed if w.version(s.tensor) != s.version]
    for s in needed:
        if s.place[0] == "part" and s.place[2] == "values" and written:
            if s.tensor._storage is not None and s.tensor._storage in storages:
                raise Refused("writes to the values of a sparse tensor")
            w.lines.append(f"if t{s.number}._storage is not None and t{s.number}._storage in ({written}): return MISS")


def _late_guards(w: Writer, needed: list[Seen]) -> None:
    """Guards on fetched tensors and on numbers."""
    by_data: dict[Data, Seen] = {}
    for seen in needed:
        first = by_data.setdefault(seen.data, seen)
        if first is not seen:
            w.lines.append(f"if fetch(t{first.number}) is not fetch(t{seen.number}): return MISS")
    for kind, container, key, expected in w.capture.guards.values():
        if kind.startswith("same:"):
            w.lines.append(f"if {w.place((kind[5:], container, key))} is not t{expected.number}: return MISS")
        elif kind == "value":
            text = w.number(container)
            if expected != expected:
                w.lines.append(f"if {text} == {text}: return MISS")
            else:
                w.lines.append(f"if {text} != {expected!r}: return MISS" if abs(expected) != float("inf") else
                               f"if {text} != {w.constant(expected)}: return MISS")


class Replay:
    """One way a compiled function was seen to go: `function(args, kwargs)` replays it or returns MISS."""

    def __init__(self, early: list[str], lines: list[str], checked: int, names: dict[str, Any], plan: Any, places: list[Any]) -> None:
        self.early, self.plan, self.names, self.places = early, plan, names, places
        self.partition: Partition | Rematerialized | None = None  # what is computed again for the backward pass
        self.replayed = 0                       # times `function` gave the result
        self.shortcut: Shortcut | None = None   # the same for a builtin, where that can be
        self.grad, self.inference, self.default = True, False, None  # the modes it holds for, set by its function
        self.autocast: Any = None
        body = [f"        if not ({c}): return MISS" for c in early]
        body += [f"        {line}" for line in lines[:checked]]
        after = [f"    {line}" for line in lines[checked:]]
        self.source = "\n".join(["def replay(args, kwargs):", "    try:", *body,
                                 "    except (KeyError, IndexError, AttributeError, TypeError, ValueError, ArithmeticError):",
                                 "        return MISS", *after])
        scope = dict(names)
        exec(compile(self.source, "<treadle replay>", "exec"), scope)
        self.function = scope["replay"]

    @property
    def hits(self) -> int:
        """How many calls it answered."""
        return self.replayed + (0 if self.shortcut is None else self.shortcut.hits)

    def moved(self) -> set[Any]:
        """Names of places that held one tensor at the capture and hold another now."""
        found = set()
        for kind, container, key, tensor in self.places:
            try:
                now = (container[key] if kind in ("dict", "list") else container.cell_contents if kind == "cell" else
                       container.__dict__[key] if kind == "class" else getattr(container, key))
            except (KeyError, IndexError, AttributeError, ValueError):
                continue
            if now is not tensor and isinstance(now, Tensor):
                found.add((kind, id(container), id(key) if isinstance(key, Tensor) else key))
        return found

    def first_difference(self, args: Any, kwargs: Any) -> str | None:
        """The first check that does not hold now, as text."""
        for line in self.source.splitlines()[2:]:
            text = line.strip()
            if text.startswith("if not (") and text.endswith("): return MISS"):
                check = text[len("if not ("):-len("): return MISS")]
                try:
                    held = bool(eval(check, dict(self.names), {"args": args, "kwargs": kwargs}))
                except Exception:  # the check's place is gone, or needs names bound later
                    held = "t" in check and any(f"t{i}" in check for i in range(10))
                if not held:
                    return self.readable(check)
        return None

    def readable(self, check: str) -> str:
        """A check with the objects it names in place of constants."""
        import re
        return re.sub(r"\bk\d+\b", lambda m: _short(self.names[m.group()]), check)


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return f"<{value.get('__name__', 'dict')}>"
    text = repr(value) if not isinstance(value, Tensor) else f"Tensor{list(value._data.type.shape)}"
    return text if len(text) < 60 else f"<{type(value).__name__}>"
