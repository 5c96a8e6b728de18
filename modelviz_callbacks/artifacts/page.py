"""The interactive page of a run: its recording, and those of its other stages, behind a switch."""

from __future__ import annotations

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.artifacts.maker import STAGES, Maker, called
from modelviz_callbacks.artifacts.products import Products
from modelviz_callbacks.artifacts.source_code import lines_around
from modelviz_callbacks.graph import ModelGraph
from modelviz_callbacks.view.display_rules import apply
from modelviz_callbacks.writers.html import PageGraph, render_pages

_PAGE, _GRAPH = "index.html", "graph.json"


def write_page(maker: Maker, products: Products) -> None:
    """Writes ``index.html``: the run's own graph first, then those of the stages in its folder.

    Whoever makes a recording's files writes the page again, so that the last one has them all.

    Args:
        maker: Where it goes.
        products: Has a graph.

    Raises:
        SinkError: It cannot be written.
    """
    assert products.told_analysis is not None
    own = apply(products.told_analysis, maker.options.rules)
    # The run's own has no stage, and so comes first.
    shown = {
        **_others(maker),
        maker.stage: PageGraph(own, measured=products.costs, health=products.health),
    }
    graphs = [shown[stage] for stage in sorted(shown)]
    code = lines_around((one.analysis.graph for one in graphs), products.source_files)
    maker.write_shared(_PAGE, render_pages(graphs, depth=maker.options.depth, code=code))


def _others(maker: Maker) -> dict[str, PageGraph]:
    """What the other recordings of this run have left in the folder, by stage."""
    found = {}
    for stage in {"", *STAGES} - {maker.stage}:
        path = maker.folder / called(_GRAPH, stage)
        if path.is_file():
            with maker.guarded(f"{path.name} in {_PAGE}"):
                found[stage] = PageGraph(
                    apply(Analysis(ModelGraph.load(path)), maker.options.rules)
                )
    return found
