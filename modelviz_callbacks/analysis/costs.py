"""What each module call and each op of a graph costs in one forward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from modelviz_callbacks.analysis.measured import MeasuredCosts
from modelviz_callbacks.analysis.outline import Item, Outline
from modelviz_callbacks.graph.model import Node
from modelviz_callbacks.graph.op_facts import UNSEEN_VIEW, may_multiply, torch_name

_Number = TypeVar("_Number", int, float)


@dataclass(frozen=True, slots=True)
class Cost:
    """What something costs; a new cost is a field here, its place in a sum, and `_cost_of_op`.

    Attributes:
        ops: How many ops ran.
        flops: Floating point operations, a multiply-add counted as two; ``None``: no op of it
            has a formula.
        made_bytes: Bytes of the tensors it made, those left out that are new versions of
            memory there already was.
        uncounted: How many of its ops may multiply without being counted in ``flops``: with one
            of them that is a lower bound.
        kept_bytes: Bytes that it keeps for the backward and nothing before it kept, without
            parameters and buffers; ``None``: not known of any op of it.
        unmeasured: How many of its ops may keep something that is not in ``kept_bytes``: with
            one of them that is a lower bound.
        peak_bytes: Most bytes of the forward's own tensors that were alive when an op of it
            ended; ``None``: not known of any.
        forward_us: Microseconds that it took in a step that was timed; ``None``: not timed.
        backward_us: Microseconds that its backward took there; ``None``: not timed, or none.
    """

    ops: int = 0
    flops: int | None = None
    made_bytes: int = 0
    uncounted: int = 0
    kept_bytes: int | None = None
    unmeasured: int = 0
    peak_bytes: int | None = None
    forward_us: float | None = None
    backward_us: float | None = None

    def __add__(self, other: Cost) -> Cost:
        peaks = [size for size in (self.peak_bytes, other.peak_bytes) if size is not None]
        return Cost(
            self.ops + other.ops,
            _sum(self.flops, other.flops),
            self.made_bytes + other.made_bytes,
            self.uncounted + other.uncounted,
            _sum(self.kept_bytes, other.kept_bytes),
            self.unmeasured + other.unmeasured,
            max(peaks, default=None),
            _sum(self.forward_us, other.forward_us),
            _sum(self.backward_us, other.backward_us),
        )


class Costs:
    """The costs of every item of a graph.

    Args:
        outline: The graph's.
        measured: What was measured in later steps.
    """

    def __init__(self, outline: Outline, measured: MeasuredCosts | None = None) -> None:
        self._found: dict[str, Cost] = {}
        measured = measured or MeasuredCosts()
        # Scopes come parents first, so what is inside of one has its sum before it.
        for scope in reversed(outline.items):
            total = Cost()
            for item in outline.items[scope]:
                if isinstance(item, Node):
                    self._found[item.name] = _cost_of_op(item, measured)
                total += self._found[item.name]
            if scope in measured.compiled_us:
                forward_us, backward_us = measured.compiled_us[scope]
                total += Cost(forward_us=forward_us, backward_us=backward_us)
            self._found[scope] = total

    def of(self, item: Item) -> Cost:
        """Those of a module call that ran, or of an op, all that is inside together."""
        return self._found[item.name]

    @property
    def total(self) -> Cost:
        """Those of the whole forward."""
        return self._found[""]


def _sum(one: _Number | None, other: _Number | None) -> _Number | None:
    """The sum of what is known."""
    if one is None or other is None:
        return other if one is None else one
    return one + other


def _cost_of_op(node: Node, measured: MeasuredCosts) -> Cost:
    made = [spec.size_bytes for n, spec in enumerate(node.outputs) if n not in node.writes]
    unmeasured = int(node.kept_bytes is None and node.is_call)
    return Cost(
        1,
        node.flops,
        sum(made),
        int(is_uncounted(node)),
        node.kept_bytes,
        unmeasured,
        node.live_bytes,
        measured.forward_us.get(node.name),
        measured.backward_us.get(node.name),
    )


def is_uncounted(node: Node) -> bool:
    """Whether an op may multiply, and how much is not known.

    Args:
        node: Of a graph whose FLOPs were computed.

    Returns:
        True of what ran out of sight, of a custom op, and of an op of torch without a formula.
    """
    if node.flops is not None or not node.is_call or node.target == UNSEEN_VIEW:
        return False
    return node.kind == "opaque" or may_multiply(node.target) or _takes_singular_values(node)


def _takes_singular_values(node: Node) -> bool:
    """Whether an op is a norm of matrices that comes of their singular values."""
    name = torch_name(node.target)
    if name not in ("norm", "linalg_norm", "linalg_matrix_norm"):
        return False
    given = {argument.name: argument.value for argument in node.arguments}
    order, dim = given.get("ord", given.get("p")), given.get("dim")
    if order == "nuc":
        return True
    is_of_matrices = name == "linalg_matrix_norm" or (
        name == "linalg_norm" and (dim is None or (isinstance(dim, tuple) and len(dim) == 2))
    )
    return is_of_matrices and order in (2, -2)
