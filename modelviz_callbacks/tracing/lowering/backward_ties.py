"""Which op of a forward each node of autograd was made in."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

from modelviz_callbacks.graph import ModelGraph
from modelviz_callbacks.tracing.capture.recording import Recording
from modelviz_callbacks.tracing.capture.tape import OpEntry
from modelviz_callbacks.tracing.lowering.to_graph import node_names


class Ties:
    """Finds the forward op, or at least the scope, that a node of autograd belongs to.

    Autograd numbers its nodes as they are made, and the tape holds the number before and after
    each op.

    Args:
        recording: The forward.
        forward: Its graph.
    """

    def __init__(self, recording: Recording, forward: ModelGraph) -> None:
        self._forward = forward
        self._ops: list[tuple[int, int, bool, str]] = []  # first, last, with gradients, name
        names = node_names(recording)
        for entry in recording.tape:
            if isinstance(entry, OpEntry):
                name = names.get(id(entry))
                if name is not None and name in forward.by_name:
                    self._ops.append((entry.first_node, entry.last_node, entry.grad, name))
        self._firsts = [op[0] for op in self._ops]
        self._lasts = [op[1] for op in self._ops]

    def op_of(self, sequence: int) -> str | None:
        """The forward op in which a node was made; ``None``: between ops, or out of sight."""
        at = bisect_right(self._lasts, sequence)
        if at < len(self._ops) and self._ops[at][0] <= sequence:
            return self._ops[at][3]
        return None

    def scope_of(self, sequence: int) -> str:
        """The scope in which a node was made that belongs to no op.

        A custom function's node is made before its own forward runs, without gradients: these
        ops tell where it is. For others it is what the ops around have in common.
        """
        after = bisect_left(self._firsts, sequence + 1)
        inside = []
        for first, last, grad, name in self._ops[after:]:
            if grad or not first == last == sequence + 1:
                break
            inside.append(name)
        if not inside:
            inside = [op[3] for op in self._ops[max(after - 1, 0) : after + 1]]
            if after == 0 or after == len(self._ops):
                return ""
        return self.common([self._forward.by_name[name].scope for name in inside])

    def common(self, scopes: list[str]) -> str:
        """The innermost scope that is around all of these."""
        around = list(self._forward.scopes_of(scopes[0]))
        for scope in set(scopes[1:]):
            others = set(self._forward.scopes_of(scope))
            around = [name for name in around if name in others]
        return around[0] if around else ""
