"""Inputs that a model reads and its exported file does not: they have become constants."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import onnx
import torch

from modelviz_callbacks.writers.onnx.probe_inputs import Tensors


def constant_inputs(
    path: Path, inputs: Tensors, reference: Callable[[Tensors], Tensors]
) -> list[str]:
    """The names of the inputs that have become constants.

    Args:
        path: The file, whose inputs are in the order of ``inputs``.
        inputs: What the model was tried with.
        reference: Runs the model.

    Returns:
        Those that nothing in the file reads, though with other values of theirs the model gives
        something else.
    """
    graph = onnx.load(path, load_external_data=False).graph
    read = set(_read_in(graph))
    names = [value.name for value in graph.input]
    unread = [place for place, name in enumerate(names[: len(inputs)]) if name not in read]
    expected = reference(_cloned(inputs)) if unread else ()
    found = []
    for place in unread:
        changed = list(_cloned(inputs))
        changed[place] = _otherwise(changed[place])
        try:
            same = all(map(_equal, expected, reference(tuple(changed))))
        except Exception:
            continue  # the model does not take such values, which says nothing of the file
        if not same:
            found.append(names[place])
    return found


def _cloned(inputs: Tensors) -> Tensors:
    return tuple(tensor.clone() for tensor in inputs)


def _read_in(graph: onnx.GraphProto) -> Iterable[str]:
    """The names that a graph and those within it read."""
    yield from (value.name for value in graph.output)
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _read_in(inner)


def _otherwise(tensor: torch.Tensor) -> torch.Tensor:
    """Other values, of the kind of those that were there."""
    if tensor.is_floating_point() or tensor.is_complex():
        return tensor * 1.5 + 0.25
    turned = tensor.flip(tuple(range(tensor.ndim)))
    if not torch.equal(turned, tensor):
        return turned
    return ~tensor if tensor.dtype == torch.bool else tensor.clamp(max=0)


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one.nan_to_num(), other.nan_to_num())
