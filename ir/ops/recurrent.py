"""Recurrent layers over time-first sequences: x is (T, B, I), weights are PyTorch's, gates in PyTorch's order.

A layer is one big product for the whole sequence's input, then a `scan` with only the product that depends on the state. Its
gradient is a scan in the other direction that makes the gates' gradients; weights and inputs get theirs from big products
after it. With `save` a layer returns what its gradient reads beside the operands (values before the activation).
"""
from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from treadle.ir.builder import Builder
from treadle.ir.graph import Graph
from treadle.ir.op import Kind, declare
from treadle.ir.ops.common import Types, in_float32, need_float
from treadle.ir.types import TensorType


# -- shared pieces -------------------------------------------------------------------------------------------------------
def _check(name: str, types: Types, states: int, gates: int) -> tuple[int, int, int]:
    """(T, B, H) after checking every operand's shape: RuntimeError in PyTorch's words."""
    x, state, (w_ih, w_hh), bias = types[0], types[1:1 + states], types[1 + states:3 + states], types[3 + states:]
    need_float(name, x)
    if x.ndim != 3:
        raise RuntimeError(f"{name}: Expected input to be a time-first sequence of 3 axes, but got shape {list(x.shape)}")
    if w_ih.ndim != 2 or w_hh.ndim != 2:
        raise RuntimeError(f"{name}: expected weights of two axes, but got {list(w_ih.shape)} and {list(w_hh.shape)}")
    steps, batch, features = x.shape
    hidden = w_hh.shape[-1]
    if not steps:
        raise RuntimeError(f"{name}: Expected sequence length to be larger than 0 in RNN")
    if features != w_ih.shape[1]:
        raise RuntimeError(f"{name}: input.size(-1) must be equal to input_size. Expected {w_ih.shape[-1]}, got {features}")
    for t in state:
        if t.shape != (batch, hidden):
            raise RuntimeError(f"{name}: Expected hidden size {[batch, hidden]}, got {list(t.shape)}")
    if w_ih.shape[0] != gates * hidden or w_hh.shape != (gates * hidden, hidden):
        raise RuntimeError(f"{name}: expected weights of {gates * hidden} rows for hidden size {hidden}, "
                           f"but got {list(w_ih.shape)} and {list(w_hh.shape)}")
    if len(bias) not in (0, 2) or any(t.shape != (gates * hidden,) for t in bias):
        raise RuntimeError(f"{name}: expected no bias or two of shape {[gates * hidden]}, but got {[list(t.shape) for t in bias]}")
    for t in types:
        if t.dtype is not x.dtype:
            raise RuntimeError(f"{name}: input and parameter tensors are not of the same dtype, found {x.dtype.name} and {t.dtype.name}")
    return steps, batch, hidden


def _columns(b: Any, x: Any, parts: int) -> list[Any]:
    """The last axis cut in equal parts."""
    shape = x.type.shape
    width, lead = shape[-1] // parts, shape[:-1]
    zero, ones = (0,) * len(lead), (1,) * len(shape)
    return [b.slice(x, (*zero, i * width), (*lead, (i + 1) * width), ones) for i in range(parts)]


def _rows(b: Any, x: Any) -> Any:
    """(T, B, n) as (T * B, n)."""
    steps, batch, n = x.type.shape
    return b.reshape(x, (steps * batch, n))


def _before(b: Any, first: Any, history: Any, reverse: bool) -> Any:
    """The state that each step was given: `history` moved by one step, `first` at the step that runs first."""
    steps, *rest = history.type.shape
    full, zero, ones = (steps, *rest), (0,) * len(rest), (1,) * (1 + len(rest))
    start = b.reshape(first, (1, *rest))
    if reverse:
        return b.cat(b.slice(history, (1, *zero), full, ones), start, dim=0)
    return b.cat(start, b.slice(history, (0, *zero), (steps - 1, *rest), ones), dim=0)


def _project(b: Any, x: Any, w: Any, bias: Any) -> Any:
    return b.linear(x, w) if bias is None else b.linear_bias(x, w, bias)


def _times_transposed(b: Any, h: Any, w: Any) -> Any:
    return b.matmul(h, b.permute(w, (1, 0)))


