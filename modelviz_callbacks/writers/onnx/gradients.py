"""Gradients that a forward takes of its own values (``torch.autograd.grad``), in ATen ops.

The calls between what is differentiated and what it is differentiated by are made once more where
tensors have no data, and autograd then gives the ops of the gradient. Nothing is guessed: where
a value may have been changed in between, where a number was drawn on the way, where gradients were
switched off (so that a function of the user's own may have a gradient of its own), the
call stays what it is.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from modelviz_callbacks.writers.onnx.exporter_internals import set_grad_enabled
from modelviz_callbacks.writers.onnx.translation.torch_exporter import Untranslated, in_aten_ops

# Lets autograd call a function of the user's.
HOOK = "register_hook"

# Methods that end in "_" without a write to memory.
_HARMLESS = ("requires_grad_",)
_WRITERS = (operator.setitem, setattr, operator.iadd, operator.isub, operator.imul)

# Options of a call that change nothing about its results when the call is made once.
_OPTIONS = ("allow_unused", "materialize_grads")


@dataclass(frozen=True)
class Gradient:
    """One call of ``torch.autograd.grad``.

    Attributes:
        function: Takes the values of ``given`` and gives the gradients, in ATen ops.
        given: The nodes of the program that it is made of.
    """

    function: Callable[..., Any]
    given: tuple[fx.Node, ...]


def gradient(
    node: fx.Node, value_of: Callable[[fx.Node], Any], writes: Callable[[fx.Node], bool]
) -> Gradient | None:
    """A call of ``torch.autograd.grad``, as the ops that compute it.

    Args:
        node: The call in the program.
        value_of: The value of an earlier node: a tensor without data, or what is no tensor.
        writes: Whether a call is known to write to memory that it was given.

    Returns:
        ``None`` where it cannot be said without guessing.
    """
    if node.target is not torch.autograd.grad or node.kwargs.get("is_grads_batched"):
        return None
    path = _path(node)
    if path is None or not _is_plain(path, node, writes):
        return None
    known = {item: value_of(item) for item in _given(node, path)}
    tensors = {item: value for item, value in known.items() if isinstance(value, torch.Tensor)}
    given = tuple(tensors)

    def written_out(*values: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        copies = {item: value.detach() for item, value in zip(given, values, strict=True)}
        return _differentiated(node, path, {**known, **copies})

    try:
        function = in_aten_ops(written_out, list(tensors.values()))
    except Untranslated:
        return None
    if any(_draws(item.target) for item in function.graph.nodes):
        return None  # the numbers would be others
    # A function of its own: a module would be kept as long as the process lives.
    return Gradient(lambda *tensors: function(*tensors), given)


def _draws(target: Any) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(target, "tags", ())


def _ends(node: fx.Node) -> tuple[list[fx.Node], list[fx.Node]]:
    """What is differentiated, and by what."""
    ends = []
    for name, place in (("outputs", 0), ("inputs", 1)):
        value = node.args[place] if len(node.args) > place else node.kwargs.get(name)
        found: list[fx.Node] = []
        fx.node.map_arg(value, found.append)
        ends.append(found)
    return ends[0], ends[1]


def _path(node: fx.Node) -> list[fx.Node] | None:
    """The calls between the two ends, in order; ``None`` where there is no way."""
    outputs, inputs = _ends(node)
    before = _before(node)
    after = set(inputs)
    for item in before:
        if item.op not in ("get_attr", "placeholder") and after & set(item.all_input_nodes):
            after.add(item)
    needed = set(outputs)
    for item in reversed(before):
        if item in needed:
            needed.update(item.all_input_nodes)
    leaves = {item for item in inputs if not _is_behind_another(item, inputs)}
    path = [item for item in before if item in after and item in needed and item not in leaves]
    return path or None


def _is_behind_another(item: fx.Node, inputs: Sequence[fx.Node]) -> bool:
    """Whether one of the inputs is made of another one."""
    waiting, seen = list(item.all_input_nodes), set[fx.Node]()
    while waiting:
        one = waiting.pop()
        if one in inputs:
            return True
        if one not in seen:
            seen.add(one)
            waiting += one.all_input_nodes
    return False


def _before(node: fx.Node) -> list[fx.Node]:
    found = []
    for item in node.graph.nodes:
        if item is node:
            break
        found.append(item)
    return found


def _is_plain(path: Sequence[fx.Node], node: fx.Node, writes: Callable[[fx.Node], bool]) -> bool:
    """Whether making the calls once more gives what they gave, and the gradient that they have."""
    on_the_way, first = {*path, *_ends(node)[0], *_ends(node)[1]}, path[0]
    is_on, has_begun = True, False
    for item in _before(node):
        has_begun = has_begun or item is first
        if item.target is set_grad_enabled:
            is_on = bool(item.args[0])
        elif item in on_the_way and (not is_on or item.op == "call_module"):
            return False
        if item.target == HOOK and not on_the_way.isdisjoint(item.all_input_nodes):
            return False  # what it makes of the gradient is the user's own code
        if has_begun and item.target not in _HARMLESS and (writes(item) or _writes(item)):
            return False
    return True


def _writes(item: fx.Node) -> bool:
    name = item.target if isinstance(item.target, str) else getattr(item.target, "__name__", "")
    if item.op not in ("call_function", "call_method"):
        return False
    if item.target in _WRITERS or item.kwargs.get("inplace") or item.kwargs.get("out") is not None:
        return True
    return name.endswith("_") and not name.endswith("__")


def _given(node: fx.Node, path: Sequence[fx.Node]) -> tuple[fx.Node, ...]:
    """What the path is made of, and what the call itself is given."""
    inside = set(path)
    found = (
        item
        for call in (*path, node)
        for item in call.all_input_nodes
        if item not in inside and item.target is not set_grad_enabled
    )
    return tuple(dict.fromkeys(found))


def _differentiated(
    node: fx.Node, path: Sequence[fx.Node], given: Mapping[fx.Node, Any]
) -> tuple[torch.Tensor | None, ...]:
    outputs, inputs = _ends(node)
    values = dict(given)
    inside = set(path)
    with torch.enable_grad():
        for item in inputs:
            if item not in inside:
                values[item] = values[item].requires_grad_()
        for call in path:
            values[call] = _made(call, values)
        weights: Any = fx.node.map_arg(node.kwargs.get("grad_outputs"), values.__getitem__)
        options: Any = {name: node.kwargs[name] for name in _OPTIONS if name in node.kwargs}
        found = torch.autograd.grad(
            [values[item] for item in outputs],
            [values[item] for item in inputs],
            weights,
            create_graph=True,
            **options,
        )
    return tuple(None if slope is None else slope.detach() for slope in found)


def _made(call: fx.Node, values: Mapping[fx.Node, Any]) -> Any:
    def value(item: Any) -> Any:
        if isinstance(item, fx.Node):
            return values[item]
        return torch.device("cpu") if isinstance(item, torch.device) else item

    args: Any = fx.node.map_aggregate(call.args, value)
    kwargs: Any = fx.node.map_aggregate(call.kwargs, value)
    if call.op == "call_method":
        return getattr(args[0], str(call.target))(*args[1:], **kwargs)
    assert callable(call.target)
    return call.target(*args, **kwargs)
