"""The inference form of a program: dropout, batch norm and the like switched off.

A module in eval mode would have made these very calls with their training flags off, so the
flags are what is changed, and the model itself is not touched. Autocast is left out: it is a
setting of the training, and the exporters cannot take it.
"""

from __future__ import annotations

import inspect
import operator
from typing import Any

import torch
from torch import fx
from torch.nn import functional

from modelviz_callbacks.tracing.capture.torch_internals import enter_autocast, exit_autocast
from modelviz_callbacks.tracing.lowering.program_calls import fresh


def _place(func: Any, name: str) -> int:
    return list(inspect.signature(func).parameters).index(name)


# Function -> the argument that says "training": its name, its position, what it is in eval.
_SWITCHES: dict[Any, tuple[str, int, Any]] = {
    **{
        func: ("training", _place(func, "training"), False)
        for func in (
            functional.dropout,
            functional.dropout1d,
            functional.dropout2d,
            functional.dropout3d,
            functional.alpha_dropout,
            functional.feature_alpha_dropout,
            functional.batch_norm,
            functional.rrelu,
            functional.multi_head_attention_forward,
        )
    },
    functional.instance_norm: ("use_input_stats", 5, False),
    functional.scaled_dot_product_attention: ("dropout_p", 4, 0.0),
    torch.batch_norm: ("training", 5, False),
    torch.rrelu: ("training", 3, False),
    **dict.fromkeys(
        (torch.dropout, torch.feature_dropout, torch.alpha_dropout, torch.feature_alpha_dropout),
        ("train", 2, False),
    ),
}
_NORMS = (functional.batch_norm, functional.instance_norm, torch.batch_norm)
_PRECISION = (enter_autocast, exit_autocast)
_RECURRENT = (torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu)


def to_inference(program: fx.GraphModule) -> fx.GraphModule:
    """A copy of a program that computes what the model in eval mode does.

    Args:
        program: A recorded program.

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
        if node.op == "call_function":
            _switch_off(node)
    for node in reversed(list(graph.nodes)):
        if _only_keeps_state(node):
            graph.erase_node(node)
    return fx.GraphModule(program, graph, class_name="InferenceProgram")


def _switch_off(node: fx.Node) -> None:
    if node.target in _RECURRENT:
        # The dropout rate is the only float among the arguments; the flag comes after it.
        rate = next(i for i, value in enumerate(node.args) if isinstance(value, float))
        node.update_arg(rate + 1, False)
        return
    switch = _SWITCHES.get(node.target)
    if switch is None:
        return
    name, position, value = switch
    if node.target in _NORMS and _argument(node, "running_mean", 1) is None:
        return  # without running statistics the batch's own are used in eval mode too
    if len(node.args) > position:
        node.update_arg(position, value)
    else:
        node.update_kwarg(name, value)


def _argument(node: fx.Node, name: str, position: int) -> Any:
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
