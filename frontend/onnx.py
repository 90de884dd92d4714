"""`treadle.onnx`: models as ONNX files, which other runtimes and compilers read.

Needs the `onnx` package: `pip install 'treadle[onnx]'`.
"""
from __future__ import annotations

import enum
import inspect
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, Any, NamedTuple

import numpy as np

import treadle
from treadle.codegen.onnx_model import Model, Port, library, proto
from treadle.codegen.onnx_rules import RULES
from treadle.codegen.onnx_sizes import Vector, is_constant
from treadle.codegen.onnx_tidy import tidy
from treadle.codegen.onnx_writer import OLDEST_OPSET, Ref, Writer, check_alike, shape_of
from treadle.nn.module import Module
from treadle.onnx_capture import Recorded, array, record
from treadle.runtime import engine
from treadle.stateless import _places, functional_call
from treadle.tensor import Tensor, read
from treadle.utils._pytree import TreeSpec, tree_flatten, tree_unflatten
from treadle.version import __version__

__all__ = ["ONNXProgram", "OperatorExportTypes", "TrainingMode", "export", "is_in_onnx_export"]

DEFAULT_OPSET = 18
_exporting = 0


class TrainingMode(enum.Enum):
    """In which mode a module is exported: EVAL, TRAINING, or PRESERVE for the one it is in."""

    EVAL = 0
    PRESERVE = 1
    TRAINING = 2


class OperatorExportTypes(enum.Enum):
    """Kinds of operations to export to; only ONNX's own are written."""

    ONNX = 0
    ONNX_ATEN = 1
    ONNX_ATEN_FALLBACK = 2
    ONNX_FALLTHROUGH = 3


class ONNXProgram:
    """An exported model: `model_proto` is the `onnx.ModelProto`."""

    def __init__(self, model_proto: Any) -> None:
        self.model_proto = model_proto

    def save(self, destination: str | os.PathLike[str] | IO[bytes]) -> None:
        """Write the model to a path, which is replaced in one step, or to a binary file."""
        from treadle.serialization import _target
        with _target(destination) as file:
            file.write(self.model_proto.SerializeToString())

    def __repr__(self) -> str:
        return str(library().printer.to_text(self.model_proto))


def is_in_onnx_export() -> bool:
    """Whether a model is being exported: what it may ask to leave out what only training needs."""
    return _exporting > 0


def export(model: Any, args: Any = (), f: str | os.PathLike[str] | IO[bytes] | None = None, *, kwargs: dict[str, Any] | None = None,
           verbose: bool | None = None, input_names: Sequence[str] | None = None, output_names: Sequence[str] | None = None,
           opset_version: int | None = None, dynamo: bool = True, external_data: bool = True, dynamic_shapes: Any = None,
           custom_translation_table: Any = None, report: bool = False, optimize: bool = True, verify: bool = False,
           profile: bool = False, dump_exported_program: bool = False, artifacts_dir: Any = ".", export_params: bool = True,
           keep_initializers_as_inputs: bool = False, dynamic_axes: Mapping[str, Any] | None = None,
           training: TrainingMode = TrainingMode.EVAL, operator_export_type: OperatorExportTypes = OperatorExportTypes.ONNX,
           do_constant_folding: bool = True, custom_opsets: Any = None, export_modules_as_functions: Any = False,
           autograd_inlining: bool = True) -> ONNXProgram | None:
    """Record one call of `model` and write what it computes as an ONNX model.

    Args:
        model: a module, exported in eval mode unless `training` says otherwise, or a function.
        args: a tensor or the tuple of arguments; a dict at the end, without `kwargs`, is keyword arguments. Tensors, also inside lists
            and dicts, become inputs; anything else is taken as it is.
        f: a path, which is replaced in one step, or a binary file. None with dynamo=True: only return the model.
        input_names, output_names: by default the names of the arguments, and "output".
        dynamic_axes: input or output name -> {axis: name} or list of axes: sizes that may differ when the model runs. The call is
            recorded at several sizes, and whatever follows from them is computed. `dynamic_shapes` says the same as PyTorch does.
        opset_version: 11 or later, 18 by default.
        export_params: whether parameters and buffers are part of the file, under their names in the state dict; else they are inputs.
        keep_initializers_as_inputs: they are both.
        dynamo: whether to return an `ONNXProgram`.
        verbose: print the model.

    The model has opsets' own operations only. Further arguments are taken for PyTorch's sake: they choose between ways of exporting
    that do not exist here. Custom translations are refused.

    ModuleNotFoundError without the `onnx` package. NotImplementedError, naming the op and its line, for what has no form in ONNX.
    RuntimeError when the model looks at values of its inputs, or computes something else at other sizes of dynamic axes.
    """
    library()
    if custom_translation_table is not None or custom_opsets or operator_export_type is not OperatorExportTypes.ONNX or verify:
        raise NotImplementedError("onnx.export: custom_translation_table, custom_opsets, verify and operator_export_type other than ONNX "
                                  "are not there")
    if f is None and not dynamo:
        raise ValueError("onnx.export: f, a path or a binary file, is needed with dynamo=False")
    call = _Call(model, args, kwargs, input_names, training)
    axes = _Axes(call, dynamic_axes, dynamic_shapes, output_names or ())
    found = _model(call, axes, _opset(opset_version), output_names or ())
    if not export_params or keep_initializers_as_inputs:
        found.as_inputs = [n for n in call.state if n in found.initializers]
    program = ONNXProgram(proto(found, call.title, __version__))
    if not export_params:
        _drop(program.model_proto, set(found.as_inputs))
    if verbose:
        print(program)
    if f is not None:
        program.save(f)
    return program if dynamo else None


