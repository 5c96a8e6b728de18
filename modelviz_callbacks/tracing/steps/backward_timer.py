"""Times what autograd runs of one forward, node by node.

Each node that was made in the forward gets a hook before it runs and one after, for this one
backward. The hooks look at the clock and hand every gradient on as it is. What a gradient ends at
(``AccumulateGrad``) has none. Nodes are not held: a graph that its owner drops is gone, and the
hooks with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from threading import get_ident
from time import perf_counter_ns
from typing import Any, NamedTuple

import torch
from torch.autograd.function import BackwardCFunction
from torch.compiler import is_dynamo_compiling
from torch.utils.hooks import RemovableHandle

from modelviz_callbacks.gc_pause import paused_collector
from modelviz_callbacks.tracing.capture.autograd_record import most_nodes_here
from modelviz_callbacks.tracing.capture.torch_internals import no_torch_function, sequence_number

# When something began and ended: nanoseconds of the host's clock, and events in the CUDA stream.
Times = tuple[int, int, Any, Any]


class NodeRun(NamedTuple):
    """One run of a node.

    Attributes:
        sequence: Autograd's number of the node.
        name: As autograd has it.
        is_custom: Whether it is that of an autograd function of somebody's.
        thread: The number of the thread that ran it, as Python has it.
        times: When.
    """

    sequence: int
    name: str
    is_custom: bool
    thread: int
    times: Times


class BackwardTimer:
    """Hooks on the nodes of one forward, until `remove`.

    Attributes:
        runs: What has run, in the order in which it ended.
        is_cut: Whether there are more nodes than are looked at.
    """

    def __init__(self, event: Callable[[], Any], failed: Callable[[Exception], None]) -> None:
        """Nothing is watched yet.

        Args:
            event: Gives a mark in the stream that work goes to now; ``None`` on the host.
            failed: Called with a fault of our own, after which nothing more is timed.
        """
        self._event = event
        self._failed = failed
        self._is_over = False
        self._handles: list[RemovableHandle] = []
        self._watched: set[int] = set()
        self._open: dict[tuple[int, int], tuple[int, Any]] = {}
        self.runs: list[NodeRun] = []
        self.is_cut = False

    @property
    def is_watching(self) -> bool:
        """Whether a node has hooks."""
        return bool(self._handles)

    def watch(self, tensors: Iterable[torch.Tensor], first: int) -> None:
        """Puts hooks on the nodes that gradients of some tensors flow through.

        Args:
            tensors: Where a backward may begin; those without a history are left out.
            first: Autograd's number of the first node that the timed code made: what an earlier
                forward made is left alone, and so is all before it.
        """
        if self._is_over:
            return
        try:
            with no_torch_function(), paused_collector():
                self._walk(dict.fromkeys(_histories(tensors)), first)
        except Exception as error:
            self._fail(error)

    def _walk(self, seen: dict[Any, None], first: int) -> None:
        order, most = [*seen], most_nodes_here()
        for node in order:
            sequence = sequence_number(node)
            following = [one for one, _ in node.next_functions if one is not None]
            if sequence < first or not following:
                continue  # of another forward, or the end of a gradient
            if sequence not in self._watched:
                self._watched.add(sequence)
                self._hook(node, sequence)
            for one in following:
                if one not in seen and len(order) < most:
                    seen[one] = None
                    order.append(one)
                self.is_cut = self.is_cut or one not in seen

    def _hook(self, node: Any, sequence: int) -> None:
        name, is_custom = str(node.name()), isinstance(node, BackwardCFunction)

        def before(_: Any) -> None:
            if self._is_over or is_dynamo_compiling():
                return
            try:
                self._open[sequence, get_ident()] = perf_counter_ns(), self._event()
            except Exception as error:
                self._fail(error)

        def after(*_: Any) -> None:
            ended = perf_counter_ns()
            if self._is_over or is_dynamo_compiling():
                return
            try:
                thread = get_ident()
                begun, mark = self._open.pop((sequence, thread))
                times = (begun, ended, mark, self._event())
                self.runs.append(NodeRun(sequence, name, is_custom, thread, times))
            except Exception as error:
                self._fail(error)

        self._handles += (node.register_prehook(before), node.register_hook(after))

    def _fail(self, error: Exception) -> None:
        self._is_over = True
        self._failed(error)

    def remove(self) -> None:
        """Takes the hooks off those nodes that are still there; safe to call again."""
        self._is_over = True
        handles, self._handles = self._handles, []
        for handle in handles:
            handle.remove()
        self._open.clear()


def _histories(tensors: Iterable[torch.Tensor]) -> Iterable[Any]:
    for tensor in tensors:
        try:
            node = tensor.grad_fn
        except RuntimeError:  # a view that was written to where autograd forbids it
            continue
        if node is not None:
            yield node
