"""The inference form of a program: dropout, batch norm and the like switched off.

A module in eval mode would have made these very calls with their training flags off, so the
flags are what is changed, and the model itself is not touched. Autocast is left out: it is a
setting of the training, and the exporters cannot take it.
"""

from __future__ import annotations

import operator
from typing import Any

from torch import fx

from modelviz_callbacks.graph.op_facts import OpFact
from modelviz_callbacks.tracing.capture.torch_internals import enter_autocast, exit_autocast
from modelviz_callbacks.tracing.lowering.program_calls import fresh
from modelviz_callbacks.tracing.op_facts import facts_of, parameters_of

# What torch's functions call the argument that says "training", and what it is in eval mode;
# of several the first.
_SWITCHES: dict[str, Any] = {
    "training": False,
    "train": False,
    "use_input_stats": False,
    "dropout_p": 0.0,
}
_PRECISION = (enter_autocast, exit_autocast)


def to_inference(program: fx.GraphModule, in_eval_mode: bool = False) -> fx.GraphModule:
    """A copy of a program that computes what the model in eval mode does.

    Args:
        program: A recorded program.
        in_eval_mode: Whether it was recorded in eval mode: what trains there does so by intent.

    Returns:
        Another program with the same parameters and buffers (the same tensors). State that
        the forward only kept up to date (counters, running statistics) is not written any more.
    """
    graph = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    output = graph.graph_copy(program.graph, copied)
    graph.output(output)
    for node in reversed(list(graph.nodes)):
        if node.target in _PRECISION:
            graph.erase_node(node)
    for node in list(graph.nodes):
        if node.op == "call_function" and not in_eval_mode:
            _switch_off(node)
    for node in reversed(list(graph.nodes)):
        if _only_keeps_state(node):
            graph.erase_node(node)
    return fx.GraphModule(program, graph, class_name="InferenceProgram")


def _switch_off(node: fx.Node) -> None:
    facts = facts_of(node.target)
    if OpFact.TRAINING not in facts:
        return
    if OpFact.RECURRENT in facts:
        # The dropout rate is the only float among the arguments; the flag comes after it.
        rate = next(i for i, value in enumerate(node.args) if isinstance(value, float))
        node.update_arg(rate + 1, False)
        return
    if OpFact.STATISTICS in facts and _argument(node, "running_mean") is None:
        return  # without running statistics the batch's own are used in eval mode too
    names = parameters_of(node.target)
    name = next(name for name in _SWITCHES if name in names)
    position = names.index(name)
    if len(node.args) > position:
        node.update_arg(position, _SWITCHES[name])
    else:
        node.update_kwarg(name, _SWITCHES[name])


def _argument(node: fx.Node, name: str) -> Any:
    position = parameters_of(node.target).index(name)
    return node.args[position] if len(node.args) > position else node.kwargs.get(name)


def _only_keeps_state(node: fx.Node) -> bool:
    """Whether a node only writes to a copy of state that nobody reads."""
    if node.users:
        return False
    if node.target is fresh or node.op == "get_attr":
        return True
    writes = node.op == "call_method" and str(node.target).endswith("_")
    if not (writes or node.target is operator.setitem or node.target is setattr):
        return False
    target = node.args[0]
    return isinstance(target, fx.Node) and target.target is fresh and len(target.users) == 1
