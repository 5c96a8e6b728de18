"""``health.csv``: the outputs, gradients and updates of the steps that were looked into."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

from modelviz_callbacks.artifacts.maker import Maker
from modelviz_callbacks.artifacts.products import Products
from modelviz_callbacks.tracing import InspectedStep, TensorHealth
from modelviz_callbacks.writers.table import cell

COLUMNS = (
    "step",
    "kind",
    "name",
    "call",
    "tensor",
    "dtype",
    "shape",
    "elements",
    "min",
    "max",
    "mean",
    "std",
    "norm",
    "zero_share",
    "nan",
    "inf",
    "weight_norm",
    "update_norm",
    "update_ratio",
)

_UNKNOWN = ("",) * 9


def write_health(maker: Maker, products: Products) -> None:
    """Writes a row for each tensor, by steps: ``output`` of a module call, ``gradient``.

    The columns are `COLUMNS`; what is not known is empty. Numbers have six digits.

    Args:
        maker: Where it goes.
        products: Has steps that were looked into.

    Raises:
        SinkError: It cannot be written.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for step in products.inspected or ():
        writer.writerows(_rows(step))
    maker.write("health.csv", out.getvalue().encode(errors="replace"))


def _rows(step: InspectedStep) -> Iterator[tuple[Any, ...]]:
    for seen in step.outputs:
        yield (
            step.number,
            "output",
            cell(seen.path),
            seen.call_index,
            cell(seen.place),
            seen.dtype,
            _size(seen.shape),
            *_health(seen.health),
            "",
            "",
            "",
        )
    for one in step.parameters:
        yield (
            step.number,
            "gradient",
            cell(one.name),
            "",
            "",
            one.dtype,
            _size(one.shape),
            *_health(one.gradient),
            _number(one.weight_norm),
            _number(one.update_norm),
            _number(one.update_ratio),
        )


def _health(health: TensorHealth | None) -> tuple[Any, ...]:
    if health is None:
        return _UNKNOWN
    measured = (health.least, health.most, health.mean, health.std, health.norm)
    return (
        health.elements,
        *map(_number, measured),
        _number(health.zero_share),
        health.nans,
        health.infs,
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _size(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "scalar"
