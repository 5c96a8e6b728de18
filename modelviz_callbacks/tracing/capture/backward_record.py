"""What autograd knows after a forward, as plain data: text and numbers only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class GradSpec(NamedTuple):
    """A gradient by its description; the shape is ``None`` for a nested tensor."""

    shape: tuple[int, ...] | None
    dtype: str
    device: str


class SavedSpec(NamedTuple):
    """A tensor that a node keeps for its backward.

    Attributes:
        name: What the node calls it: ``input``, ``weight``, ``result``.
        spec: Its description.
        memory: A number equal for those that are the same view of the same memory.
        path: Its qualified name, where it is a parameter or buffer; else ``""``.
    """

    name: str
    spec: GradSpec
    memory: int
    path: str


class GradNode(NamedTuple):
    """One node of autograd's graph.

    Attributes:
        name: As autograd has it: ``AddmmBackward0``, ``torch::autograd::AccumulateGrad``.
        sequence: Autograd's number; ops made later have higher ones.
        edges: Where its gradients go: the node, by its place in the record (-1: nowhere), and
            which of that node's inputs.
        takes: The gradients that it takes, one for each output of the forward op.
        leaf: For a node that a gradient ends at: ``parameter``, ``buffer``, ``input`` or
            ``constant``, and its path; ``None`` for the others.
        saved: What it keeps for its backward, if that was asked for.
    """

    name: str
    sequence: int
    edges: tuple[tuple[int, int], ...]
    takes: tuple[GradSpec, ...]
    leaf: tuple[str, str] | None = None
    saved: tuple[SavedSpec, ...] = ()


@dataclass(frozen=True)
class BackwardRecord:
    """What autograd knew after a forward: text and numbers only.

    Attributes:
        roots: Where the backward begins: path of the output, node, and which of its inputs.
        nodes: Every node that can be reached from there, the roots' first.
        repacked: How many saved tensors belong to hooks (checkpoints, offloading), which would
            have to be run to tell what they are.
        is_cut: Whether there are more nodes than are looked at; these are the last ones then.
    """

    roots: tuple[tuple[str, int, int], ...]
    nodes: tuple[GradNode, ...]
    repacked: int = 0
    is_cut: bool = False


def joined(records: Sequence[BackwardRecord]) -> BackwardRecord | None:
    """Several backwards as one record; ``None`` of none."""
    if len(records) <= 1:
        return records[0] if records else None
    roots: list[tuple[str, int, int]] = []
    nodes: list[GradNode] = []
    for record in records:
        start = len(nodes)
        roots += [(path, start + place, number) for path, place, number in record.roots]
        for node in record.nodes:
            edges = [(place if place < 0 else start + place, n) for place, n in node.edges]
            nodes.append(node._replace(edges=tuple(edges)))
    return BackwardRecord(
        tuple(roots),
        tuple(nodes),
        sum(record.repacked for record in records),
        any(record.is_cut for record in records),
    )