def _parameter_gradients(b: Any, d_input: Any, d_state: Any, x: Any, w_ih: Any, before: Any, biased: bool) -> tuple[Any, ...]:
    """(dx, dw_ih, dw_hh, db_ih, db_hh) from the gradients of the products' results, (T, B, gates * H) each."""
    rows, state_rows = _rows(b, d_input), _rows(b, d_state)
    dx = b.reshape(b.matmul(rows, w_ih), x.type.shape)
    dw_ih = b.matmul(b.permute(rows, (1, 0)), _rows(b, x))
    dw_hh = b.matmul(b.permute(state_rows, (1, 0)), _rows(b, before))
    if not biased:
        return dx, dw_ih, dw_hh
    db = b.sum(rows, (0,), False, None)
    return dx, dw_ih, dw_hh, db, db if d_state is d_input else b.sum(state_rows, (0,), False, None)


def _body(name: str, types: Types, step: Callable[..., tuple[Any, ...]]) -> Graph:
    b = Builder(Graph(name))
    b.graph.outputs = list(step(b, *[b.input(t) for t in types]))
    return b.graph


def _scan(b: Any, body: Graph, carries: tuple[Any, ...], sequences: tuple[Any, ...], constants: tuple[Any, ...],
          reverse: bool) -> tuple[Any, ...]:
    length = sequences[0].type.shape[0]
    return b.scan(*carries, *sequences, *constants, body=body, n_carry=len(carries), n_seq=len(sequences), length=length, reverse=reverse)


def _type(x: Any) -> TensorType:
    """The type of a value of any emitter: a tensor's `type` is more than that."""
    return x.type.with_()


def _slice_type(x: Any) -> TensorType:
    """The type of one step of a sequence."""
    return x.type.with_(x.type.shape[1:])


def _layer_vjp(name: str, states: int, chosen: bool) -> Callable[..., Any]:
    """The gradient of a layer from what it saved; a layer that saved nothing runs again. `chosen`: it has a nonlinearity to choose."""
    def gradient(b: Any, g: Any, operands: tuple[Any, ...], out: Any, given: tuple[bool, ...], flags: tuple[Any, ...],
                 save: bool) -> tuple[Any, ...]:
        if not save:
            out = b.apply(_TABLE[name], operands, (*flags, True))
        have = tuple([i for i, x in enumerate(given) if x])
        saved, biased = (out[0], *out[1 + states:]), len(operands) > 3 + states
        grads = [g[i] for i in have]
        found = b.apply(_TABLE[f"{name}_backward"], (*operands[:3 + states], *saved, *grads), (*flags, biased, have))
        return (found[states], *found[:states], *found[1 + states:])

    def plain(b: Any, g: Any, operands: Any, out: Any, given: Any, reverse: bool, save: bool) -> tuple[Any, ...]:
        return gradient(b, g, operands, out, given, (reverse,), save)

    def choosing(b: Any, g: Any, operands: Any, out: Any, given: Any, nonlinearity: str, reverse: bool, save: bool) -> tuple[Any, ...]:
        return gradient(b, g, operands, out, given, (nonlinearity, reverse), save)
    return choosing if chosen else plain


_TABLE: dict[str, Any] = {}


