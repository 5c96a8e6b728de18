"""What a ``GraphDef`` must keep for TensorBoard's graph dashboard to show it well.

Each rule is something that was seen to break the page, or to make it unreadable.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator

from tensorboard.compat.proto.graph_pb2 import GraphDef

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.graph import ModelGraph, home_of
from modelviz_callbacks.graph.names import clean_part
from modelviz_callbacks.writers.graphdef.containers import seen_through

MOST_CHILDREN = 100
MOST_AT_TOP = 50
LONGEST_ATTRIBUTE = 200

_OBJECT_PROTOTYPE = {
    "__defineGetter__",
    "__defineSetter__",
    "__lookupGetter__",
    "__lookupSetter__",
    "__proto__",
    "constructor",
    "hasOwnProperty",
    "isPrototypeOf",
    "propertyIsEnumerable",
    "toLocaleString",
    "toString",
    "valueOf",
}
_GROUP = re.compile(r"(\D.* \d+-\d+|step \d+)(_\d+)?")


def violations(graph_def: GraphDef, graph: ModelGraph | None = None) -> list[str]:
    """Every broken rule as a sentence; with the model graph, also what is missing of it."""
    found = [text for rule in _RULES for text in rule(graph_def)]
    return found if graph is None else found + list(_missing(graph_def, graph))


def model_name(name: str) -> str:
    """A name without the boxes that only gather others, and without an input's own box."""
    *scopes, label = name.removesuffix("/Input").split("/")
    return "/".join([part for part in scopes if not _GROUP.fullmatch(part)] + [label])


def _names_by_place(graph: ModelGraph) -> dict[str, str]:
    """Names of nodes by the boxes around them, functions among these."""
    places = {"": ""}
    no_boxes = seen_through(Analysis.of(graph))
    for call in graph.modules:
        around = places[call.parent]
        # A container that is no scope, as a function calls what is in it, is a part of the label.
        home = home_of(graph.module_by_name, call.parent)
        is_called = home != call.parent and not call.is_function
        label = call.name.removeprefix(f"{home}/") if is_called else call.label
        label = clean_part(label.replace("/", "."))
        joint = "." if call.parent in no_boxes else "/"
        places[call.name] = f"{around}{joint}{label}" if around else label
        if call.name in no_boxes and call.called:
            places[call.name] = label  # Of wrappers in each other the names tell the innermost.
    names: dict[str, str] = {}
    labels = Counter(node.label for node in graph.nodes if not node.scope or node.scope in no_boxes)
    for node in graph.nodes:
        is_wrapped = node.scope in no_boxes
        if not node.scope or (is_wrapped and labels[node.label] == 1):
            names[node.label] = node.name
        else:
            names[f"{places[node.scope]}{'.' if is_wrapped else '/'}{node.label}"] = node.name
    return names


def _names(graph_def: GraphDef) -> Iterator[str]:
    if not graph_def.node:
        yield "the graph is empty"
    for name, count in Counter(node.name for node in graph_def.node).items():
        parts = name.split("/")
        if count > 1:
            yield f"{count} nodes are called {name!r}"
        if "" in parts:
            yield f"{name!r} has an empty part"
        if re.search(r"[:^\"'\\\x00-\x1f]", name):
            yield f"{name!r} has a character with a meaning of its own"
        if parts[0] in _OBJECT_PROTOTYPE or parts[0] == "__root__":
            yield f"{name!r} breaks the page"


def _constants(graph_def: GraphDef) -> Iterator[str]:
    scopes = {
        node.name[:end]
        for node in graph_def.node
        for end in range(len(node.name))
        if node.name[end] == "/"
    }
    for node in graph_def.node:
        if "Const" in node.op and node.name in scopes:
            yield f"the circle {node.name!r} is named like a box"


def _inputs(graph_def: GraphDef) -> Iterator[str]:
    outputs = {node.name: len(node.attr["_output_shapes"].list.shape) for node in graph_def.node}
    for node in graph_def.node:
        for entry in node.input:
            name, _, number = entry.partition(":")
            if name not in outputs:
                yield f"{node.name!r} reads {name!r}, which does not exist"
            elif number and not 0 < int(number) < outputs[name]:
                yield f"{node.name!r} reads output {number} of {name!r}, which has none"


def _children(graph_def: GraphDef) -> Iterator[str]:
    drawn: dict[str, set[str]] = defaultdict(set)
    for node in graph_def.node:
        if "Const" not in node.op:
            parts = node.name.split("/")
            for depth, part in enumerate(parts):
                drawn["/".join(parts[:depth])].add(part)
    for scope, children in drawn.items():
        if len(children) > (MOST_CHILDREN if scope else MOST_AT_TOP):
            yield f"{scope!r} has {len(children)} children"
    if len(drawn[""]) == 1 and len(drawn) > 1:
        yield "one box holds everything, so all colours on the numeric scales are pale"


def _attributes(graph_def: GraphDef) -> Iterator[str]:
    for node in graph_def.node:
        for key, value in node.attr.items():
            if not key.isascii() or not value.s.isascii():
                yield f"{node.name!r} has an attribute {key!r} that is not ASCII"
            if len(value.s) > LONGEST_ATTRIBUTE or len(key) > LONGEST_ATTRIBUTE:
                yield f"{node.name!r} has an attribute {key[:20]!r} of {len(value.s)} bytes"


def _drawn_fields(graph_def: GraphDef) -> Iterator[str]:
    for node in graph_def.node:
        if not re.fullmatch(r"/device:[^:]+:[0-9]+", node.device):
            yield f"{node.name!r} has the device {node.device!r}, which is not listed"
        if re.search("NoOp|Summary$", node.op):
            yield f"{node.name!r} has the type {node.op!r}, which is drawn at the side"


def _missing(graph_def: GraphDef, graph: ModelGraph) -> Iterator[str]:
    names = _names_by_place(graph)
    of_model = {node.name: names.get(model_name(node.name), node.name) for node in graph_def.node}
    shown = Counter(of_model.values())
    for node in graph.nodes:
        if shown[node.name] != 1:
            yield f"{node.name!r} is shown {shown[node.name]} times"
    if len(graph_def.node) != len(graph.nodes):
        yield f"{len(graph_def.node)} nodes are shown, the graph has {len(graph.nodes)}"
    circles = {"parameter", "buffer", "constant"}
    kinds = {node.name: node.kind for node in graph.nodes}
    for shown_node in graph_def.node:
        kind = kinds.get(of_model[shown_node.name])
        if ("Const" in shown_node.op) != (kind in circles):
            yield f"{shown_node.name!r} is a {kind} and has the type {shown_node.op!r}"


_RULES: tuple[Callable[[GraphDef], Iterator[str]], ...] = (
    _names,
    _constants,
    _inputs,
    _children,
    _attributes,
    _drawn_fields,
)
