"""Recurrent layers and cells, with PyTorch's parameter names and gate order."""
from __future__ import annotations

import math
import numbers
import warnings
from functools import partial
from typing import Any

import treadle
from treadle.nn import functional as F
from treadle.nn import init
from treadle.nn.module import Module
from treadle.nn.parameter import Parameter
from treadle.nn.utils.rnn import PackedSequence, PaddedRows
from treadle.runtime.recorder import STATE
from treadle.tensor import Tensor

# Packed sequences are padded if that makes at most so many times more steps of them: then their lengths make no difference to the program.
MOST_PADDING = 3
_GATES = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1}


def _check_settings(input_size: Any, hidden_size: Any, num_layers: int, bias: Any, batch_first: Any, dropout: Any) -> None:
    if not isinstance(dropout, numbers.Number) or isinstance(dropout, bool) or not 0 <= dropout <= 1:  # type: ignore[operator]
        raise ValueError("dropout should be a number in range [0, 1] representing the probability of an element being zeroed")
    if dropout > 0 and num_layers == 1:  # type: ignore[operator]
        warnings.warn("dropout option adds dropout after all but last recurrent layer, so non-zero dropout expects "
                      f"num_layers greater than 1, but got dropout={dropout} and num_layers={num_layers}", stacklevel=4)
    for name, value, kind in (("bias", bias, bool), ("batch_first", batch_first, bool), ("input_size", input_size, int),
                              ("hidden_size", hidden_size, int)):
        if not isinstance(value, kind):
            raise TypeError(f"{name} should be of type {kind.__name__}, got: {type(value).__name__}")
    for name, value in (("input_size", input_size), ("hidden_size", hidden_size), ("num_layers", num_layers)):
        if value <= 0:
            raise ValueError(f"{name} must be greater than zero")