def _layer(name: str, gates: int, states: tuple[str, ...], saves: tuple[int, ...], decompose: Callable[..., Any],
           backward: Callable[..., Any],
           doc: str, onnx: str, kinds: tuple[str, ...] = ()) -> None:
    """Declare a layer and its gradient. `saves`: widths, in hidden sizes, of the sequences that `save` adds to the results."""
    count = len(states)
    attrs = "nonlinearity reverse" if kinds else "reverse"
    saved = [f"saved{i}" for i in range(len(saves))]

    def type_rule(types: Types, *flags: Any) -> Types:
        steps, batch, hidden = _check(name, types, count, gates)
        if kinds and flags[0] not in kinds:
            raise ValueError(f"{name}: Unknown nonlinearity {flags[0]!r}. Select from {' or '.join(map(repr, kinds))}.")
        extra = [types[0].with_((steps, batch, n * hidden)) for n in saves] if flags[-1] else []
        return (types[0].with_((steps, batch, hidden)), *types[1:1 + count], *extra)

    def backward_type(types: Types, *flags: Any) -> Types:
        bias = types[1 + count].with_(types[1 + count].shape[:1])
        need_float(f"{name}_backward", types[0])
        for t in types[3 + count:]:
            if t.shape[:-1] not in (types[0].shape[:2], types[1].shape[:1]):
                raise RuntimeError(f"{name}_backward: expected results and gradients for a sequence of {list(types[0].shape)}, "
                                   f"but got {list(t.shape)}")
        return (*types[1:1 + count], types[0], types[1 + count], types[2 + count], *(bias, bias) * flags[-2])

    parameters = ((gates * 4, 3), (gates * 4, 4), (gates * 4,), (gates * 4,))
    choices: list[tuple[str, ...]] = [(k,) for k in kinds] or [()]
    samples = [(((3, 2, 3), *((2, 4),) * count, *parameters[:n]), (*kind, reverse, save))
               for kind in choices for n, reverse, save in ((4, False, True), (2, True, True), (4, True, False))]
    _TABLE[name] = declare(name, Kind.COMPOSITE, f"x {' '.join(states)} w_ih w_hh bias*", f"{attrs} save", type_rule=type_rule,
                           decompose=in_float32(decompose), vjp=_layer_vjp(name, count, bool(kinds)), samples=samples, doc=doc, onnx=onnx)
    backward_samples = [(((3, 2, 3), *((2, 4),) * count, *parameters[:2], (3, 2, 4), *[(3, 2, 4 * n) for n in saves], (3, 2, 4), (2, 4)),
                         (*kinds[:1], False, True, (0, 1)))]
    _TABLE[f"{name}_backward"] = declare(f"{name}_backward", Kind.COMPOSITE, f"x {' '.join(states)} w_ih w_hh ys {' '.join(saved)} grads*",
                                         f"{attrs} biased given", type_rule=backward_type, decompose=in_float32(backward),
                                         samples=backward_samples,
                                         doc=f"Gradients of {name}; `given` says which results the gradients in `grads` belong to.")


def _sort_gradients(args: tuple[Any, ...], fixed: int) -> tuple[list[Any], dict[int, Any]]:
    """Split `(operands..., grads..., given)` into the first `fixed` operands and the gradients by result."""
    *values, given = args
    return list(values[:fixed]), dict(zip(given, values[fixed:], strict=True))


def _state_gradient(b: Any, grads: dict[int, Any], result: int, state: Any) -> Any:
    found = grads.get(result)
    return b.full(0, state.type.shape, state.type.dtype, state.type.device) if found is None else found


def _sequence(grads: dict[int, Any], *results: int) -> tuple[tuple[int, ...], tuple[Any, ...]]:
    """Which of the results' gradients there are, and these."""
    have = tuple([r for r in results if r in grads])
    return have, tuple([grads[r] for r in have])


# -- plain RNN -----------------------------------------------------------------------------------------------------------
@lru_cache(maxsize=256)
def _rnn_body(types: Types, nonlinearity: str) -> Graph:
    def step(b: Any, h: Any, gates: Any, w: Any) -> tuple[Any, ...]:
        new = getattr(b, nonlinearity)(b.add(gates, _times_transposed(b, h, w)))
        return new, new
    return _body("rnn_step", types, step)


def _rnn(b: Any, x: Any, h0: Any, w_ih: Any, w_hh: Any, *rest: Any) -> tuple[Any, ...]:
    *bias, nonlinearity, reverse, _ = rest  # y is all that the gradient reads
    gates = _project(b, x, w_ih, b.add(*bias) if bias else None)
    last, ys = _scan(b, _rnn_body((_type(h0), _slice_type(gates), _type(w_hh)), nonlinearity), (h0,), (gates,), (w_hh,), reverse)
    return ys, last


@lru_cache(maxsize=256)
def _rnn_backward_body(types: Types, nonlinearity: str, have: tuple[int, ...]) -> Graph:
    def step(b: Any, dh: Any, y: Any, *rest: Any) -> tuple[Any, ...]:
        *gy, w = rest
        total = b.add(dh, gy[0]) if gy else dh
        if nonlinearity == "tanh":
            dgates = b.mul(total, b.sub(1.0, b.mul(y, y)))
        else:
            dgates = b.where(b.gt(y, 0), total, 0.0)
        return b.matmul(dgates, w), dgates
    return _body("rnn_step_backward", types, step)


