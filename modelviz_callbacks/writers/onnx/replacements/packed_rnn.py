"""Recurrent layers over packed sequences, as ONNX's own recurrent ops with sequence lengths.

See `modelviz_callbacks.writers.onnx.replacements.table`. A packed sequence is laid out again with
one row a sequence, padded; ONNX's ops take the length of each.
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


def pack_padded(
    input: torch.Tensor, lengths: torch.Tensor, batch_first: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """What ``torch._pack_padded_sequence`` gives: the rows that are there, step by step."""
    steps = input.transpose(0, 1) if batch_first else input
    is_there = torch.arange(steps.shape[0])[:, None] < lengths[None, :]
    rows = is_there.flatten().nonzero()[:, 0]
    sizes = is_there.sum(1)
    return steps.flatten(0, 1)[rows], sizes[(sizes > 0).nonzero()[:, 0]]


def pad_packed(
    data: torch.Tensor,
    sizes: torch.Tensor,
    batch_first: bool,
    padding_value: float,
    shape: tuple[int, ...],
) -> tuple[torch.Tensor, torch.Tensor]:
    """What ``torch._pad_packed_sequence`` gives, where the shape of that is known."""
    steps, count = shape[:2][::-1] if batch_first else shape[:2]
    is_there = torch.arange(count)[None, :] < sizes[:, None]
    if steps > sizes.shape[0]:
        more = torch.zeros((steps - sizes.shape[0], count), dtype=torch.bool)
        is_there = torch.cat([is_there, more])
    kept = is_there.flatten()
    places = torch.where(kept, kept.to(torch.int64).cumsum(0) - 1, 0)
    found = data[places].reshape(steps, count, *shape[2:])
    mask = is_there.reshape(steps, count, *[1] * (len(shape) - 2))
    padded = torch.where(mask, found, torch.full((), padding_value, dtype=data.dtype))
    return padded.transpose(0, 1) if batch_first else padded, is_there.sum(0)


# With more steps of time the file would be all one layer.
_MOST_STEPS = 200


def _projected(
    data: torch.Tensor, state: Any, weights: Sequence[torch.Tensor], *options: Any
) -> tuple[torch.Tensor, ...]:
    """An LSTM with projections, one step after the other: ONNX's has none."""
    has_biases, layers, dropout, train, is_bidirectional, batch_first = options
    if dropout and train:
        raise NotImplementedError("dropout between the layers")
    hidden, cell = state
    found = data.transpose(0, 1) if batch_first else data
    if found.shape[0] > _MOST_STEPS:
        raise NotImplementedError(f"an LSTM with projections over {found.shape[0]} steps")
    directions, per_cell = 1 + is_bidirectional, 5 if has_biases else 3
    ends: list[tuple[torch.Tensor, torch.Tensor]] = []
    for layer in range(layers):
        made = []
        for index in range(layer * directions, (layer + 1) * directions):
            own = weights[index * per_cell : (index + 1) * per_cell]
            is_back = index % directions == 1
            rows = found.flip(0) if is_back else found
            steps, *end = _steps_of(rows, own, hidden[index], cell[index])
            made.append(steps.flip(0) if is_back else steps)
            ends.append((end[0], end[1]))
        found = torch.cat(made, -1)
    last = [torch.stack(list(column)) for column in zip(*ends, strict=True)]
    return (found.transpose(0, 1) if batch_first else found, *last)


def _steps_of(
    data: torch.Tensor, weights: Sequence[torch.Tensor], h: torch.Tensor, c: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The outputs of all steps of one cell, and its last state."""
    into, back, *biases, project = weights
    outputs = []
    for x in data.unbind(0):
        gates = x @ into.t() + h @ back.t() + sum(biases)
        i, f, g, o = gates.chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = (torch.sigmoid(o) * torch.tanh(c)) @ project.t()
        outputs.append(h)
    return torch.stack(outputs), h, c


def recurrent(name: str) -> Callable[..., Any]:
    """What ``torch.lstm``, ``torch.gru``, ... give, also for packed sequences."""

    def run(*args: Any) -> Any:
        if not is_packed(args):
            if name == "lstm" and isinstance(args[1], (tuple, list)):
                hidden, cell = args[1]
                if hidden.shape[-1] != cell.shape[-1]:
                    return _projected(*args)  # the table's translation forgets projections
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
