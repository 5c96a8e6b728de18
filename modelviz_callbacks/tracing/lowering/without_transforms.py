"""A program without layers: what torch does for each op under a transform, op by op.

torch.export knows no ``grad`` and only some uses of ``vmap``; below both are ordinary ops.
Like the exporters, and unlike all else here, this traces: it does not belong in a process that
trains at the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import fx
from torch.fx import traceback

from modelviz_callbacks.tracing.capture.functorch_levels import layers_left


def without_layers(program: fx.GraphModule, examples: tuple[torch.Tensor, ...]) -> fx.GraphModule:
    """Works out the transforms in a program.

    Args:
        program: A program with layers.
        examples: One tensor for each of its inputs; only shapes, dtypes and devices matter.

    Returns:
        A program of ATen ops with the same inputs, outputs and state under the same names. Its
        nodes have the metadata of those they come from.
    """
    names = list(dict.fromkeys(_tensors_read(program)))
    state = [_attribute(program, name) for name in names]
    with traceback.preserve_node_meta(), layers_left():
        flat = _traced(_WithState(program, names).run, (*state, *examples))
    attributes = dict(zip(names, state, strict=True))
    for node, name in zip(list(flat.graph.nodes), names, strict=False):
        with flat.graph.inserting_before(node):
            read = flat.graph.create_node("get_attr", name)
        read.meta = node.meta
        node.replace_all_uses_with(read)
        flat.graph.erase_node(node)
    for node in flat.graph.find_nodes(op="get_attr"):
        if node.target not in attributes:
            attributes[node.target] = _attribute(flat, node.target)
    made = fx.GraphModule(attributes, flat.graph, class_name="FlatProgram")
    made.graph.eliminate_dead_code()
    made.recompile()
    return made


class _WithState(fx.Interpreter):
    """Runs a program with other tensors for its state, given before its inputs."""

    def __init__(self, program: fx.GraphModule, names: list[str]) -> None:
        super().__init__(program)
        self._names = names
        self._given: dict[str, Any] = {}

    def run(self, *tensors: Any, **_: Any) -> Any:
        count = len(self._names)
        self._given = dict(zip(self._names, tensors[:count], strict=True))
        return super().run(*tensors[count:])

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target in self._given:
            return self._given[target]
        return super().get_attr(target, args, kwargs)


def _traced(run: Callable[..., Any], examples: tuple[Any, ...]) -> fx.GraphModule:
    from torch.fx.experimental.proxy_tensor import make_fx

    traced: fx.GraphModule = make_fx(run, tracing_mode="fake", _allow_non_fake_inputs=True)(
        *examples
    )
    return traced


def _tensors_read(program: fx.GraphModule) -> Iterator[str]:
    for node in program.graph.find_nodes(op="get_attr"):
        if isinstance(_attribute(program, node.target), torch.Tensor):
            yield node.target


def _attribute(module: Any, path: str) -> Any:
    for step in path.split("."):
        module = getattr(module, step)
    return module