def _drop(model_proto: Any, names: set[str]) -> None:
    kept = [t for t in model_proto.graph.initializer if t.name not in names]
    del model_proto.graph.initializer[:]
    model_proto.graph.initializer.extend(kept)


def _opset(version: int | None) -> int:
    newest = int(library().defs.onnx_opset_version())
    if version is None:
        return min(DEFAULT_OPSET, newest)
    if not OLDEST_OPSET <= version <= newest:
        raise ValueError(f"Unsupported ONNX opset version: {version}. The installed onnx package has {OLDEST_OPSET} to {newest}.")
    return version


# -- the call --------------------------------------------------------------------------------------------------------------
class _Call:
    """The model with its arguments: the tensors among these, their names, and the module's state by name."""

    def __init__(self, model: Any, args: Any, kwargs: dict[str, Any] | None, names: Sequence[str] | None, mode: TrainingMode) -> None:
        self.model = getattr(model, "__treadle_compiled__", model)
        self.mode = mode
        self.title = type(model).__name__ if isinstance(model, Module) else getattr(model, "__name__", "main")
        args = (args,) if isinstance(args, Tensor) or not isinstance(args, list | tuple) else tuple(args)
        if kwargs is None and args and isinstance(args[-1], dict):
            args, kwargs = args[:-1], args[-1]
        self.leaves, self.spec = tree_flatten((args, kwargs or {}))
        self.places = [i for i, x in enumerate(self.leaves) if isinstance(x, Tensor)]
        self.tensors: list[Tensor] = [self.leaves[i].detach() for i in self.places]
        self.names = self._named(args, kwargs or {}, names)
        self.state = self._state()
        self.output_spec: TreeSpec | None = None

    def _named(self, args: tuple[Any, ...], kwargs: dict[str, Any], given: Sequence[str] | None) -> list[str]:
        """Names of the inputs: those given, and for the rest those of the arguments, numbered where an argument holds several."""
        try:
            function = self.model.forward if isinstance(self.model, Module) else self.model
            bound = inspect.signature(function).bind(*args, **kwargs).arguments
        except (TypeError, ValueError):  # the call itself will say what is wrong with it
            bound = {f"input_{i}": x for i, x in enumerate([*args, *kwargs.values()])}
        found = []
        for name, value in bound.items():
            inside = [x for x in tree_flatten(value)[0] if isinstance(x, Tensor)]
            found += [name] if len(inside) == 1 else [f"{name}_{i}" for i in range(len(inside))]
        if len(given or ()) > len(self.tensors):
            raise ValueError(f"onnx.export: input_names has {len(given or ())} names for {len(self.tensors)} input tensors")
        return [*(given or ()), *found[len(given or ()):]]

    def _state(self) -> dict[str, Tensor]:
        """Parameters and buffers, tied ones under the first of their names."""
        if not isinstance(self.model, Module):
            return {}
        found: dict[str, Tensor] = {}
        seen = set()
        for name, (table, last) in _places(self.model).items():
            if id(table[last]) not in seen:
                seen.add(id(table[last]))
                found[name] = table[last]
        return found

    def record(self, tensors: Sequence[Tensor]) -> Recorded:
        """The graph of a call on these inputs."""
        count = len(tensors)

        def run(given: list[Tensor]) -> list[Any]:
            leaves = list(self.leaves)
            for place, t in zip(self.places, given, strict=False):
                leaves[place] = t
            args, kwargs = tree_unflatten(leaves, self.spec)
            if isinstance(self.model, Module):
                result = functional_call(self.model, dict(zip(self.state, given[count:], strict=True)), args, kwargs)
            else:
                result = self.model(*args, **kwargs)
            found = _leaves(result)
            if not any(isinstance(x, Tensor) for x in found):
                raise ValueError(f"onnx.export: the model returns no tensor, but {type(result).__name__}")
            return found
        with _in_mode(self.model, self.mode), _flag():
            return record(run, [*tensors, *self.state.values()])


