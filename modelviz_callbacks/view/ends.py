"""What enters and leaves a graph, each structure as one: ``past_key_values: 12 × (key, value)``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from modelviz_callbacks.graph.model import ModelGraph, ModuleCall
from modelviz_callbacks.graph.parts import Node
from modelviz_callbacks.graph.values import Ref
from modelviz_callbacks.view.formatting import shortened
from modelviz_callbacks.view.port_names import steps_of

# More boxes of inputs or outputs than this are drawn as one.
MOST_ENDS = 6

# What a result that was given no name is called.
_ROOTS = ("out", "output")


def parameters_given(graph: ModelGraph, call: ModuleCall) -> list[Node]:
    """The parameters that a call gets as arguments: learned queries, a weight to be quantised.

    Args:
        graph: Any graph.
        call: One of its calls.
    """
    given = dict.fromkeys(port.ref.node for port in call.inputs)
    nodes = [graph.by_name[name] for name in given if name in graph.by_name]
    return [node for node in nodes if node.kind == "parameter"]


@dataclass(frozen=True, slots=True)
class End:
    """A tensor that enters or leaves.

    Attributes:
        name: Of its node, or of the box that it has alone.
        words: Where it stood: ``out.past_key_values.layers[0].keys``; its other names, too.
        ref: The tensor.
    """

    name: str
    words: str
    ref: Ref


@dataclass(frozen=True, slots=True)
class EndGroup:
    """Tensors that are told as one.

    Attributes:
        title: What they are called.
        details: Of a structure how it is made up: ``12 × (key, value)``.
        parts: The tensors, at least one.
    """

    title: str
    details: str
    parts: tuple[End, ...]


def told_ends(ends: Sequence[End], kind: str) -> list[EndGroup]:
    """Tensors that enter or leave, structures and what is too many as one.

    Args:
        ends: In their order.
        kind: ``input`` or ``output``, in case that they are only counted.

    Returns:
        Those with a name of their own before structures, otherwise in their order.
    """
    groups: dict[tuple[str, str], list[End]] = {}
    for end in ends:
        stem = structure_of(end.words)
        groups.setdefault(("of", stem) if stem else ("alone", end.name), []).append(end)
    told = []
    for (how, stem), parts in groups.items():
        if how == "of" and len(parts) > 1:
            told.append(EndGroup(stem, _made_up(parts, stem), tuple(parts)))
        else:
            told += [EndGroup(short_words(part.words), "", (part,)) for part in parts]
    told.sort(key=lambda one: len(one.parts) > 1)
    if len(told) <= MOST_ENDS:
        return told
    words = shortened([one.title for one in told], 3)
    parts = [part for one in told for part in one.parts]
    return [EndGroup(f"{len(told)} {kind}s", words, tuple(parts))]


def end_words(node: Node) -> str:
    """Every name of an input or output of a graph: ``input_ids, labels``."""
    return ", ".join((node.path or node.label, *node.aliases))


def short_words(words: str) -> str:
    """``logits`` for ``out.logits``; what has no name of its own stays as it is."""
    root, dot, rest = words.partition(".")
    if dot and root in _ROOTS and rest:
        return rest
    steps = steps_of(words)
    is_key = len(steps) == 2 and steps[0] in _ROOTS and isinstance(steps[1], str)
    return str(steps[1]) if is_key else words


def structure_of(words: str) -> str:
    """The structure that a tensor is numbered in: ``past_key_values``.

    Args:
        words: Where the tensor stood: ``out.past_key_values.layers[0].keys``.

    Returns:
        ``""`` if it is in none with a name.
    """
    steps = steps_of(words.partition(",")[0])
    if steps[:1] and steps[0] in _ROOTS:
        steps = steps[1:]
    is_numbered = any(isinstance(step, int) for step in steps[1:])
    return str(steps[0]) if is_numbered and isinstance(steps[0], str) else ""


def _made_up(parts: Sequence[End], stem: str) -> str:
    """``12 × (key, value)``, or how many there are; of a plain list the shapes say that."""
    paths = [steps_of(part.words) for part in parts]
    paths = [path[path.index(stem) + 1 :] for path in paths]
    keys: dict[tuple[str | int, ...], list[str | int]] = {}
    for path in paths:
        number = next(at for at, step in enumerate(path) if isinstance(step, int))
        rest = path[number + 1 :]
        keys.setdefault(path[: number + 1], []).append(rest[-1] if rest else "")
    kinds = {tuple(names) for names in keys.values()}
    if len(kinds) != 1:
        return f"{len(parts)} tensors"
    names = kinds.pop()
    if len(names) == 1:
        return f"{len(keys)} × {names[0]}" if isinstance(names[0], str) and names[0] else ""
    if all(isinstance(name, int) for name in names):
        return f"{len(keys)} × {len(names)} tensors"
    return f"{len(keys)} × ({', '.join(map(str, names))})"
