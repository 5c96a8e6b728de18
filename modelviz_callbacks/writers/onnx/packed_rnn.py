"""Recurrent layers over packed sequences, as ONNX's own recurrent ops with sequence lengths.

See `modelviz_callbacks.writers.onnx.replacements`. A packed sequence is laid out again with one
row a sequence, padded; ONNX's ops take the length of each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

# What torch calls -> ONNX's op, its order of the gates in torch's, and its attributes.
_KINDS: dict[str, tuple[str, tuple[int, ...], dict[str, Any]]] = {
    "lstm": ("LSTM", (0, 3, 1, 2), {}),
    "gru": ("GRU", (1, 0, 2), {"linear_before_reset": 1}),
    "rnn_tanh": ("RNN", (0,), {"activation": "Tanh"}),
    "rnn_relu": ("RNN", (0,), {"activation": "Relu"}),
}


def is_packed(args: Sequence[Any]) -> bool:
    """Whether the arguments of ``torch.lstm`` and the like are those for packed sequences."""
    return (
        len(args) > 3
        and isinstance(args[1], torch.Tensor)
        and args[1].dim() == 1
        and not args[1].is_floating_point()
        and isinstance(args[3], (tuple, list))
    )


def recurrent(name: str) -> Callable[..., Any]:
    """What ``torch.lstm``, ``torch.gru``, ... give, also for packed sequences."""

    def run(*args: Any) -> Any:
        if not is_packed(args):
            if name == "lstm" and isinstance(args[1], (tuple, list)):
                hidden, cell = args[1]
                if hidden.shape[-1] != cell.shape[-1]:
                    # The table's translation forgets projections.
                    raise NotImplementedError("an LSTM with projections")
            return getattr(torch, name)(*args)
        data, sizes, state, weights, has_biases, layers, _, _, is_bidirectional = args
        return _packed(name, data, sizes, state, weights, has_biases, layers, is_bidirectional)

    return run


def _packed(
    name: str,
    data: torch.Tensor,
    sizes: torch.Tensor,
    state: Any,
    weights: Sequence[torch.Tensor],
    has_biases: bool,
    layers: int,
    is_bidirectional: bool,
) -> tuple[torch.Tensor, ...]:
    states = list(state) if isinstance(state, (tuple, list)) else [state]
    directions, per_cell = 1 + is_bidirectional, 4 if has_biases else 2
    if len(weights) != layers * directions * per_cell:
        raise NotImplementedError("an LSTM with projections")
    steps, count = sizes.shape[0], states[0].shape[1]
    starts = sizes.cumsum(0) - sizes
    column = torch.arange(count)[None, :]
    is_there = column < sizes[:, None]
    places = torch.where(is_there, starts[:, None] + column, torch.zeros_like(column))
    found = data[places.flatten()].reshape(steps, count, -1)
    lengths = is_there.sum(0).to(torch.int32)
    finals: list[list[torch.Tensor]] = [[] for _ in states]
    for layer in range(layers):
        first = layer * directions
        cells = [
            weights[(first + direction) * per_cell : (first + direction + 1) * per_cell]
            for direction in range(directions)
        ]
        given = [one[first : first + directions] for one in states]
        found, *ends = _layer(name, found, cells, lengths, given)
        for collected, end in zip(finals, ends, strict=True):
            collected.append(end)
    flat = found.reshape(steps * count, -1)
    rows = torch.arange(data.shape[0])
    step = (rows[:, None] >= (starts + sizes)[None, :]).sum(1)
    packed = flat[step * count + rows - starts[step]]
    return (packed, *(torch.cat(collected) for collected in finals))


def _layer(
    name: str,
    data: torch.Tensor,
    cells: Sequence[Sequence[torch.Tensor]],
    lengths: torch.Tensor,
    states: Sequence[torch.Tensor],
) -> list[torch.Tensor]:
    """One layer over ``data`` of shape (steps, sequences, features)."""
    op, order, extra = _KINDS[name]
    steps, count, _ = data.shape
    directions, hidden = len(cells), cells[0][1].shape[1]
    kinds = [
        torch.stack([_ordered(cell[i], order) for cell in cells]) for i in range(len(cells[0]))
    ]
    bias = torch.cat(kinds[2:], 1) if len(kinds) > 2 else None
    attributes = {
        "hidden_size": hidden,
        "direction": "bidirectional" if directions == 2 else "forward",
        **{key: value for key, value in extra.items() if key != "activation"},
    }
    if "activation" in extra:
        attributes["activations"] = [extra["activation"]] * directions
    shapes = [(steps, directions, count, hidden)] + [(directions, count, hidden)] * len(states)
    made = torch.onnx.ops.symbolic_multi_out(
        op,
        (data, kinds[0], kinds[1], bias, lengths, *states),
        attributes,
        dtypes=[data.dtype] * len(shapes),
        shapes=shapes,
    )
    outputs, *ends = made
    joined = outputs.transpose(1, 2).reshape(steps, count, directions * hidden)
    return [joined, *ends]


def _ordered(weight: torch.Tensor, order: Sequence[int]) -> torch.Tensor:
    """The gates of a weight or bias in ONNX's order."""
    if len(order) == 1:
        return weight
    gates = weight.chunk(len(order))
    return torch.cat([gates[index] for index in order])