def _rnn_backward(b: Any, *args: Any) -> tuple[Any, ...]:
    *args_, nonlinearity, reverse, biased, given = args
    (x, h0, w_ih, w_hh, ys), grads = _sort_gradients((*args_, given), 5)
    have, sequences = _sequence(grads, 0)
    sequences = (ys, *sequences)
    body = _rnn_backward_body((_type(h0), *[_slice_type(s) for s in sequences], _type(w_hh)), nonlinearity, have)
    dh, dgates = _scan(b, body, (_state_gradient(b, grads, 1, h0),), sequences, (w_hh,), not reverse)
    return (dh, *_parameter_gradients(b, dgates, dgates, x, w_ih, _before(b, h0, ys, reverse), biased))


_layer("rnn_layer", 1, ("h0",), (), _rnn, _rnn_backward, "(ys, h_n) of h = tanh or relu(x w_ih' + b_ih + h w_hh' + b_hh).",
       "RNN", ("tanh", "relu"))


# -- LSTM ----------------------------------------------------------------------------------------------------------------
def _lstm_gates(b: Any, gates: Any) -> tuple[Any, Any, Any, Any]:
    i, f, g, o = _columns(b, gates, 4)
    return b.sigmoid(i), b.sigmoid(f), b.tanh(g), b.sigmoid(o)


@lru_cache(maxsize=256)
def _lstm_body(types: Types, save: bool) -> Graph:
    def step(b: Any, h: Any, c: Any, gates: Any, w: Any) -> tuple[Any, ...]:
        gates = b.add(gates, _times_transposed(b, h, w))
        i, f, g, o = _lstm_gates(b, gates)
        c = b.add(b.mul(f, c), b.mul(i, g))
        h = b.mul(o, b.tanh(c))
        return (h, c, h, gates, c) if save else (h, c, h)
    return _body("lstm_step", types, step)


def _lstm(b: Any, x: Any, h0: Any, c0: Any, w_ih: Any, w_hh: Any, *rest: Any) -> tuple[Any, ...]:
    *bias, reverse, save = rest
    gates = _project(b, x, w_ih, b.add(*bias) if bias else None)
    body = _lstm_body((_type(h0), _type(c0), _slice_type(gates), _type(w_hh)), save)
    last, cell, ys, *saved = _scan(b, body, (h0, c0), (gates,), (w_hh,), reverse)
    return ys, last, cell, *saved


@lru_cache(maxsize=256)
def _lstm_backward_body(types: Types, have: tuple[int, ...]) -> Graph:
    def step(b: Any, dh: Any, dc: Any, gates: Any, cell: Any, before: Any, *rest: Any) -> tuple[Any, ...]:
        *sequence, w = rest
        extra = dict(zip(have, sequence, strict=True))
        i, f, g, o = _lstm_gates(b, gates)
        t = b.tanh(cell)
        dh = b.add(dh, extra[0]) if 0 in extra else dh
        dc = b.add(dc, extra[4]) if 4 in extra else dc
        dc = b.add(dc, b.mul(b.mul(dh, o), b.sub(1.0, b.mul(t, t))))
        di = b.mul(b.mul(dc, g), b.mul(i, b.sub(1.0, i)))
        df = b.mul(b.mul(dc, before), b.mul(f, b.sub(1.0, f)))
        dg = b.mul(b.mul(dc, i), b.sub(1.0, b.mul(g, g)))
        do = b.mul(b.mul(dh, t), b.mul(o, b.sub(1.0, o)))
        dgates = b.cat(di, df, dg, do, dim=1)
        dgates = b.add(dgates, extra[3]) if 3 in extra else dgates
        return b.matmul(dgates, w), b.mul(dc, f), dgates
    return _body("lstm_step_backward", types, step)


def _lstm_backward(b: Any, *args: Any) -> tuple[Any, ...]:
    *args_, reverse, biased, given = args
    (x, h0, c0, w_ih, w_hh, ys, gates, cells), grads = _sort_gradients((*args_, given), 8)
    have, extra = _sequence(grads, 0, 3, 4)
    sequences = (gates, cells, _before(b, c0, cells, reverse), *extra)
    start = (_state_gradient(b, grads, 1, h0), _state_gradient(b, grads, 2, c0))
    body = _lstm_backward_body((_type(h0), _type(c0), *[_slice_type(s) for s in sequences], _type(w_hh)), have)
    dh, dc, dgates = _scan(b, body, start, sequences, (w_hh,), not reverse)
    return (dh, dc, *_parameter_gradients(b, dgates, dgates, x, w_ih, _before(b, h0, ys, reverse), biased))


