"""Functions that a forward lets autograd call, which may change a gradient that it takes itself.

``h.register_hook(clip)`` is of no matter to a forward, until it calls ``torch.autograd.grad``: what
that gives is then made by the hook, too. The call that put it up is on the tape either way, as
one that belongs to the forward only where it has such a use.

Hooks on autograd's nodes, and those that pack what autograd keeps, are put up where no torch
function tells of it. They are looked for when the forward takes a gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from modelviz_callbacks.errors import ReplayError
from modelviz_callbacks.gc_pause import paused_collector
from modelviz_callbacks.tracing.capture.autograd_record import most_nodes_here
from modelviz_callbacks.tracing.capture.hidden_calls import tensors_behind
from modelviz_callbacks.tracing.capture.pytree import Leaf
from modelviz_callbacks.tracing.capture.tape import OpEntry, RawEntry, as_entry
from modelviz_callbacks.tracing.capture.torch_internals import (
    no_torch_function,
    saved_names,
    saved_value,
)

GRAD = torch.autograd.grad
HOOK = torch.Tensor.register_hook

# Where the hooks are that give back what they were given: checkpoints, offloading.
_TORCHS = ("torch.utils.checkpoint", "torch.autograd.graph")


class GradientHooks:
    """The hooks that one forward has put up.

    Attributes:
        may_be_on_nodes: Whether the forward has had a node of autograd in its hands.
    """

    def __init__(self) -> None:
        """None are up."""
        self.may_be_on_nodes = False
        self._found: list[tuple[int, Any]] = []

    def note(self, position: int, handle: Any) -> None:
        """Remembers one.

        Args:
            position: Of the call that put it up, on the tape.
            handle: What the call returned.
        """
        self._found.append((position, handle))

    def change_unseen(self, ends: Sequence[torch.Tensor]) -> bool:
        """Whether gradients of some tensors are changed by what no op tells of.

        Args:
            ends: What gradients are taken of. A node that may have hooks is given one and loses it
                again: nothing else tells of the others.
        """
        with no_torch_function(), paused_collector():
            names: dict[type[Any], list[str]] = {}
            for node in _nodes_behind(ends):
                if self.may_be_on_nodes and _has_hooks(node):
                    return True
                kind = type(node)
                if kind not in names:
                    names[kind] = saved_names(kind)
                if _keeps_others(node, names[kind]):
                    return True
        return False

    def settle(self, tape: list[RawEntry]) -> None:
        """Lets those that are up at a call of ``torch.autograd.grad`` belong to the forward.

        Args:
            tape: With the calls that put them up, each as none of the forward's.
        """
        for position, handle in self._found:
            entry = as_entry(tape[position]) if position < len(tape) else None
            if isinstance(entry, OpEntry) and _is_up(handle):
                tape[position] = entry._replace(plumbing=False)


def names_edges(inputs: Any) -> bool:
    """Whether gradients are taken at edges of autograd's graph instead of tensors.

    Args:
        inputs: What `torch.autograd.grad` was given as such: a sequence, or one.
    """
    edge = torch.autograd.graph.GradientEdge
    is_one = isinstance(inputs, edge) or not isinstance(inputs, (list, tuple))
    return any(isinstance(one, edge) for one in ([inputs] if is_one else inputs))


def _nodes_behind(ends: Sequence[torch.Tensor]) -> Iterator[Any]:
    """The nodes between some tensors and the leaves of autograd's graph."""
    order = list(dict.fromkeys(one.grad_fn for one in ends if one.grad_fn is not None))
    seen, most = set(order), most_nodes_here()
    for node in order:
        following = [one for one, _ in node.next_functions if one is not None and one not in seen]
        if not node.next_functions:
            continue  # a gradient is taken before a leaf's hooks
        yield node
        if len(order) < most:
            seen.update(following)
            order += dict.fromkeys(following)


def _has_hooks(node: Any) -> bool:
    """Whether functions are called before or after a node computes."""
    for put_up in (node.register_hook, node.register_prehook):
        handle = put_up(lambda *_: None)
        hooks = handle.hooks_dict_ref()
        handle.remove()
        if hooks:
            return True
    return False


def _keeps_others(node: Any, names: Sequence[str]) -> bool:
    """Whether a node keeps for its backward what somebody's function has made."""
    for name in names:
        try:
            kept = saved_value(node, name)
        except RuntimeError:
            return False  # a backward has freed them
        for one in kept if isinstance(kept, (tuple, list)) else [kept]:
            hook = getattr(one, "unpack_hook", None)
            if hook is not None and getattr(hook, "__module__", "") not in _TORCHS:
                return True
    return False


def _is_up(handle: Any) -> bool:
    try:
        hooks = handle.hooks_dict_ref()
        return hooks is not None and handle.id in hooks
    except AttributeError:  # another version's: it is taken for one that is
        return True


def replayable(walked: Any, is_state: Callable[[torch.Tensor], bool]) -> Callable[..., Any]:
    """The function that a hook calls, if it is the same one whatever goes into the model.

    Args:
        walked: What `register_hook` was given, walked.
        is_state: Whether a tensor is a parameter or buffer.

    Returns:
        One that refuses where the function can reach values of the recorded forward.
    """
    hook = walked.value if isinstance(walked, Leaf) else None
    if callable(hook) and all(map(is_state, tensors_behind([hook]))):
        return hook  # type: ignore[no-any-return]
    return refuse


def refuse(_: torch.Tensor) -> torch.Tensor:
    """Stands for a hook that cannot be called again.

    Raises:
        ReplayError: Always.
    """
    raise _not_again(
        "register_hook was given a function that holds values of the recorded forward, and a "
        "gradient that the forward takes is made by it"
    )


def refuse_change(_: torch.Tensor) -> torch.Tensor:
    """Stands for what changes a gradient out of sight.

    Raises:
        ReplayError: Always.
    """
    raise _not_again(
        "the forward takes a gradient that may be changed by hooks on autograd's nodes, on "
        "modules, or on what autograd keeps (saved_tensors_hooks)"
    )


def refuse_edge(_: torch.Tensor) -> torch.Tensor:
    """Stands for a gradient of what is named by a place in the graph of the recorded forward.

    Raises:
        ReplayError: Always.
    """
    raise _not_again(
        "torch.autograd.grad was asked for the gradient at an edge of autograd's graph "
        "(GradientEdge), which another forward does not have"
    )


def _not_again(reason: str) -> ReplayError:
    return ReplayError(f"This recording cannot be run again: {reason}.")