class RNNBase(Module):
    """What RNN, LSTM and GRU share: parameters, checks, and the walk over layers and directions.

    Input (T, N, I), (N, T, I) if `batch_first`, (T, I) unbatched, or a PackedSequence, which gives one.
    """

    def __init__(self, mode: str, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, batch_first: bool = False,
                 dropout: float = 0.0, bidirectional: bool = False, proj_size: int = 0, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        _check_settings(input_size, hidden_size, num_layers, bias, batch_first, dropout)
        if proj_size < 0:
            raise ValueError("proj_size should be a positive integer or zero to disable projections")
        if proj_size >= hidden_size:
            raise ValueError("proj_size has to be smaller than hidden_size")
        if mode not in _GATES:
            raise ValueError("Unrecognized RNN mode: " + mode)
        self.mode = mode
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = float(dropout)
        self.bidirectional = bidirectional
        self.proj_size = proj_size
        self._all_weights: list[list[str]] = []
        directions = 2 if bidirectional else 1
        for layer in range(num_layers):
            for direction in range(directions):
                width = input_size if layer == 0 else (proj_size or hidden_size) * directions
                self._add_weights(width, f"l{layer}{'_reverse' if direction else ''}", device, dtype)
        self.reset_parameters()

    def _add_weights(self, width: int, suffix: str, device: Any, dtype: Any) -> None:
        gates = _GATES[self.mode] * self.hidden_size
        shapes: dict[str, tuple[int, ...]] = {f"weight_ih_{suffix}": (gates, width),
                                              f"weight_hh_{suffix}": (gates, self.proj_size or self.hidden_size)}
        if self.bias:
            shapes |= {f"bias_ih_{suffix}": (gates,), f"bias_hh_{suffix}": (gates,)}
        if self.proj_size:
            shapes[f"weight_hr_{suffix}"] = (self.proj_size, self.hidden_size)
        for name, shape in shapes.items():
            setattr(self, name, Parameter(treadle.empty(shape, device=device, dtype=dtype)))
        self._all_weights.append(list(shapes))

    @property
    def all_weights(self) -> list[list[Parameter]]:
        """The parameters of each layer and direction."""
        return [[getattr(self, name) for name in names] for names in self._all_weights]

    def flatten_parameters(self) -> None:
        """Kept for compatibility: there is no flat weight buffer to rebuild."""

    def reset_parameters(self) -> None:
        """Draw every parameter uniformly from +-1 / sqrt(hidden_size)."""
        bound = 1.0 / math.sqrt(self.hidden_size) if self.hidden_size > 0 else 0
        for weight in self.parameters():
            init.uniform_(weight, -bound, bound)

    def check_input(self, input: Tensor) -> None:
        """ValueError for a dtype unlike the weights', RuntimeError for a wrong number of dimensions or features."""
        dtype = self.weight_ih_l0.dtype
        if input.dtype != dtype and STATE.here.autocast is None:
            raise ValueError(f"RNN input dtype ({input.dtype}) does not match weight dtype ({dtype}). "
                             f"Convert input: input.to({dtype}), or convert model: model.to({input.dtype})")
        if input.dim() != 3:
            raise RuntimeError(f"input must have 3 dimensions, got {input.dim()}")
        if self.input_size != input.size(-1):
            raise RuntimeError(f"input.size(-1) must be equal to input_size. Expected {self.input_size}, got {input.size(-1)}")

    def check_hidden_size(self, hx: Tensor, expected_hidden_size: tuple[int, int, int],
                          msg: str = "Expected hidden size {}, got {}") -> None:
        if tuple(hx.shape) != expected_hidden_size:
            raise RuntimeError(msg.format(expected_hidden_size, list(hx.shape)))

    def _batched(self, input: Tensor, states: list[Tensor] | None) -> tuple[Tensor, list[Tensor] | None]:
        """Input as (T, N, I) and states as (layers * directions, N, H)."""
        kind = "RNN" if self.mode.startswith("RNN") else self.mode
        if input.dim() not in (2, 3):
            noun = "tensor instead" if kind == "RNN" else "instead"
            raise ValueError(f"{kind}: Expected input to be 2D or 3D, got {input.dim()}D {noun}")
        for state in states or ():
            self._check_state_dim(input, state, states or [])
        if input.dim() == 2:
            return input.unsqueeze(1), None if states is None else [s.unsqueeze(1) for s in states]
        return input.transpose(0, 1) if self.batch_first else input, states

    def _check_state_dim(self, input: Tensor, state: Tensor, states: list[Tensor]) -> None:
        if state.dim() == input.dim():
            return
        kind = "unbatched" if input.dim() == 2 else "batched"
        if self.mode == "LSTM":
            raise RuntimeError(f"For {kind} {input.dim()}-D input, hx and cx should also be {input.dim()}-D but got "
                               f"({states[0].dim()}-D, {states[1].dim()}-D) tensors")
        raise RuntimeError(f"For {kind} {input.dim()}-D input, hx should also be {input.dim()}-D but got {state.dim()}-D tensor")

    def _run(self, input: Any, states: list[Tensor] | None) -> tuple[Any, list[Tensor]]:
        """The output and the last states (h, and c for LSTM), shaped as the caller's input was."""
        if isinstance(input, PackedSequence):
            return self._run_packed(input, states)
        batched = input.dim() == 3
        x, states = self._batched(input, states)
        self.check_input(x)
        directions = 2 if self.bidirectional else 1
        expected = self._state_shapes(directions, x.size(1))
        if states is None:
            states = [treadle.zeros(shape, dtype=x.dtype, device=x.device) for shape in expected]
        else:
            names = ("hidden[0]", "hidden[1]") if self.mode == "LSTM" else ("hidden",)
            for name, state, shape in zip(names, states, expected, strict=True):
                self.check_hidden_size(state, shape, "Expected " + name + " size {}, got {}")
        x, last = self._layers(x, states, directions)
        finals = [treadle.stack(parts) for parts in last]
        if not batched:
            return x.squeeze(1), [s.squeeze(1) for s in finals]
        return x.transpose(0, 1) if self.batch_first else x, finals

    def _state_shapes(self, directions: int, batch: int) -> list[tuple[int, int, int]]:
        """Of h, and of c for LSTM."""
        lead = (self.num_layers * directions, batch)
        return [(*lead, self.proj_size or self.hidden_size), *([(*lead, self.hidden_size)] if self.mode == "LSTM" else [])]

    def _run_packed(self, input: PackedSequence, states: list[Tensor] | None) -> tuple[PackedSequence, list[Tensor]]:
        """`_run` of a PackedSequence: output packed alike, states in the caller's order."""
        x = input.data
        if x.dim() != 2 or x.size(-1) != self.input_size:
            raise RuntimeError(f"input.size(-1) must be equal to input_size. Expected {self.input_size}, got {x.size(-1)}")
        sizes = [int(n) for n in input.batch_sizes.tolist()]
        if not sizes or sizes[-1] < 1 or sizes != sorted(sizes, reverse=True) or sum(sizes) != x.size(0):
            raise RuntimeError(f"{type(self).__name__}: expected batch_sizes of a PackedSequence to be positive, in decreasing order, and "
                               f"as many in all as data has rows, but got {sizes} for data of shape {list(x.shape)}")
        directions = 2 if self.bidirectional else 1
        expected = self._state_shapes(directions, sizes[0])
        if states is None:
            states = [treadle.zeros(shape, dtype=x.dtype, device=x.device) for shape in expected]
        for state, shape in zip(states, expected, strict=True):
            self.check_hidden_size(state, shape)
        if input.sorted_indices is not None:
            states = [s.index_select(1, input.sorted_indices) for s in states]
        if self.mode != "RNN_RELU" and len(sizes) * sizes[0] <= MOST_PADDING * sum(sizes):  # what grows may overflow behind the end
            rows = PaddedRows(sizes, x.device)
            x, last = self._layers(rows.padded(x), states, directions, rows=rows)
            x = rows.packed(x)
        else:
            x, last = self._layers(x, states, directions, sizes)
        finals = [treadle.stack(parts) for parts in last]
        if input.unsorted_indices is not None:
            finals = [s.index_select(1, input.unsorted_indices) for s in finals]
        return input._replace(data=x), finals

    def _layers(self, x: Tensor, states: list[Tensor], directions: int, sizes: list[int] | None = None,
                rows: PaddedRows | None = None) -> tuple[Tensor, list[list[Tensor]]]:
        """All of them on (T, N, I), of which `rows` are sequences, or on packed rows, of which `sizes` are steps."""
        ends = None if rows is None else rows.ends
        last: list[list[Tensor]] = [[] for _ in states]
        for layer in range(self.num_layers):
            outputs = []
            for direction in range(directions):
                place = layer * directions + direction
                weights = [getattr(self, name) for name in self._all_weights[place]]
                bias = weights[2:4] if self.bias else [None, None]
                c0 = states[1][place] if self.mode == "LSTM" else None
                turn = rows.turned if rows is not None and direction == 1 else None  # backwards from each one's end
                reverse = direction == 1 and turn is None
                inner, h0, matrices = x if turn is None else turn(x), states[0][place], weights[:2]
                if self.proj_size:
                    inner, h0, matrices = _unprojected(inner, h0, weights, reverse, sizes)
                given = (self.mode, inner, h0, c0, *matrices, bias[0], bias[1], reverse)
                run = partial(F._rnn_layer, ends=ends) if sizes is None else partial(F._packed_rnn_layer, sizes=sizes)
                y, h, c = run(*given)
                if self.proj_size:
                    y, h = F.linear(y, weights[-1]), F.linear(h, weights[-1])
                outputs.append(y if turn is None else turn(y))
                for parts, value in zip(last, (h, c), strict=False):
                    parts.append(value)  # type: ignore[arg-type]
            x = outputs[0] if directions == 1 else treadle.cat(outputs, -1)
            if self.dropout and layer < self.num_layers - 1:
                x = F.dropout(x, self.dropout, self.training)
        return x, last

    def extra_repr(self) -> str:
        text = f"{self.input_size}, {self.hidden_size}"
        shown = (("proj_size", 0), ("num_layers", 1), ("bias", True), ("batch_first", False), ("dropout", 0), ("bidirectional", False))
        return text + "".join(f", {name}={getattr(self, name)}" for name, usual in shown if getattr(self, name) != usual)


def _unprojected(x: Tensor, h0: Tensor, weights: list[Tensor], reverse: bool,
                 sizes: list[int] | None) -> tuple[Tensor, Tensor, list[Tensor]]:
    """A layer with projected states W_hr h as one without: its recurrent matrix is W_hh W_hr, and what the given state adds to the
    gates of the first step comes in as further features of the input."""
    w_ih, w_hh, w_hr = weights[0], weights[1], weights[-1]
    first = treadle.zeros((*x.shape[:-1], h0.size(-1)), dtype=x.dtype, device=x.device)
    if sizes is None:
        first = treadle.select_scatter(first, h0, 0, x.size(0) - 1 if reverse else 0)
    else:  # sequence n starts at row n, or runs from its last step, whose row is the start of that step plus n
        starts = [sum(sizes[:t]) for t in range(len(sizes))]
        ends = [max(t for t, count in enumerate(sizes) if count > n) for n in range(sizes[0])]
        rows = [starts[t] + n for n, t in enumerate(ends)] if reverse else list(range(sizes[0]))
        first = first.index_copy(0, treadle.tensor(rows, device=x.device), h0)
    nothing = treadle.zeros((h0.size(0), w_hr.size(1)), dtype=x.dtype, device=x.device)
    return treadle.cat([x, first], -1), nothing, [treadle.cat([w_ih, w_hh], 1), w_hh @ w_hr]


class RNN(RNNBase):
    """h = tanh(W_ih x + b_ih + W_hh h + b_hh) per step, or relu."""

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, nonlinearity: str = "tanh", bias: bool = True,
                 batch_first: bool = False, dropout: float = 0.0, bidirectional: bool = False, device: Any = None, dtype: Any = None,
                 **kwargs: Any) -> None:
        _no_projection(kwargs)
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"Unknown nonlinearity '{nonlinearity}'. Select from 'tanh' or 'relu'.")
        super().__init__("RNN_" + nonlinearity.upper(), input_size, hidden_size, num_layers, bias, batch_first, dropout,
                         bidirectional, device=device, dtype=dtype)
        self.nonlinearity = nonlinearity

    def forward(self, input: Any, hx: Tensor | None = None) -> tuple[Any, Tensor]:
        """(output (T, N, D * H), h_n (D * layers, N, H)) with D directions."""
        output, (h,) = self._run(input, None if hx is None else [hx])
        return output, h