_layer("lstm_layer", 4, ("h0", "c0"), (4, 1), _lstm, _lstm_backward,
       "(ys, h_n, c_n), with `save` also the gates before activation and the cells. Gates: input, forget, cell, output.", "LSTM")


# -- GRU -----------------------------------------------------------------------------------------------------------------
def _gru_gates(b: Any, inputs: Any, states: Any) -> tuple[Any, Any, Any, Any]:
    """(reset, update, new, the state's part of new)."""
    ir, iz, inew = _columns(b, inputs, 3)
    hr, hz, hnew = _columns(b, states, 3)
    r, z = b.sigmoid(b.add(ir, hr)), b.sigmoid(b.add(iz, hz))
    return r, z, b.tanh(b.add(inew, b.mul(r, hnew))), hnew


@lru_cache(maxsize=256)
def _gru_body(types: Types, save: bool) -> Graph:
    def step(b: Any, h: Any, inputs: Any, w: Any, *bias: Any) -> tuple[Any, ...]:
        states = _times_transposed(b, h, w)
        states = b.add(states, bias[0]) if bias else states
        _, z, new, _ = _gru_gates(b, inputs, states)
        h = b.add(new, b.mul(z, b.sub(h, new)))
        return (h, h, states) if save else (h, h)
    return _body("gru_step", types, step)


def _gru(b: Any, x: Any, h0: Any, w_ih: Any, w_hh: Any, *rest: Any) -> tuple[Any, ...]:
    *bias, reverse, save = rest
    inputs = _project(b, x, w_ih, bias[0] if bias else None)
    constants = (w_hh, *bias[1:])
    body = _gru_body((_type(h0), _slice_type(inputs), *[_type(c) for c in constants]), save)
    last, ys, *states = _scan(b, body, (h0,), (inputs,), constants, reverse)
    return (ys, last, inputs, *states) if save else (ys, last)


@lru_cache(maxsize=256)
def _gru_backward_body(types: Types, have: tuple[int, ...]) -> Graph:
    def step(b: Any, dh: Any, inputs: Any, states: Any, before: Any, *rest: Any) -> tuple[Any, ...]:
        *sequence, w = rest
        extra = dict(zip(have, sequence, strict=True))
        r, z, new, hnew = _gru_gates(b, inputs, states)
        dh = b.add(dh, extra[0]) if 0 in extra else dh
        dnew = b.mul(b.mul(dh, b.sub(1.0, z)), b.sub(1.0, b.mul(new, new)))
        dz = b.mul(b.mul(dh, b.sub(before, new)), b.mul(z, b.sub(1.0, z)))
        dr = b.mul(b.mul(dnew, hnew), b.mul(r, b.sub(1.0, r)))
        d_inputs, d_states = b.cat(dr, dz, dnew, dim=1), b.cat(dr, dz, b.mul(dnew, r), dim=1)
        d_inputs = b.add(d_inputs, extra[2]) if 2 in extra else d_inputs
        d_states = b.add(d_states, extra[3]) if 3 in extra else d_states
        return b.add(b.mul(dh, z), b.matmul(d_states, w)), d_inputs, d_states
    return _body("gru_step_backward", types, step)


def _gru_backward(b: Any, *args: Any) -> tuple[Any, ...]:
    *args_, reverse, biased, given = args
    (x, h0, w_ih, w_hh, ys, inputs, states), grads = _sort_gradients((*args_, given), 7)
    have, extra = _sequence(grads, 0, 2, 3)
    before = _before(b, h0, ys, reverse)
    sequences = (inputs, states, before, *extra)
    body = _gru_backward_body((_type(h0), *[_slice_type(s) for s in sequences], _type(w_hh)), have)
    dh, d_inputs, d_states = _scan(b, body, (_state_gradient(b, grads, 1, h0),), sequences, (w_hh,), not reverse)
    return (dh, *_parameter_gradients(b, d_inputs, d_states, x, w_ih, before, biased))


_layer("gru_layer", 3, ("h0",), (3, 3), _gru, _gru_backward,
       "(ys, h_n), with `save` also the products of the input and of the state. Gates: reset, update, new.", "GRU")
