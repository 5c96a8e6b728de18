"""Whether a model still has the architecture, and the size, that it is meant to have.

For tests and continuous integration: ``modelviz check`` and the fixture of pytest ask here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.diff.diff import diff
from modelviz_callbacks.errors import OptionError
from modelviz_callbacks.graph.model import ModelGraph, Node
from modelviz_callbacks.tracer import trace
from modelviz_callbacks.writers import diff_text

__all__ = ["Limits", "assert_same_architecture", "differences", "over_limits"]

_HOW = "pass the model's inputs: assert_same_architecture(model, path, x)"


@dataclass(frozen=True)
class Limits:
    """How large a model may be.

    Attributes:
        parameters: Most parameter elements, tied ones counted once; ``None``: any number.
        flops: Most floating point operations of one forward, a multiply-add counted as two;
            ``None``: any number.
    """

    parameters: int | None = None
    flops: int | None = None


def differences(reference: ModelGraph, graph: ModelGraph, *, strict: bool = False) -> str:
    """In what a graph's architecture differs from another's.

    Args:
        reference: What it is meant to be.
        graph: What it is.
        strict: Whether names, sizes of the data, devices, source lines and the version of torch
            count, too.

    Returns:
        The differences as ``modelviz diff`` prints them; ``""`` where there is none.
    """
    found = diff(reference, graph, strict=strict)
    return "" if found.are_equal else diff_text.render(found).decode().rstrip()


def over_limits(graph: ModelGraph, limits: Limits) -> list[str]:
    """The limits that a model does not keep.

    Args:
        graph: Its graph, with the FLOPs of its ops.
        limits: The limits.

    Returns:
        A sentence for each that is exceeded.
    """
    flops = Analysis.of(graph).costs.total.flops or 0
    sizes = (
        ("parameters", graph.parameter_count, limits.parameters),
        ("FLOPs", flops, limits.flops),
    )
    return [
        f"The model has {size:,d} {what}: more than the limit of {limit:,d}."
        for what, size, limit in sizes
        if limit is not None and size > limit
    ]


def assert_same_architecture(
    model: nn.Module | ModelGraph,
    path: str | Path,
    *args: Any,
    update: bool = False,
    strict: bool = False,
    **kwargs: Any,
) -> None:
    """Fails where a model no longer has the architecture that a file holds.

    Args:
        model: The model, of which one forward runs, or its graph.
        path: A ``graph.json``.
        *args: What the model's forward takes. Where nothing is given, tensors of the shapes and
            dtypes that the file has for the inputs: random numbers, zeros for integers.
        update: Write the file anew instead; the pytest option ``--update-architecture``.
        strict: Whether names, sizes of the data, devices, source lines and the version of torch
            count, too.
        **kwargs: Keyword arguments of the forward.

    Raises:
        AssertionError: The architecture differs, with the differences, or there is no such file.
        GraphFormatError: The file is not a graph.
        OptionError: No inputs were given, and none can be made from the file.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> assert_same_architecture(model, "net.json", torch.ones(3, 4), update=True)
        >>> assert_same_architecture(model, "net.json")
    """
    path = Path(path)
    exists = path.is_file()
    reference = ModelGraph.load(path) if exists and not update else None
    graph = _graph_of(model, reference, args, kwargs)
    if update:
        path.parent.mkdir(parents=True, exist_ok=True)
        graph.save(path)
    elif reference is None:
        raise AssertionError(
            f"There is no {path} to compare with. Write it with pytest --update-architecture, "
            "and commit it."
        )
    else:
        found = differences(reference, graph, strict=strict)
        if found:
            raise AssertionError(
                f"The architecture is not that of {path} any more:\n\n{found}\n\n"
                "If that is wanted, renew the file with pytest --update-architecture."
            )


def _graph_of(
    model: nn.Module | ModelGraph,
    reference: ModelGraph | None,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> ModelGraph:
    if isinstance(model, ModelGraph):
        return model
    if not args and not kwargs and reference is not None:
        kwargs = {node.name: _example(node) for node in reference.of_kind("input")}
    return trace(model, *args, **kwargs).graph


def _example(node: Node) -> torch.Tensor:
    """A tensor that can stand for an input of a graph: made of its shape and dtype alone."""
    if not node.name.isidentifier() or len(node.outputs) != 1:
        raise OptionError(f"No input can be made from {node.name!r} in the file: {_HOW}.")
    spec = node.outputs[0]
    dtype = getattr(torch, spec.dtype, None)
    if not isinstance(dtype, torch.dtype) or spec.shape is None:
        raise OptionError(f"No input can be made of {spec}: {_HOW}.")
    if not (dtype.is_floating_point or dtype.is_complex):
        return torch.zeros(spec.shape, dtype=dtype)  # index 0 is in every table
    own = torch.Generator().manual_seed(0)  # the test's random state stays as it is
    return torch.randn(spec.shape, generator=own).to(dtype)
