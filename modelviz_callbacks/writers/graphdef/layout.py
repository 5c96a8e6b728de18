"""Where each node of a graph stands in TensorBoard: its full name there.

TensorBoard draws a box for every part of a name before a slash, so a name is a place. A name
is the model graph's own wherever that works on the page. Five things change it:

- characters and words that break the page;
- boxes with too many children, which become unreadable at 200 in a row and blank at 2000: those
  are gathered, in order of execution, the steps of a loop each in a box of its own
  (``loop 0-29/step 4``), the others into boxes such as ``layers/Block 0-9`` or ``steps 40-79``
  (plain ASCII, so that they can be typed into the search);
- containers that would hide the wiring, and wrappers around nearly everything (see
  ``containers``), are no boxes: ``downs.0`` stands where ``downs/0`` would, and what is in a
  wrapper in a wrapper is named after the inner one alone, as the page cuts long names; so an op of
  a wrapper's own has only its own name, unless another one beside it has the same;
- inputs and outputs of one structure are gathered in a box (``past_key_values 0-23``);
- an input gets a box of its name (``x/Input``): the name of an oval is written small across the
  arrow that leaves it, where the shape already stands, and then neither can be read.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from modelviz_callbacks.analysis.repeats.wiring import Fold
from modelviz_callbacks.graph import ModuleCall, NameAllocator, Node, home_of
from modelviz_callbacks.graph.names import clean_part
from modelviz_callbacks.view.ends import structure_of

MOST_CHILDREN = 50
_FEWEST_OF_A_STRUCTURE = _FEWEST_STEPS = 3
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


def place(
    nodes: Iterable[Node],
    modules: Iterable[ModuleCall] = (),
    no_boxes: frozenset[str] = frozenset(),
    loops: Callable[[], Iterable[Fold]] = tuple,
) -> dict[str, str]:
    """The name in TensorBoard of every node.

    Args:
        nodes: What will be drawn, in order of execution.
        modules: The module calls that the nodes' scopes name, parents first. A scope that is
            not among them becomes a box of that name.
        no_boxes: The calls among them whose children stand in the box around them.
        loops: Finds what repeats; in a full box the steps of a loop stand together. Not asked
            where no box is full.

    Returns:
        Names by the nodes' own names, in the order in which the page nests them: whatever is
        in one box stands together.
    """
    allocator = NameAllocator()
    root = _Box("")
    boxes, scope_names = {"": root}, {"": ""}
    structures: dict[str, str] = {}
    calls = _Calls(modules, no_boxes)
    nodes = tuple(nodes)
    labels = Counter((calls.box_of(node.scope), node.label) for node in nodes)
    for node in nodes:
        scope = calls.box_of(node.scope)
        if scope not in boxes:
            _open_scopes(scope, calls, allocator, boxes, scope_names)
        is_alone = labels[scope, node.label] == 1
        label = node.label if is_alone else calls.within(node.scope, node.label)
        label = _allocate(allocator, scope_names[scope], label)
        boxes[scope].children.append(_Box(label, node.kind, node.name))
        if node.kind in ("input", "output"):
            structures[boxes[scope].children[-1].key] = structure_of(node.path or "")
    root.children = _structures_together(root.children, structures, allocator)
    if any(map(_is_full, [root, *boxes.values()])):
        _gather_everywhere(root, loops(), allocator)
    return dict(_walk(root))


class _Calls:
    """The module calls, of which some are no boxes."""

    def __init__(self, modules: Iterable[ModuleCall], no_boxes: frozenset[str]) -> None:
        self._by_name = {call.name: call for call in modules}
        # What stands in front of the names in a call that is no box.
        self._stems: dict[str, str] = {}
        for call in self._by_name.values():
            if call.name in no_boxes:
                around = "" if call.called else call.parent
                self._stems[call.name] = self.within(around, call.label)

    def box_of(self, scope: str) -> str:
        """The scope, or the first one around it that is a box."""
        while scope in self._stems:
            scope = self._by_name[scope].parent
        return scope

    def around(self, scope: str) -> str:
        """The box that a scope is in."""
        return self.box_of(self._by_name[scope].parent) if scope in self._by_name else ""

    def within(self, scope: str, label: str) -> str:
        """What is called so in a scope, as it is called in the box around."""
        return f"{self._stems[scope]}.{label}" if scope in self._stems else label

    def label(self, name: str) -> str:
        """A call's name in the box that it is in, also where a function called it."""
        if name not in self._by_name:
            return name
        call = self._by_name[name]
        home = home_of(self._by_name, call.parent)
        if call.is_function or name.rpartition("/")[0] == call.parent:
            return self.within(call.parent, call.label)
        if home == call.parent:
            return self.within(home, name.removeprefix(f"{home}/").replace("/", "."))
        return (name.removeprefix(f"{home}/") if home else name).replace("/", ".")


