"""What autograd knows after a forward, as plain data: text and numbers only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

# Numbers of a node before those of its edges.
HEAD = 5


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
        sequence: Autograd's number; ops made later have higher ones, a gradient's end the
            highest there is.
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

    It is read and packed inside a training step, so the nodes are rows of numbers that name
    what many of them share; `nodes` spells them out.

    Attributes:
        roots: Where the backward begins: path of the output, node, and which of its inputs.
        numbers: Of each node that can be reached from there, the roots' first: name, sequence,
            leaf (-1: none), how many edges and gradients it takes; two numbers of each edge, and
            one of each gradient.
        names: What the nodes are called.
        specs: The descriptions of gradients.
        leaves: What gradients end at.
        saved: What nodes keep for their backward, by their places.
        repacked: How many saved tensors belong to hooks (checkpoints, offloading), which would
            have to be run to tell what they are.
        is_cut: Whether there are more nodes than are looked at; these are the last ones then.
        has_hooks: Whether hooks have replaced what is kept; known of some nodes of each kind also
            where saved tensors were not asked for.
    """

    roots: tuple[tuple[str, int, int], ...]
    numbers: list[int]
    names: list[str]
    specs: list[GradSpec]
    leaves: list[tuple[str, str]]
    saved: Mapping[int, tuple[SavedSpec, ...]] = field(default_factory=dict)
    repacked: int = 0
    is_cut: bool = False
    has_hooks: bool = False

    @cached_property
    def nodes(self) -> tuple[GradNode, ...]:
        """Every node, spelt out.

        Raises:
            ValueError: The numbers are none of nodes.
        """
        numbers, at = self.numbers, 0
        found: list[GradNode] = []
        while at < len(numbers):
            name, sequence, leaf, edges, takes = numbers[at : at + HEAD]
            ways = at + HEAD
            specs, at = ways + 2 * edges, ways + 2 * edges + takes
            if min(edges, takes) < 0 or at > len(numbers):
                raise ValueError("a node of the backward is cut off")
            found.append(
                GradNode(
                    self.names[name],
                    sequence,
                    tuple(zip(numbers[ways:specs:2], numbers[ways + 1 : specs : 2], strict=True)),
                    tuple([self.specs[spec] for spec in numbers[specs:at]]),
                    None if leaf == -1 else self.leaves[leaf],
                    self.saved.get(len(found), ()),
                )
            )
        return tuple(found)


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
    repacked = sum(record.repacked for record in records)
    found = _of_nodes(tuple(roots), nodes, repacked, any(record.is_cut for record in records))
    return replace(found, has_hooks=any(record.has_hooks for record in records))


def _of_nodes(
    roots: tuple[tuple[str, int, int], ...], nodes: list[GradNode], repacked: int, is_cut: bool
) -> BackwardRecord:
    names: dict[str, int] = {}
    specs: dict[GradSpec, int] = {}
    leaves: dict[tuple[str, str], int] = {}
    numbers: list[int] = []
    for node in nodes:
        leaf = -1 if node.leaf is None else leaves.setdefault(node.leaf, len(leaves))
        name = names.setdefault(node.name, len(names))
        numbers += (name, node.sequence, leaf, len(node.edges), len(node.takes))
        numbers += [number for edge in node.edges for number in edge]
        numbers += [specs.setdefault(spec, len(specs)) for spec in node.takes]
    saved = {place: node.saved for place, node in enumerate(nodes) if node.saved}
    return BackwardRecord(roots, numbers, [*names], [*specs], [*leaves], saved, repacked, is_cut)
