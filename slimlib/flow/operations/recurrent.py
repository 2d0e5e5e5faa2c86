"""LSTM, GRU and plain recurrent layers and cells: their hidden units slim, in all gates alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from slimlib.flow.ids import WeightRef, compact, varies
from slimlib.flow.operations.operation import Operation, Result, table
from slimlib.flow.operations.unknown import no_rule

CELLS = ("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")
LAYERS = ("lstm", "gru", "rnn_tanh", "rnn_relu")


@dataclass(frozen=True)
class Positions:
    """Where the arguments of a call are; a packed sequence has its batch sizes before the states."""

    states: int
    weights: int

    @staticmethod
    def of(op: Operation) -> Positions:
        packed = op.name in LAYERS and isinstance(op.args[1], Tensor) and op.args[1].dtype == torch.int64
        return Positions(2, 3) if packed else Positions(1, 2)

    def bias(self, op: Operation) -> bool:
        return bool(op.args[self.weights + 1])

    def directions(self, op: Operation) -> int:
        return 2 if op.args[self.weights + 5] else 1


@dataclass(frozen=True)
class Weights:
    """The weights of one layer in one direction, or of a cell: two matrices, their biases, and a projection."""

    inner: Any  # [gates * H, C]
    hidden: Any  # [gates * H, H or P]
    biases: list[Any]  # [gates * H] each
    projection: Any = None  # [P, H]


def _layers(op: Operation, given: Any) -> list[Weights]:
    """`given`: the arguments, or their ids. Layer by layer, in each its directions."""
    at = Positions.of(op)
    if op.name in CELLS:
        inner, hidden, *biases = given[at.weights :]
        return [Weights(inner, hidden, biases)]
    flat, biases = given[at.weights], 2 if at.bias(op) else 0
    each = len(flat) // (op.args[at.weights + 2] * at.directions(op))
    rows = [flat[i : i + each] for i in range(0, len(flat), each)]
    return [
        Weights(row[0], row[1], row[2 : 2 + biases], row[2 + biases] if each > 2 + biases else None) for row in rows
    ]


def recurrent(op: Operation) -> Result:
    """x [..., C] and states [..., H]; the outputs of both directions lie side by side.

    All layers and directions have one number of hidden units, since torch keeps their states in one tensor.
    """
    layers, tensors = _layers(op, op.ids), _layers(op, op.args)
    if not all(isinstance(ref, WeightRef) for layer in layers for ref in (layer.inner, layer.hidden)):
        return no_rule(op)
    entering = column = op.column(op.x, -1)
    directions = 1 if op.name in CELLS else Positions.of(op).directions(op)
    ran = []
    for first in range(0, len(layers), directions):
        now = [_layer(op, column, layers[i], tensors[i]) for i in range(first, first + directions)]
        ran.extend(now)
        column = torch.cat([out for _, out in now])
    hidden, out = ran[0]
    for other, its_out in ran[1:]:
        op.tie(other, hidden)
        op.tie(its_out, out)
    size, last = op.args[0].shape[-1], op.x.dim() - 1
    op.gives_channels(op.x, last, op.context.ties.fresh((layers[0].inner.name, 1), size))
    _states(op, hidden, out)
    _numbers(op, entering, hidden, out)
    results = [out, hidden] if op.name in CELLS else [column, out, hidden]
    made = op.out if isinstance(op.out, tuple) else (op.out,)
    return [ids.expand(tensor.shape) for ids, tensor in zip(results, made, strict=False)]


def _layer(op: Operation, arriving: Tensor, refs: Weights, tensors: Weights) -> tuple[Tensor, Tensor]:
    """The ids of the hidden units [H], and of what a layer gives out: these, or their projection [P]."""
    ties = op.context.ties

    def channels(ref: WeightRef, tensor: Tensor, dim: int) -> Tensor:
        return ties.fresh((ref.name, dim), tensor.shape[dim])

    gates = channels(refs.inner, tensors.inner, 0)
    ties.producers[refs.inner.name, 0] = None
    units = gates.view({"lstm": 4, "gru": 3}.get(op.name.removesuffix("_cell"), 1), -1)
    hidden = out = units[0]
    op.tie(units, hidden)
    op.tie(arriving, channels(refs.inner, tensors.inner, 1))
    for ids in (channels(refs.hidden, tensors.hidden, 0), *refs.biases):
        if isinstance(ids, Tensor):
            op.tie(ids, gates)
    if isinstance(refs.projection, WeightRef):
        out = channels(refs.projection, tensors.projection, 0)
        ties.producers[refs.projection.name, 0] = None
        op.tie(channels(refs.projection, tensors.projection, 1), hidden)
        if len(hidden) % len(out) == 0:  # torch knows a projection by its being smaller: the proportion stays
            op.tie(hidden.view(len(out), -1), out[:, None])
    op.tie(channels(refs.hidden, tensors.hidden, 1), out)
    return hidden, out


def _states(op: Operation, hidden: Tensor, out: Tensor) -> None:
    """The states given: what the layer gave out before, and the cells of an LSTM."""
    given = op.args[Positions.of(op).states]
    for state, ids in zip(given if isinstance(given, (tuple, list)) else [given], (out, hidden), strict=False):
        op.tie(op.column(op.data(op.context.shadow(state), state), -1), ids)


def _numbers(op: Operation, entering: Tensor, hidden: Tensor, out: Tensor) -> None:
    """The numbers that torch's modules check their arguments by, and make their first states of."""
    name = op.context.module
    if isinstance(op.context.modules[name], nn.RNNBase | nn.RNNCellBase):
        numbers = op.context.ties.numbers
        numbers[name, "input_size"], numbers[name, "hidden_size"] = entering, hidden
        if out is not hidden:
            numbers[name, "proj_size"] = out


def replayed(op: Operation, active: Callable[[Any, Any], Any]) -> tuple[Any, ...]:
    """The arguments for a run without random numbers; `active(x, ids)`: x with zeros in place of inactive channels."""
    args, at = list(op.args), Positions.of(op)
    if op.name in LAYERS:
        args[at.weights + 3] = 0.0  # dropout between the layers
    args[0] = active(args[0], op.ids[0])
    flat = list(args[at.weights]) if op.name in LAYERS else args[at.weights :]
    refs = op.ids[at.weights] if op.name in LAYERS else op.ids[at.weights :]
    flat = [active(w, _inputs(op, ref)) if isinstance(ref, WeightRef) else w for w, ref in zip(flat, refs, strict=True)]
    return (*args[: at.weights], flat, *args[at.weights + 1 :]) if op.name in LAYERS else (*args[: at.weights], *flat)


def _inputs(op: Operation, ref: WeightRef) -> Tensor:
    """The ids of a matrix's inputs, for each of its elements."""
    ties = op.context.ties
    return ties.atoms[ref.name, 1].expand(len(ties.atoms[ref.name, 0]), -1)


def pack(op: Operation) -> Result:
    """Sequences [B, T, C] or [T, B, C] <-> their steps one below the other [N, C]."""
    if any(varies(op.x, dim) for dim in range(op.x.dim() - 1)):
        return no_rule(op)
    last = compact(op.x)[(0,) * (op.x.dim() - 1)]
    return [last.expand(op.first.shape), None]


OPERATIONS = table((recurrent, " ".join((*CELLS, *LAYERS))), (pack, "_pack_padded_sequence _pad_packed_sequence"))
