"""A module or an op in a few words that tell it from others: ``Linear(128 -> 10)``."""

from __future__ import annotations

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.analysis.outline import HELD_KINDS, Item
from modelviz_callbacks.graph.model import ModelGraph, Node
from modelviz_callbacks.graph.op_facts import OpFact, facts_of
from modelviz_callbacks.graph.values import Items, Ref, SliceValue, Value
from modelviz_callbacks.view.formatting import key_arguments, module_label, shape_text, short_count

# Longer texts of a literal are cut: a table of numbers belongs into the model.
_LONGEST_LITERAL = 60


class LayerLabels:
    """Words for the items of one graph.

    Args:
        analysis: The graph's.
    """

    def __init__(self, analysis: Analysis) -> None:
        self.outline = analysis.outline
        self.graph = analysis.graph
        self.weights = analysis.weights

    def name(self, item: Item) -> str:
        """What people call it: ``encoder.layer.0.fc``, ``encoder.layer.0.add``."""
        if not isinstance(item, Node):
            return module_label(self.graph, item, "")
        if not item.scope:
            return item.label
        scope = self.graph.module_by_name[item.scope]
        return f"{module_label(self.graph, scope, '')}.{item.label}"

    def label(self, item: Item, *, whole: bool = True) -> str:
        """What it is, in a few words.

        Args:
            item: A module call or an op.
            whole: Whether it is told as one thing, or only as something with things inside.

        Returns:
            ``Linear(128 -> 10)``, ``dropout(p 0.1)``, ``Block (85.1 k parameters, 14 ops)``.
        """
        nodes = list(self.outline.calls_in(item))
        title = item.op if isinstance(item, Node) else item.type_name
        if whole:
            parts = [_sizes(self.graph, node) for node in nodes]
            parts.append(key_arguments(self.graph, nodes))
            inside = ", ".join(dict.fromkeys(part for part in parts if part))
            return f"{title}({inside})" if inside else title
        count = 0 if isinstance(item, Node) else self.weights.of(item).count
        facts = [f"{short_count(count)} parameters"] if count else []
        facts.append(f"{len(nodes)} op{'s' * (len(nodes) != 1)}")
        return f"{title} ({', '.join(facts)})"


def literal_text(value: Value, digits: int = 6) -> str:
    """A literal argument as in Python, tensors as ``tensor``; long ones are cut.

    Args:
        value: The argument.
        digits: How many digits of a float are shown.
    """
    text = _literal(value, digits)
    return text if len(text) <= _LONGEST_LITERAL else f"{text[: _LONGEST_LITERAL - 1]}…"


def literal_texts(one: Value, two: Value) -> tuple[str, str]:
    """Two literal arguments that differ, with as many digits as that takes."""
    short = literal_text(one), literal_text(two)
    return short if short[0] != short[1] else (literal_text(one, 17), literal_text(two, 17))


def _literal(value: Value, digits: int) -> str:
    if isinstance(value, Ref):
        return "tensor"
    if isinstance(value, tuple):
        inside = ", ".join(_literal(item, digits) for item in value)
        return f"({inside},)" if len(value) == 1 else f"({inside})"
    if isinstance(value, SliceValue):
        ends = (value.start, value.stop, *(() if value.step is None else (value.step,)))
        return ":".join("" if end is None else _literal(end, digits) for end in ends)
    if isinstance(value, Items):
        pairs = (f"{key}: {_literal(item, digits)}" for key, item in value.items)
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, float):
        return f"{value:.{digits}g}"
    return repr(value) if isinstance(value, str) else str(value)


def _sizes(graph: ModelGraph, node: Node) -> str:
    """The sizes that an op's parameters give it; ``""`` where they say nothing more."""
    held = {
        argument.name: graph.spec(argument.value).shape or ()
        for argument in node.arguments
        if isinstance(argument.value, Ref) and graph.by_name[argument.value.node].kind in HELD_KINDS
    }
    weight = held.get("weight", ())
    facts = facts_of(node.target)
    if OpFact.LINEAR in facts and len(weight) == 2:
        return f"{weight[1]} -> {weight[0]}{_bias(node)}"
    if OpFact.CONVOLUTION in facts and len(weight) > 2:
        groups = _number(node, "groups")
        turned = OpFact.TRANSPOSED in facts
        ends = (weight[0], weight[1] * groups) if turned else (weight[1] * groups, weight[0])
        return f"{ends[0]} -> {ends[1]}{_bias(node)}"
    if OpFact.EMBEDDING in facts and len(weight) == 2:
        return f"{weight[0]} × {weight[1]}"
    if OpFact.SIZED in facts and weight:
        return "×".join(map(str, weight))
    if OpFact.RECURRENT in facts:
        return _recurrent(graph, node)
    if OpFact.ATTENTION_LAYER in facts:
        return str(held.get("in_proj_weight", ("",))[-1])
    return ""


def _bias(node: Node) -> str:
    given = [argument.value for argument in node.arguments if argument.name == "bias"]
    return "" if given and isinstance(given[0], Ref) else ", no bias"


def _number(node: Node, name: str) -> int:
    values = [argument.value for argument in node.arguments if argument.name == name]
    return values[0] if values and isinstance(values[0], int) else 1


def _recurrent(graph: ModelGraph, node: Node) -> str:
    """Input and hidden size, from the first two weights of ``weight_ih``, ``weight_hh``, ..."""
    weights = [
        graph.spec(ref).shape or ()
        for ref in node.inputs
        if graph.by_name[ref.node].kind == "parameter"
    ]
    matrices = [shape for shape in weights if len(shape) == 2]
    if len(matrices) < 2:
        return ""
    inside, hidden = matrices[0][1], matrices[1][1]
    layers = _number(node, "num_layers")
    return f"{inside} -> {hidden}{f', {layers} layers' if layers > 1 else ''}"


def tensor_words(graph: ModelGraph, ref: Ref) -> str:
    """``64×10 float32``."""
    spec = graph.spec(ref)
    return f"{shape_text(spec)} {spec.dtype}"