def _leaves(tree: Any) -> list[Any]:
    """What is in nested tuples (of any class), lists and dicts."""
    if isinstance(tree, tuple | list | Mapping):
        return [leaf for part in (tree.values() if isinstance(tree, Mapping) else tree) for leaf in _leaves(part)]
    return [tree]


@contextmanager
def _flag() -> Iterator[None]:
    global _exporting
    _exporting += 1
    try:
        yield
    finally:
        _exporting -= 1


@contextmanager
def _in_mode(model: Any, mode: TrainingMode) -> Iterator[None]:
    """Every module of the model in the mode of the export, and its call not compiled; as it was afterwards."""
    modules = list(model.modules()) if isinstance(model, Module) else []
    before = [(m.training, m._compiled_call_impl) for m in modules]
    try:
        for m in modules:
            m._compiled_call_impl = None
            if mode is not TrainingMode.PRESERVE:
                m.training = mode is TrainingMode.TRAINING
        yield
    finally:
        for m, (training, compiled) in zip(modules, before, strict=True):
            m.training, m._compiled_call_impl = training, compiled


# -- dynamic axes ------------------------------------------------------------------------------------------------------------
class _Symbol(NamedTuple):
    """A dynamic size: what it is called, what it is in the example, and at which (input, axis) it stands."""

    name: str
    size: int
    places: list[tuple[int, int]]