def _allocate(allocator: NameAllocator, scope: str, label: str) -> str:
    """A label that nobody has in this scope."""
    name = allocator.allocate(scope, label)
    return name[len(scope) + 1 :] if scope else name


def _join(scope: str, label: str) -> str:
    return f"{scope}/{label}" if scope else label


def _open_scopes(
    scope: str,
    calls: _Calls,
    allocator: NameAllocator,
    boxes: dict[str, _Box],
    names: dict[str, str],
) -> None:
    missing = []
    while scope not in boxes:
        missing.append(scope)
        scope = calls.around(scope)
    for inner in reversed(missing):
        box = _Box(_allocate(allocator, names[scope], calls.label(inner)), key=inner)
        names[inner] = _join(names[scope], box.label)
        boxes[scope].children.append(box)
        boxes[inner] = box
        scope = inner


def _structures_together(
    children: Sequence[_Box], structures: Mapping[str, str], allocator: NameAllocator
) -> list[_Box]:
    """The children, inputs and outputs of one structure in a box in the place of the first."""
    parts: dict[tuple[str, str], list[_Box]] = {}
    for child in children:
        if structures.get(child.key):
            parts.setdefault((child.kind, structures[child.key]), []).append(child)
    found: list[_Box] = []
    for child in children:
        within = parts.get((child.kind, structures.get(child.key, "")), [])
        if len(within) < _FEWEST_OF_A_STRUCTURE:
            found.append(child)
        elif child is within[0]:
            label = f"{clean_part(structures[child.key])} 0-{len(within) - 1}"
            found.append(_Box(_allocate(allocator, "", label), children=within))
    return found


def _is_full(box: _Box) -> bool:
    return sum(child.kind not in EMBEDDED_KINDS for child in box.children) > MOST_CHILDREN


def _gather_everywhere(root: _Box, loops: Iterable[Fold], allocator: NameAllocator) -> None:
    """Bounds the children of every box; the new boxes get labels nobody has there."""
    loops_of: dict[str, list[Fold]] = {}
    for fold in loops:
        loops_of.setdefault(fold.scope, []).append(fold)
    waiting = [(root, "")]
    while waiting:
        box, name = waiting.pop()
        if _is_full(box):
            for fold in loops_of.get(box.key, ()):
                box.children = _steps_together(box.children, fold, name, allocator)
        inner = list(box.children)
        if _is_full(box):
            box.children = _gather(inner, name, allocator)
        for child in inner:
            if child.kind == "scope":
                waiting.append((child, _join(name, child.label)))


def _steps_together(
    children: list[_Box], fold: Fold, scope: str, allocator: NameAllocator
) -> list[_Box]:
    """The children, those of a loop in a box for each step, and these in one for the loop."""
    own = {child.key: child for child in children}
    copies = [[own[name] for name in copy if name in own] for copy in fold.copies]
    if min(map(len, copies)) < 2 or fold.times < _FEWEST_STEPS:
        return children
    loop = _Box(_allocate(allocator, scope, f"loop 0-{fold.times - 1}"), key=f"{scope}/loop")
    loop.children = [
        _Box(f"step {number}", key=f"{loop.key}/{number}", children=copy)
        for number, copy in enumerate(copies)
    ]
    first, inside = copies[0][0], {id(child) for copy in copies for child in copy}
    return [
        loop if child is first else child
        for child in children
        if child is first or id(child) not in inside
    ]


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
