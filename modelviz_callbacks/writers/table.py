"""A graph as a table, a row a layer, for spreadsheets and data frames (CSV, RFC 4180)."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.analysis.measured import Limit, MeasuredCosts
from modelviz_callbacks.analysis.steps import Step
from modelviz_callbacks.analysis.weights import element_counts
from modelviz_callbacks.graph.model import ModuleCall, Node
from modelviz_callbacks.graph.names import plain_text
from modelviz_callbacks.graph.values import (
    Ref,
    TensorSpec,
)
from modelviz_callbacks.view.formatting import shape_text

# What a cell begins with that spreadsheets compute.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")

COLUMNS = (
    "name",
    "class",
    "input_shape",
    "output_shape",
    "parameters",
    "trainable_parameters",
    "flops",
    "parameter_bytes",
    "output_bytes",
    "parameter_share",
    "flops_share",
    "flops_at_least",
    "gradient_bytes",
    "kept_bytes",
    "kept_at_least",
    "peak_bytes",
    "optimizer_bytes",
    "forward_us",
    "backward_us",
    "bound",
    "peak_share",
)


@dataclass(frozen=True, slots=True)
class LayerRow:
    """One layer: a module call told as one thing, or an op outside of such.

    Attributes:
        name: Its name in the graph.
        kind: Its class, or its op.
        inputs: The tensors it reads, without parameters and buffers.
        outputs: The tensors it makes.
        parameters: Elements of the parameters it uses that no row before it used.
        trainable: How many of them are trained.
        parameter_bytes: Their bytes.
        flops: Floating point operations; ``None``: no op of it has a formula.
        times: How often this row is repeated; 1 in an unfolded table.
        at_least: Whether ``flops`` is a lower bound: not all that multiplies could be counted.
        gradient_bytes: Bytes of the gradients of its trained parameters.
        kept_bytes: Bytes that it keeps for the backward, those counted that no row before it
            kept; ``None``: not known.
        kept_at_least: Whether ``kept_bytes`` is a lower bound.
        peak_bytes: Most bytes of the forward's own tensors that were alive while it ran;
            ``None``: not known.
        optimizer_bytes: What optimizers keep for its parameters; ``None``: not known.
        forward_us: Microseconds that it took in a step that was timed; ``None``: not timed.
        backward_us: Microseconds that its backward took there; ``None``: not timed, or none.
        limit: What limits the op of it that took longest, and how near that came.
    """

    name: str
    kind: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    parameters: int
    trainable: int
    parameter_bytes: int
    flops: int | None
    times: int = 1
    at_least: bool = False
    gradient_bytes: int = 0
    kept_bytes: int | None = None
    kept_at_least: bool = False
    peak_bytes: int | None = None
    optimizer_bytes: int | None = None
    forward_us: float | None = None
    backward_us: float | None = None
    limit: Limit | None = None

    @property
    def output_bytes(self) -> int:
        """Bytes of what it makes."""
        return sum(spec.size_bytes for spec in self.outputs)


def render(analysis: Analysis, *, depth: int | None = None) -> bytes:
    """Writes a row for every layer, in execution order, repeats in full.

    The columns are `COLUMNS`. Several shapes in a cell are set apart by semicolons. Shares
    are parts of the sum over all rows, from 0 to 1. ``flops`` is empty where no formula is known;
    ``flops_at_least`` is ``yes`` where it is a lower bound (an empty one that of 0), and so is
    ``kept_at_least`` of ``kept_bytes``. Where no memory is known, as of a graph of another
    format, ``kept_bytes`` and ``peak_bytes`` are empty; so are, where nothing was measured in a
    later step, ``optimizer_bytes``, the times, and what limits the longest op of a row.

    Args:
        analysis: The analysis of a sound graph.
        depth: Modules at this level are rows, whatever is in them; ``None``: no limit.

    Returns:
        CSV with a header, UTF-8.
    """
    found = layers(analysis, depth=depth)
    parameters = sum(row.parameters for row in found)
    flops = sum(row.flops or 0 for row in found)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for row in found:
        writer.writerow(
            (
                cell(row.name),
                cell(row.kind),
                _shapes(row.inputs),
                _shapes(row.outputs),
                row.parameters,
                row.trainable,
                "" if row.flops is None else row.flops,
                row.parameter_bytes,
                row.output_bytes,
                share(row.parameters, parameters),
                share(row.flops or 0, flops),
                "yes" if row.at_least else "",
                row.gradient_bytes,
                "" if row.kept_bytes is None else row.kept_bytes,
                "yes" if row.kept_bytes is not None and row.kept_at_least else "",
                "" if row.peak_bytes is None else row.peak_bytes,
                "" if row.optimizer_bytes is None else row.optimizer_bytes,
                "" if row.forward_us is None else f"{row.forward_us:.3f}",
                "" if row.backward_us is None else f"{row.backward_us:.3f}",
                "" if row.limit is None else row.limit.bound,
                "" if row.limit is None else f"{row.limit.share:.4f}",
            )
        )
    return out.getvalue().encode()


def cell(text: str) -> str:
    """Text that a spreadsheet does not take for a formula: a name may be anybody's.

    Args:
        text: Any.
    """
    plain = plain_text(text)
    return f"'{plain}" if plain.lstrip().startswith(_FORMULA) else plain


def share(part: int, whole: int) -> str:
    """Part of the whole, with four decimals; ``0.0000`` of nothing."""
    return f"{part / whole if whole else 0.0:.4f}"


def layers(
    analysis: Analysis, *, depth: int | None = None, folded: bool = False
) -> tuple[LayerRow, ...]:
    """The rows of the table.

    Args:
        analysis: The analysis of a sound graph.
        depth: Modules at this level are rows; ``None``: no limit.
        folded: Whether to give repeats once, with their number.

    Returns:
        Rows in execution order. Unfolded, their parameters and FLOPs add up to those that
        the graph's nodes have.
    """
    return analysis.once(_layers, depth, folded)


def _layers(analysis: Analysis, depth: int | None, folded: bool) -> tuple[LayerRow, ...]:
    return tuple(_Rows(analysis, depth, folded).of("", 1, 1))


class _Rows:
    def __init__(self, analysis: Analysis, depth: int | None, folded: bool) -> None:
        self.analysis = analysis
        self.graph = analysis.graph
        self.measured = analysis.measured or MeasuredCosts()
        self.steps = analysis.steps()
        self.depth = depth
        self.folded = folded
        self.counted: set[str] = set()
        self.elements = element_counts(self.graph)

    def of(self, scope: str, level: int, times: int) -> Iterator[LayerRow]:
        for step in self.steps.of(scope):
            repeats = times * step.times if self.folded else times
            copies = 1 if self.folded or step.fold is None else step.times
            for copy in range(copies):
                for item in self._items(step, copy):
                    yield from self._item(item, level, repeats)

    def _items(self, step: Step, copy: int) -> Iterable[ModuleCall | Node]:
        if step.fold is None or copy == 0:
            return step.items
        names = step.fold.copies[copy]
        modules, nodes = self.graph.module_by_name, self.graph.by_name
        return [modules[name] if name in modules else nodes[name] for name in names]

    def _item(self, item: ModuleCall | Node, level: int, times: int) -> Iterator[LayerRow]:
        nodes = list(self.steps.outline.calls_in(item))
        if isinstance(item, Node):
            if item.outputs:
                yield self._row(item, item.op, item.outputs, nodes, times)
            return
        deep_enough = self.depth is not None and level >= self.depth
        if deep_enough or self.analysis.is_leaf(item):
            refs = dict.fromkeys(port.ref for port in item.outputs)
            outputs = tuple(self.graph.spec(ref) for ref in refs)
            yield self._row(item, item.type_name, outputs, nodes, times)
            return
        yield from self.of(item.name, level + 1, times)

    def _row(
        self,
        item: ModuleCall | Node,
        kind: str,
        outputs: tuple[TensorSpec, ...],
        nodes: list[Node],
        times: int,
    ) -> LayerRow:
        used = [
            self.graph.by_name[ref.node]
            for node in nodes
            for ref in node.inputs
            if self.graph.by_name[ref.node].kind == "parameter"
        ]
        new = {node.name: node.outputs[0] for node in used if node.name not in self.counted}
        self.counted.update(new)
        sizes = {
            name: self.elements.get(self.graph.by_name[name].path, spec.numel)
            for name, spec in new.items()
        }
        cost = self.analysis.costs.of(item)
        return LayerRow(
            item.name,
            kind,
            tuple(map(self.graph.spec, self._inputs(item))),
            outputs,
            sum(sizes.values()),
            sum(size for name, size in sizes.items() if new[name].requires_grad),
            sum(spec.size_bytes for spec in new.values()),
            cost.flops,
            times,
            cost.uncounted > 0,
            sum(spec.size_bytes for spec in new.values() if spec.requires_grad),
            cost.kept_bytes,
            cost.unmeasured > 0,
            cost.peak_bytes,
            self._optimizer_bytes(new),
            cost.forward_us,
            cost.backward_us,
            self._limit(nodes),
        )

    def _optimizer_bytes(self, names: Iterable[str]) -> int | None:
        sizes = self.measured.optimizer_bytes
        if not sizes:
            return None
        return sum(sizes.get(self.graph.by_name[name].path, 0) for name in names)

    def _limit(self, nodes: Iterable[Node]) -> Limit | None:
        """That of the op which took longest, where it is known."""
        times = self.measured.forward_us
        longest = max((node.name for node in nodes), key=lambda n: times.get(n, 0.0), default="")
        return self.measured.limits.get(longest)

    def _inputs(self, item: ModuleCall | Node) -> tuple[Ref, ...]:
        return self.steps.outline.externals(item)


def _shapes(specs: Iterable[TensorSpec]) -> str:
    return "; ".join(map(shape_text, specs))
