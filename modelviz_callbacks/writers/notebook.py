"""A graph as the output of a notebook's cell: the picture, and the interactive page below it.

Both are sealed off from the notebook: the picture is an image by its data, the page a sandboxed
frame by its text. So neither takes over a style or a name of the notebook's own, and the
picture still shows where frames and scripts are taken out (code-hosting sites, exports).
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from html import escape

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.graph.model import ModelGraph
from modelviz_callbacks.writers import html, svg


def render(
    graph: ModelGraph | Analysis,
    *,
    depth: int | None = None,
    times_us: Mapping[str, float] | None = None,
) -> str:
    """Writes the output of a cell.

    Args:
        graph: A sound graph, or its analysis.
        depth: How many levels of modules to open; ``None``: as many as stay readable.
        times_us: As for `modelviz_callbacks.writers.html.render`.

    Returns:
        A piece of HTML for ``_repr_html_``; it loads nothing and sends nothing.

    Raises:
        ImportError: There is nothing that lays it out.
        WriterError: It could not be laid out.
    """
    analysis = Analysis.of(graph)
    image = b64encode(svg.render(analysis, depth=depth)).decode()
    page = html.render(analysis, depth=depth, times_us=times_us).decode()
    name = escape(analysis.graph.name.encode(errors="replace").decode())
    return (
        f'<img alt="{name}" style="max-width:100%" src="data:image/svg+xml;base64,{image}">\n'
        "<details><summary>Look inside</summary>\n"
        '<iframe sandbox="allow-scripts" loading="lazy" '
        'style="width:100%;height:min(720px,85vh);border:1px solid #8884;border-radius:6px" '
        f'title="{name}" srcdoc="{escape(page)}"></iframe>\n'
        "</details>"
    )
