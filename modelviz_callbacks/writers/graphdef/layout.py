"""Where each node of a graph stands in TensorBoard: its full name there.

TensorBoard draws a box for every part of a name before a slash, so a name is a place. A name
is the model graph's own wherever that works on the page. Three things change it:

- characters and words that break the page;
- boxes with too many children, which become unreadable at 200 in a row and blank at 2000: those
  are gathered, in order of execution, into boxes such as ``layers/Block 0-9`` or ``steps 40-79``
  (plain ASCII, so that they can be typed into the search);
- an input gets a box of its name (``x/Input``): the name of an oval is written small across the
  arrow that leaves it, where the shape already stands, and then neither can be read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from modelviz_callbacks.graph import ModuleCall, NameAllocator, Node, home_of

MOST_CHILDREN = 50
_MOST_ENDS = 10  # inputs, and likewise outputs, beside the other children of a full box

# Drawn as circles at the ops that read them, so they take no room in their box.
EMBEDDED_KINDS = frozenset({"parameter", "buffer", "constant"})

_NUMBERED = re.compile(r"^(\d+)_(\D.*?)(?:_\d+)?$")


@dataclass(eq=False, slots=True)
class _Box:
    """A scope with what is drawn in it, or (without children) one node."""

    label: str
    kind: str = "scope"
    key: str = ""
    children: list[_Box] = field(default_factory=list)


def place(nodes: Iterable[Node], modules: Iterable[ModuleCall] = ()) -> dict[str, str]:
    """The name in TensorBoard of every node.

    Args:
        nodes: What will be drawn, in order of execution.
        modules: The module calls that the nodes' scopes name, parents first. A scope that is
            not among them becomes a box of that name.

    Returns:
        Names by the nodes' own names, in the order in which the page nests them: whatever is
        in one box stands together.
    """
    allocator = NameAllocator()
    root = _Box("")
    boxes, scope_names = {"": root}, {"": ""}
    calls = {call.name: call for call in modules}
    for node in nodes:
        if node.scope not in boxes:
            _open_scopes(node.scope, calls, allocator, boxes, scope_names)
        label = _allocate(allocator, scope_names[node.scope], node.label)
        boxes[node.scope].children.append(_Box(label, node.kind, node.name))
    _gather_everywhere(root, allocator)
    return dict(_walk(root))


def _allocate(allocator: NameAllocator, scope: str, label: str) -> str:
    """A label that nobody has in this scope."""
    name = allocator.allocate(scope, label)
    return name[len(scope) + 1 :] if scope else name


def _join(scope: str, label: str) -> str:
    return f"{scope}/{label}" if scope else label


def _open_scopes(
    scope: str,
    calls: Mapping[str, ModuleCall],
    allocator: NameAllocator,
    boxes: dict[str, _Box],
    names: dict[str, str],
) -> None:
    missing = []
    while scope not in boxes:
        missing.append(scope)
        scope = calls[scope].parent if scope in calls else ""
    for inner in reversed(missing):
        wanted = _label(inner, calls) if inner in calls else inner
        box = _Box(_allocate(allocator, names[scope], wanted))
        names[inner] = _join(names[scope], box.label)
        boxes[scope].children.append(box)
        boxes[inner] = box
        scope = inner


def _label(name: str, calls: Mapping[str, ModuleCall]) -> str:
    """A call's name below the module it is an attribute of, also where a function called it."""
    call = calls[name]
    home = home_of(calls, call.parent)
    if call.is_function or home == call.parent:
        return call.label
    return name.removeprefix(f"{home}/") if home else name


def _gather_everywhere(root: _Box, allocator: NameAllocator) -> None:
    """Bounds the children of every box; the new boxes get labels nobody has there."""
    waiting = [(root, "")]
    while waiting:
        box, name = waiting.pop()
        inner = list(box.children)
        if sum(child.kind not in EMBEDDED_KINDS for child in inner) > MOST_CHILDREN:
            box.children = _gather(inner, name, allocator)
        for child in inner:
            if child.kind == "scope":
                waiting.append((child, _join(name, child.label)))


def _gather(children: Sequence[_Box], scope: str, allocator: NameAllocator) -> list[_Box]:
    """The children in groups: inputs and outputs stay outside where they are few."""
    embedded = [child for child in children if child.kind in EMBEDDED_KINDS]
    inputs = [child for child in children if child.kind == "input"]
    outputs = [child for child in children if child.kind == "output"]
    apart = EMBEDDED_KINDS | {"input", "output"}
    steps = [child for child in children if child.kind not in apart]
    inputs = _group(inputs, "inputs", _MOST_ENDS, scope, allocator)
    outputs = _group(outputs, "outputs", _MOST_ENDS, scope, allocator)
    room = MOST_CHILDREN - len(inputs) - len(outputs)
    return [*embedded, *inputs, *_group(steps, "steps", room, scope, allocator), *outputs]


def _group(
    children: list[_Box], word: str, room: int, scope: str, allocator: NameAllocator
) -> list[_Box]:
    spans = [(child, index, index) for index, child in enumerate(children)]
    while len(spans) > room:
        size = _group_size(len(spans), room)
        groups = [spans[start : start + size] for start in range(0, len(spans), size)]
        spans = [
            (_group_box(group, children, word, scope, allocator), group[0][1], group[-1][2])
            for group in groups
        ]
    return [box for box, _, _ in spans]


def _group_size(count: int, room: int) -> int:
    """Children a group, so that every level is about equally wide; a multiple of five."""
    levels = 2
    while room**levels < count:
        levels += 1
    return min(math.ceil(math.pow(count, 1 / levels) / 5) * 5, MOST_CHILDREN)


def _group_box(
    group: Sequence[tuple[_Box, int, int]],
    children: Sequence[_Box],
    word: str,
    scope: str,
    allocator: NameAllocator,
) -> _Box:
    first, last = group[0][1], group[-1][2]
    ends = [_NUMBERED.match(child.label) for child in (children[first], children[last])]
    classes = {
        match.group(2) if (match := _NUMBERED.match(child.label)) else None
        for child in children[first : last + 1]
    }
    if len(classes) == 1 and ends[0] and ends[1]:
        label = f"{ends[0].group(2)} {ends[0].group(1)}-{ends[1].group(1)}"
    else:
        label = f"{word} {first}-{last}"
    return _Box(_allocate(allocator, scope, label), children=[box for box, _, _ in group])


def _walk(root: _Box) -> Iterator[tuple[str, str]]:
    waiting = [(root, "")]
    while waiting:
        box, name = waiting.pop()
        if box.kind != "scope":
            yield box.key, f"{name}/Input" if box.kind == "input" else name
        waiting.extend((child, _join(name, child.label)) for child in reversed(box.children))