class GRU(RNNBase):
    """Gated recurrent unit; gates in the order reset, update, new."""

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, batch_first: bool = False,
                 dropout: float = 0.0, bidirectional: bool = False, device: Any = None, dtype: Any = None, **kwargs: Any) -> None:
        _no_projection(kwargs)
        super().__init__("GRU", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device=device, dtype=dtype)

    def forward(self, input: Any, hx: Tensor | None = None) -> tuple[Any, Tensor]:
        """(output (T, N, D * H), h_n (D * layers, N, H)) with D directions."""
        output, (h,) = self._run(input, None if hx is None else [hx])
        return output, h


def _no_projection(kwargs: dict[str, Any]) -> None:
    if "proj_size" in kwargs:
        raise ValueError("proj_size argument is only supported for LSTM, not RNN or GRU")
    if kwargs:
        raise TypeError(f"RNNBase.__init__() got an unexpected keyword argument '{next(iter(kwargs))}'")


class LSTM(RNNBase):
    """Long short-term memory; gates in the order input, forget, cell, output."""

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, batch_first: bool = False,
                 dropout: float = 0.0, bidirectional: bool = False, proj_size: int = 0, device: Any = None, dtype: Any = None) -> None:
        super().__init__("LSTM", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size, device, dtype)

    def forward(self, input: Any, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Any, tuple[Tensor, Tensor]]:
        """(output (T, N, D * H), (h_n, c_n) each (D * layers, N, H)) with D directions."""
        output, (h, c) = self._run(input, None if hx is None else list(hx))
        return output, (h, c)


