"""The one table of artifacts: what each needs, where it is made, who makes it, and the order.

The training process and the job run this same table, each the rows that are its own. A new
format is a writer and a row of ``writers.formats.FORMATS``; anything else is a row here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from modelviz_callbacks.artifacts import events, health, onnx_files, page, trace_file
from modelviz_callbacks.artifacts.maker import Maker
from modelviz_callbacks.artifacts.products import Products
from modelviz_callbacks.graph.json_format import dumps
from modelviz_callbacks.writers.formats import FORMATS, FormatRow, render


class MadeIn(Enum):
    """Where an artifact is made."""

    JOB = "from the recording alone: in a job, or where there is no worker in place"
    TRAINING = "needs the live model: in the training process, when training has ended"


@dataclass(frozen=True)
class Row:
    """One artifact.

    Attributes:
        name: What the report calls it if it fails; of a file its name.
        needs: Names of the attributes of `Products` without which it cannot be made.
        maker: Makes it.
        wanted: Whether the options ask for it.
        made_in: Where it is made.
        early: Whether it is quick enough for a training step; it is made again, in full, later.
        shows: Names of the attributes of `Products` that come with later steps, and with each
            of which it is made anew.
        is_event: Whether it adds events to TensorBoard's, where each is to be once.
    """

    name: str
    needs: tuple[str, ...]
    maker: Callable[[Maker, Products], None]
    wanted: Callable[[Maker], bool]
    made_in: MadeIn = MadeIn.JOB
    early: bool = False
    shows: tuple[str, ...] = ()
    is_event: bool = False

    def is_wanted(self, maker: Maker) -> bool:
        """Whether the options ask for it."""
        return self.wanted(maker)

    def make(self, maker: Maker, products: Products) -> None:
        """Makes it.

        Args:
            maker: Where it goes.
            products: Has all its needs.

        Raises:
            ModelvizError: It cannot be made, or not be written.
        """
        self.maker(maker, products)


# Formats that show what was measured in later steps, and those that tell notes.
_SHOWS = {
    "html": ("costs", "inspected"),
    "text": ("costs", "inspected"),
    "csv": ("costs",),
    "markdown": ("inspected",),
}
_TELLS_NOTES = ("text", "markdown")


def _always(_: Maker) -> bool:
    return True


def _write_json(maker: Maker, products: Products) -> None:
    assert products.graph is not None
    maker.write("graph.json", dumps(products.graph).encode())


def _format_row(kind: str, row: FormatRow) -> Row:
    def make(maker: Maker, products: Products) -> None:
        # A table and a picture have no notes.
        analysis = products.told_analysis if kind in _TELLS_NOTES else products.analysis
        assert analysis is not None
        options = maker.options
        maker.write(
            row.file,
            render(
                analysis,
                kind,
                options.depth,
                options.rules,
                direction=options.direction,
            ),
        )

    return Row(
        row.file,
        ("analysis",),
        page.write_page if kind == "html" else make,
        lambda maker: kind in maker.options.formats,
        early=row.early,
        shows=_SHOWS.get(kind, ()),
    )


def _backward_row(kind: str, file: str) -> Row:
    def make(maker: Maker, products: Products) -> None:
        assert products.backward_analysis is not None
        options = maker.options
        maker.write(
            file,
            render(
                products.backward_analysis,
                kind,
                options.depth,
                options.rules,
                direction=options.direction,
            ),
        )

    return Row(file, ("backward_analysis",), make, lambda maker: kind in maker.options.formats)


def _wants_events(maker: Maker) -> bool:
    return maker.events is not None


def _wants_run_graph(maker: Maker) -> bool:
    return maker.events is not None and maker.events.has_run_graph and not maker.stage


TABLE: tuple[Row, ...] = (
    Row("graph.json", ("graph",), _write_json, _always, early=True),
    *(_format_row(kind, row) for kind, row in FORMATS.items()),
    *(_backward_row(kind, row.backward_file) for kind, row in FORMATS.items() if row.backward_file),
    Row(
        "the TensorBoard graph",
        ("analysis",),
        events.add_run_graph,
        _wants_run_graph,
        early=True,
        is_event=True,
    ),
    Row("the TensorBoard extras", ("analysis",), events.add_extras, _wants_events, is_event=True),
    Row(
        "the times",
        ("analysis", "times_us"),
        events.add_times,
        _wants_events,
        shows=("times_us",),
        is_event=True,
    ),
    Row(
        "the health of a step",
        ("told_analysis", "health"),
        events.add_health,
        _wants_events,
        shows=("health",),
        is_event=True,
    ),
    Row(
        "trace.json",
        ("graph", "costs", "times_us"),
        trace_file.write_trace,
        _always,
        shows=("times_us",),
    ),
    Row("health.csv", ("inspected",), health.write_health, _always, shows=("inspected",)),
    Row(
        "the ONNX files",
        ("graph", "networks"),
        onnx_files.write_views,
        lambda maker: maker.options.onnx,
    ),
    Row(
        "the ONNX files",
        ("networks",),
        onnx_files.write_trained_models,
        lambda maker: maker.options.trained_onnx,
        made_in=MadeIn.TRAINING,
    ),
)


def rows(made_in: MadeIn) -> tuple[Row, ...]:
    """All artifacts that are made in one place, in order."""
    return tuple(row for row in TABLE if row.made_in is made_in)


def early_rows() -> tuple[Row, ...]:
    """What is quick enough to be made in a training step."""
    return tuple(row for row in TABLE if row.early)


def late_rows() -> tuple[Row, ...]:
    """All that is made from a recording where `early_rows` were made: the run has its graph."""
    return tuple(row for row in rows(MadeIn.JOB) if row.maker is not events.add_run_graph)


def measured_rows(products: Products) -> tuple[Row, ...]:
    """What shows what was measured in later steps.

    Args:
        products: Has it.
    """
    return tuple(
        row for row in TABLE if any(getattr(products, name) is not None for name in row.shows)
    )