class _Axes:
    """The dynamic axes of a call, and names for those of its outputs."""

    def __init__(self, call: _Call, axes: Mapping[str, Any] | None, shapes: Any, outputs: Sequence[str]) -> None:
        self.call = call
        self.given: dict[str, dict[int, str | None]] = {}
        for name, wanted in {**_from_shapes(call, shapes), **(axes or {})}.items():
            if name not in call.names and name not in outputs:
                raise ValueError(f"onnx.export: dynamic axes are given for {name!r}, which is neither an input ({', '.join(call.names)}) "
                                 f"nor in output_names ({', '.join(outputs)})")
            self.given[name] = dict(wanted) if isinstance(wanted, Mapping) else dict.fromkeys(wanted)
        self.symbols = self._symbols()

    def _symbols(self) -> list[_Symbol]:
        """Axes of one name are one size; so are those without a name that are equal in the example."""
        found: dict[Any, _Symbol] = {}
        for i, (name, tensor) in enumerate(zip(self.call.names, self.call.tensors, strict=True)):
            for number, (axis, called) in enumerate(self.given.get(name, {}).items()):
                rank = tensor.dim()
                if not -rank <= axis < rank:
                    raise ValueError(f"onnx.export: input {name!r} of {rank} axes has no axis {axis} to be dynamic")
                size = tensor.shape[axis]
                title = called or f"{name}_dynamic_axes_{number + 1}"
                symbol = found.setdefault(called or size, _Symbol(title, size, []))
                if symbol.size != size:
                    raise ValueError(f"onnx.export: the dynamic axes {called!r} are of size {symbol.size} and {size} in the example")
                symbol.places.append((i, axis % rank))
        return list(found.values())

    def name(self, output: str, axis: int, rank: int) -> str | None:
        """What the user calls a dynamic axis of an output."""
        wanted = self.given.get(output, {})
        return wanted.get(axis) or wanted.get(axis - rank)

    def record(self) -> list[Recorded]:
        """The call at the sizes of the example, at others along each dynamic axis alone, and at others along all of them.

        Sizes of 0 and 1 are special: in their place, others are recorded.
        """
        start = [max(s.size, 2) for s in self.symbols]
        first = self.call.record(self._inputs(start))
        if not self.symbols:
            return [first]
        other, found = list(start), [first]
        for i in range(len(start)):
            other[i], recorded = self._another(start, i, first)
            found.append(recorded)
        self.vectors = {s.name: (start[i], *[other[i] if j == i else start[i] for j in range(len(start))])
                        for i, s in enumerate(self.symbols)}
        if len(start) > 1:
            found.append(self.call.record(self._inputs(other)))
            self.vectors = {s.name: (*self.vectors[s.name], other[i]) for i, s in enumerate(self.symbols)}
        return found

    vectors: dict[str, Vector] = {}

    def _another(self, start: list[int], i: int, first: Recorded) -> tuple[int, Recorded]:
        """Another size along one axis at which the call does the same. Multiples come first: models often divide sizes."""
        error: Exception | None = None
        for size in dict.fromkeys((2 * start[i], start[i] + 1, start[i] - 1, start[i] // 2)):
            if size < 2:
                continue
            try:
                recorded = self.call.record(self._inputs([*start[:i], size, *start[i + 1:]]))
                check_alike([first.whole([True] * len(first.pending))[0], recorded.whole([True] * len(recorded.pending))[0]])
                return size, recorded
            except Exception as reason:  # the model does not take this size; the first reason is the one to tell
                error = error or reason
        raise RuntimeError(f"onnx.export: axis {self.symbols[i].name!r} cannot be dynamic: the model was tried at other sizes than "
                           f"{start[i]} along it: {error}") from error

    def _inputs(self, sizes: Sequence[int]) -> list[Tensor]:
        """The example's tensors at these sizes of the symbols, repeated or cut."""
        found = list(self.call.tensors)
        for symbol, size in zip(self.symbols, sizes, strict=True):
            for i, axis in symbol.places:
                have = found[i].shape[axis]
                if have == 0:
                    raise ValueError(f"onnx.export: the dynamic axis {symbol.name!r} is empty in the example")
                if have != size:
                    found[i] = found[i].index_select(axis, treadle.arange(size, device=found[i].device) % have)
        return found


def _from_shapes(call: _Call, shapes: Any) -> dict[str, dict[int, str | None]]:
    """PyTorch's dynamic_shapes, by argument, as dynamic axes by input. An axis is named by a string or an object with a `__name__`."""
    if shapes is None:
        return {}
    flat: list[Any] = []

    def walk(tree: Any) -> None:
        axes = isinstance(tree, Mapping) and all(isinstance(k, int) for k in tree)
        if tree is None or axes or (isinstance(tree, list | tuple) and all(_is_axis(x) for x in tree)):
            flat.append(tree)
        else:
            for part in tree.values() if isinstance(tree, Mapping) else tree:
                walk(part)
    walk(shapes)
    if len(flat) != len(call.names):
        raise ValueError(f"onnx.export: dynamic_shapes describes {len(flat)} tensors, and there are {len(call.names)}")
    found = {}
    for name, axes in zip(call.names, flat, strict=True):
        items = axes.items() if isinstance(axes, Mapping) else enumerate(axes or ())
        found[name] = {i: x if isinstance(x, str) else getattr(x, "__name__", None) for i, x in items
                       if x is not None and not isinstance(x, int)}
    return found


def _is_axis(x: Any) -> bool:
    return x is None or isinstance(x, int | str) or hasattr(x, "__name__")


# -- the model -----------------------------------------------------------------------------------------------------------------
def _model(call: _Call, axes: _Axes, opset: int, output_names: Sequence[str]) -> Model:
    """The call's graph lowered, with inputs, outputs and initializers under their names."""
    recordings = axes.record()
    graphs, arrays = _aligned(recordings)
    w = Writer(opset, RULES)
    ports = _input_ports(call, axes, w)
    taken = [w.name(n) for n in output_names]
    state = [w.name(n) for n in call.state]
    call.state = dict(zip(state, call.state.values(), strict=True))
    values = graphs[0].inputs
    operands = [Ref(n, v.dtype) for n, v in zip([*[p.name for p in ports], *state], values, strict=False)]
    operands += [w.constant(a, v.dtype) for a, v in zip(arrays, values[len(operands):], strict=True)]
    for i, ref in enumerate(operands):
        w.sizes.learn(ref, shape_of([g.inputs[i] for g in graphs]))
    results = [w.cast(x, v.dtype) for x, v in zip(w.lower(graphs, operands), graphs[0].outputs, strict=True)]
    if len(taken) > len(results):
        raise ValueError(f"onnx.export: output_names has {len(taken)} names for {len(results)} output tensors")
    default = "output" if len(results) == 1 else "output_{}"
    names = taken + [w.name(default.format(i)) for i in range(len(taken), len(results))]
    shapes = [shape_of(outs) for outs in zip(*[g.outputs for g in graphs], strict=True)]
    outputs = [Port(n, r.dtype, _dims(axes, n, s)) for n, r, s in zip(names, results, shapes, strict=True)]
    for name, ref in zip(names, results, strict=True):
        w.emit("Identity", ref)
        w.operations[-1] = w.operations[-1]._replace(outputs=(name,))
    needed = {n for o in w.operations for n in o.inputs}
    engine.flush("onnx.export")
    weights = {n: array(read(t)) for n, t in call.state.items() if n in needed}
    return tidy(Model(opset, ports, outputs, w.operations, weights | w.constants))


def _aligned(recordings: Sequence[Recorded]) -> tuple[list[Any], list[np.ndarray]]:
    """The graphs of the recordings, and the arrays of their last inputs. What was the same in all of them is constant."""
    first = recordings[0]
    alike = all(len(r.arrays) == len(first.arrays) for r in recordings)
    known = [alike and all(np.array_equal(a, r.arrays[i], equal_nan=a.dtype.kind == "f") for r in recordings)
             for i, a in enumerate(first.arrays)]
    pairs = [r.whole(known if alike else [False] * len(r.arrays)) for r in recordings]
    for _, arrays in pairs[1:]:
        if len(arrays) != len(pairs[0][1]) or not all(np.array_equal(a, b) for a, b in zip(arrays, pairs[0][1], strict=True)):
            raise RuntimeError("onnx.export: a tensor that the model reads differs between calls at other sizes of its dynamic axes")
    return [g for g, _ in pairs], pairs[0][1]


def _input_ports(call: _Call, axes: _Axes, w: Writer) -> list[Port]:
    found = [Port(w.name(n), t.dtype, [int(size) for size in t.shape]) for n, t in zip(call.names, call.tensors, strict=True)]
    for symbol in axes.symbols:
        for i, axis in symbol.places:
            found[i].shape[axis] = axes.given[call.names[i]].get(axis) or symbol.name
    return found


def _dims(axes: _Axes, name: str, shape: list[Vector]) -> list[int | str | None]:
    """An output's sizes: dynamic ones by the name the user gave, or that of the input's axis that they equal."""
    found: list[int | str | None] = []
    for axis, vector in enumerate(shape):
        equal = next((n for n, v in axes.vectors.items() if v == vector), None)
        found.append(vector[0] if is_constant(vector) else axes.name(name, axis, len(shape)) or equal or f"{name}_dim_{axis}")
    return found