class RNNCellBase(Module):
    """What the cells share: input (N, I) or (I), hidden (N, H) or (H)."""

    def __init__(self, input_size: int, hidden_size: int, bias: bool, num_chunks: int, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.bias = bias
        rows = num_chunks * hidden_size
        shapes: dict[str, tuple[int, ...]] = {"weight_ih": (rows, input_size), "weight_hh": (rows, hidden_size),
                                              "bias_ih": (rows,), "bias_hh": (rows,)}
        for name, shape in shapes.items():
            wanted = bias or name.startswith("weight")
            self.register_parameter(name, Parameter(treadle.empty(shape, device=device, dtype=dtype)) if wanted else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        bound = 1.0 / math.sqrt(self.hidden_size) if self.hidden_size > 0 else 0
        for weight in self.parameters():
            init.uniform_(weight, -bound, bound)

    def _step(self, mode: str, input: Tensor, states: tuple[Tensor, ...] | None) -> tuple[Tensor, Tensor | None]:
        self._check_dims(input, states)
        if states is None:
            shape = (*input.shape[:-1], self.hidden_size)
            states = (treadle.zeros(shape, dtype=input.dtype, device=input.device),) * 2
        self._check_sizes(input, states[0])
        projected = F.linear(input, self.weight_ih, self.bias_ih)
        return F._rnn_step(mode, projected, states[0], states[1] if mode == "LSTM" else None, self.weight_hh, self.bias_hh)

    def _check_dims(self, input: Tensor, states: tuple[Tensor, ...] | None) -> None:
        name = self._get_name()
        if input.dim() not in (1, 2):
            raise ValueError(f"{name}: Expected input to be 1D or 2D, got {input.dim()}D instead")
        for place, state in enumerate(states or ()):
            if state.dim() not in (1, 2):
                label = f"hx[{place}]" if name == "LSTMCell" else "hidden"
                raise ValueError(f"{name}: Expected {label} to be 1D or 2D, got {state.dim()}D instead")

    def _check_sizes(self, input: Tensor, hidden: Tensor) -> None:
        if input.size(-1) != self.input_size:
            raise RuntimeError(f"input has inconsistent input_size: got {input.size(-1)} expected {self.input_size}")
        if hidden.size(-1) != self.hidden_size:
            raise RuntimeError(f"hidden has inconsistent hidden_size: got {hidden.size(-1)}, expected {self.hidden_size}")
        if input.dim() == 2 and hidden.dim() == 2 and input.size(0) != hidden.size(0):
            raise RuntimeError(f"Input batch size {input.size(0)} doesn't match hidden batch size {hidden.size(0)}")

    def extra_repr(self) -> str:
        text = f"{self.input_size}, {self.hidden_size}"
        text += f", bias={self.bias}" if self.bias is not True else ""
        nonlinearity = self.__dict__.get("nonlinearity", "tanh")
        return text + (f", nonlinearity={nonlinearity}" if nonlinearity != "tanh" else "")


class RNNCell(RNNCellBase):
    """One step of RNN."""

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, nonlinearity: str = "tanh", device: Any = None,
                 dtype: Any = None) -> None:
        super().__init__(input_size, hidden_size, bias, 1, device, dtype)
        self.nonlinearity = nonlinearity

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        if self.nonlinearity not in ("tanh", "relu"):
            raise RuntimeError(f"Unknown nonlinearity: {self.nonlinearity}")
        return self._step("RNN_" + self.nonlinearity.upper(), input, None if hx is None else (hx,))[0]


class LSTMCell(RNNCellBase):
    """One step of LSTM: (new h, new c)."""

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None) -> None:
        super().__init__(input_size, hidden_size, bias, 4, device, dtype)

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        h, c = self._step("LSTM", input, hx)
        assert c is not None
        return h, c


class GRUCell(RNNCellBase):
    """One step of GRU."""

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None) -> None:
        super().__init__(input_size, hidden_size, bias, 3, device, dtype)

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        return self._step("GRU", input, None if hx is None else (hx,))[0]
