"""How shapes, counts, names and arguments are put into words, the same in every output."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from modelviz_callbacks.analysis.repeats.variation import NUMBER, Variation
from modelviz_callbacks.analysis.repeats.wiring import Fold
from modelviz_callbacks.graph.functions import home_of
from modelviz_callbacks.graph.model import ModelGraph, ModuleCall, Node
from modelviz_callbacks.graph.op_facts import OpFact, facts_of, torch_name
from modelviz_callbacks.graph.values import (
    TensorSpec,
    Value,
)

# Literal arguments worth a place in a small box, and the value that goes without saying.
_TELLING: dict[str, object] = {
    "kernel_size": None,
    "stride": 1,
    "padding": 0,
    "output_padding": 0,
    "dilation": 1,
    "groups": 1,
    "output_size": None,
    "p": None,
    "dim": None,
    "num_heads": None,
    "k": None,
    "is_causal": False,
    "scale_factor": None,
    "negative_slope": None,
    "bidirectional": False,
}


# What the label of a module's second call and of those after it ends with.
_CALL = re.compile(r" \(call \d+\)$")


def range_of_calls(graph: ModelGraph, fold: Fold, scope: str) -> str:
    """The modules that copies of a pattern call: ``layers.0-11``, ``query.0-5, key.0-5``.

    Args:
        graph: The fold's.
        fold: Copies of one pattern.
        scope: What their names are told in.

    Returns:
        ``""`` if they call none.
    """
    first, last = (_calls_of(graph, copy) for copy in (fold.copies[0], fold.copies[-1]))
    containers = {(call.path or "").rpartition(".")[0] for call in first}
    if len(containers) < len(first):  # what stands in one list is one range
        first, last = first[:1], last[-1:]
    ranges = [
        label_range([module_label(graph, call, scope) for call in ends])
        for ends in zip(first, last, strict=False)
    ]
    return shortened(ranges, 3) if ranges else ""


def _calls_of(graph: ModelGraph, copy: Sequence[str]) -> list[ModuleCall]:
    """The modules that one copy calls, each once."""
    calls = [graph.module_by_name[name] for name in copy if name in graph.module_by_name]
    return list({call.path or call.name: call for call in reversed(calls)}.values())[::-1]


def shape_text(spec: TensorSpec) -> str:
    """``64×3×28×28``; ``scalar`` for no dimensions, ``?`` for an unknown shape."""
    if spec.shape is None:
        return "?"
    return "×".join(map(str, spec.shape)) if spec.shape else "scalar"


def shapes_text(specs: Sequence[TensorSpec], most: int = 3) -> str:
    """Several shapes, equal neighbours counted: ``2 of 64×8, 64×1``."""
    runs: list[tuple[str, int]] = []
    for spec in specs:
        text = shape_text(spec)
        if runs and runs[-1][0] == text:
            runs[-1] = (text, runs[-1][1] + 1)
        else:
            runs.append((text, 1))
    texts = [text if count == 1 else f"{count} of {text}" for text, count in runs]
    return shortened(texts, most)


def shortened(texts: Sequence[str], most: int) -> str:
    """The first texts with commas between, and how many more there are."""
    more = len(texts) - most
    return ", ".join(texts[:most]) + (f", {more} more" if more > 0 else "")


def count_text(number: int) -> str:
    """Thousands apart: ``421,642``."""
    return f"{number:,}"


def short_count(number: int) -> str:
    """Three digits and a unit: ``422 k``, ``1.23 M``; below ten thousand in full."""
    if abs(number) < 10_000:
        return count_text(number)
    value = float(number)
    for unit in ("k", "M", "G", "T", "P"):
        value /= 1000
        if abs(value) < 999.5:
            digits = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
            return f"{value:.{digits}f} {unit}"
    return f"{value:.3g} P"


def flops_text(flops: int, at_least: bool) -> str:
    """FLOPs as `short_count`; ``at least 1.23 M`` where not everything could be counted."""
    return f"at least {short_count(flops)}" if at_least else short_count(flops)


def bytes_text(size_bytes: int) -> str:
    """Bytes with three digits and a binary unit: ``12.5 MiB``; below 1024 in full."""
    if size_bytes < 1024:
        return f"{size_bytes} B"
    value = float(size_bytes)
    for unit in ("KiB", "MiB", "GiB"):
        value /= 1024
        if value < 999.5:
            return f"{value:.3g} {unit}"
    return f"{value / 1024:.3g} TiB"


def time_text(time_us: float) -> str:
    """Microseconds with a unit that fits: ``12.3 µs``, ``4.56 ms``, ``7.89 s``."""
    for unit, size in (("s", 1e6), ("ms", 1e3)):
        if time_us >= size:
            return f"{time_us / size:.3g} {unit}"
    return f"{time_us:.3g} µs"


def module_label(graph: ModelGraph, call: ModuleCall, scope: str) -> str:
    """A module call's name as seen from a scope around it: ``layer.0``, ``fc (call 2)``.

    The number of the call is left out where it is that of the module around it.
    """
    home = home_of(graph.module_by_name, scope)
    around = graph.module_by_name[home].path if home else ""
    label = call.path
    if label is None:
        label = call.label
    elif around and label.startswith(f"{around}."):
        label = label[len(around) + 1 :]
    if call.is_function:
        return label
    parent = graph.module_by_name.get(home_of(graph.module_by_name, call.parent))
    again = call.call_index != (parent.call_index if parent else 0)
    return f"{label} (call {call.call_index + 1})" if again else label


def held_label(graph: ModelGraph, node: Node, scope: str) -> str:
    """A parameter, buffer or constant as seen from a scope: ``cls_token``, ``queries.weight``.

    Of its way down from there the last two names are told.
    """
    home = home_of(graph.module_by_name, scope)
    around = graph.module_by_name[home].path if home else ""
    path = node.path
    if around and path.startswith(f"{around}."):
        path = path[len(around) + 1 :]
    return ".".join(path.split(".")[-2:]) or node.label


_AT_STEP = re.compile(r"\bt([+-]\d+)?\b")


def repeat_text(fold: Fold) -> str:
    """How copies are to each other: ``dilation = 1, 2, 4``, ``[:, t], t = 0..29; in parallel``."""
    told = variation_text(fold.variation, fold.in_parallel) if fold.variation else ""
    return "; ".join(filter(None, [told, "in parallel" if fold.in_parallel else ""]))


def variation_text(variation: Variation, in_parallel: bool = False) -> str:
    """What differs between repeats: ``dilation = 1, 2, 4``, ``[:, t], t = 0..29``.

    Args:
        variation: That of some repeats.
        in_parallel: Whether these do not feed each other, so that nothing grows.
    """
    told = [_varying_text(variation)] if variation.names else []
    sizes = "sizes differ" if in_parallel else "sizes change"
    return "; ".join([*told, sizes] if variation.grows else told)


def index_at_step(variation: Variation | None, title: str) -> str:
    """The index of a loop's first step as that of any step: ``[:, t]`` for ``[:, 0]``.

    Args:
        variation: What varies in the loop.
        title: What an op in its body is called in the first step.

    Returns:
        The same title where it is not what varies.
    """
    index, found, steps = _varying_text(variation).partition(", t = ") if variation else ("",) * 3
    if not found:
        return title
    start = int(steps.partition("..")[0].partition(",")[0])
    first = _AT_STEP.sub(lambda step: str(start + int(step[1] or 0)), index)
    return index if title in (first, re.sub(r"\b0:", ":", first)) else title


def _varying_text(variation: Variation) -> str:
    counter, values = variation.counter, variation.values
    if counter is None:
        return f"{', '.join(variation.names)} = {shortened(values, 8)}"
    columns = zip(*(map(int, NUMBER.findall(value)) for value in values), strict=True)
    parts = iter(
        _plus(column[0] - counter[0]) if len(set(column)) > 1 else str(column[0])
        for column in columns
    )
    index = NUMBER.sub(lambda _: next(parts), values[0]).strip("()")
    told = counter[: 1 if abs(counter[1] - counter[0]) == 1 else 2]
    return f"[{index}], t = {', '.join(map(str, told))}..{counter[-1]}"


def _plus(offset: int) -> str:
    """The index of a loop with what is added to it: ``t``, ``t+1``."""
    return f"t{offset:+d}" if offset else "t"


def label_range(labels: Sequence[str]) -> str:
    """First and last of some labels: ``layer.0-11``, ``conv_a ... conv_d``.

    Several calls of one module have its name.
    """
    if labels[0] == labels[-1]:
        return labels[0]
    first, last = _CALL.sub("", labels[0]), _CALL.sub("", labels[-1])
    stem = first.rstrip("0123456789")
    if first == last:
        return first
    if stem != first and last.startswith(stem) and last[len(stem) :].isdigit():
        return f"{first}-{last[len(stem) :]}"
    return f"{first} ... {last}"


def key_arguments(graph: ModelGraph, nodes: Iterable[Node]) -> str:
    """The arguments that tell ops apart: ``3×3, stride 2``; ``""`` if there are none."""
    found: list[str] = []
    for node in nodes:
        found += [text for text in (_kernel(graph, node), _table(graph, node)) if text]
        found += _heads(graph, node)
        for argument in node.arguments:
            if argument.name in _TELLING:
                text = _argument_text(argument.name, argument.value)
                if text:
                    found.append(text)
    return ", ".join(dict.fromkeys(found))


def _kernel(graph: ModelGraph, node: Node) -> str:
    if OpFact.CONVOLUTION not in facts_of(node.target) or len(node.inputs) < 2:
        return ""
    shape = graph.spec(node.inputs[1]).shape
    return "×".join(map(str, shape[2:])) if shape else ""


def _table(graph: ModelGraph, node: Node) -> str:
    """Vocabulary and width of an embedding."""
    if OpFact.EMBEDDING not in facts_of(node.target) or len(node.inputs) < 2:
        return ""
    shape = graph.spec(node.inputs[1]).shape
    return " × ".join(map(str, shape)) if shape and len(shape) == 2 else ""


def _heads(graph: ModelGraph, node: Node) -> list[str]:
    """How many heads attention has, told by the shapes of its query and key."""
    if torch_name(node.target) != "scaled_dot_product_attention" or len(node.inputs) < 3:
        return []
    query, key = (graph.spec(ref).shape or () for ref in node.inputs[:2])
    if len(query) != 4 or len(key) != 4:
        return []
    found = [f"{query[1]} head{'s' if query[1] != 1 else ''}"]
    if key[1] != query[1]:
        found.append(f"{key[1]} key-value head{'s' if key[1] != 1 else ''}")
    return found


def _argument_text(name: str, value: Value) -> str:
    parts = value if isinstance(value, tuple) else (value,)
    if value is None or any(not isinstance(part, (int, float, str)) for part in parts):
        return ""
    if all(part == _TELLING[name] for part in parts):
        return ""
    if value is True:
        return name.replace("is_", "")
    alike = len(set(parts)) == 1 and name != "dim"
    if name == "kernel_size":
        sizes = parts * (2 if len(parts) == 1 else 1)
        return "×".join(map(str, sizes))
    text = str(parts[0]) if alike else "×".join(map(str, parts))
    if name == "k":
        return f"top {text}"
    if name == "num_heads":
        return f"{text} heads"
    return f"{name.replace('_', ' ')} {text}"
