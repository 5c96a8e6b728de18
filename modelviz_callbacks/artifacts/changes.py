"""The graph of a later step beside those before it (``watch_changes``): what differs is kept.

``changes.json`` has what is known so far, for the next step to be compared with, and for people.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.artifacts.maker import Maker
from modelviz_callbacks.artifacts.products import Products
from modelviz_callbacks.diff.diff import GraphDiff, diff
from modelviz_callbacks.graph import ModelGraph
from modelviz_callbacks.tracing import told_modules
from modelviz_callbacks.trackers.tensorboard import TensorBoardTracker
from modelviz_callbacks.writers import diff_html, diff_text

CHANGES = "changes.json"

# How many graphs of later steps are kept: a model whose graph is another one each time is told
# so, and does not fill the disk.
_MOST_KEPT = 20
# How many changes the line of a step tells; the file tells all.
_MOST_TOLD = 3

_KEPT_ENOUGH = "Step {step}: the graph is another one again; {count} are kept and no more."
_AGAIN = "Step {step}: the graph is that of step {first} again."
_CHANGED = "Step {step}: the graph is another one than that of step {before}: {what}."
_PARTIAL = "Step {step}: not compared, since it was not recorded to its end: {why}"


def compare_step(maker: Maker, products: Products, step: int) -> None:
    """Compares a later step's graph with the one before; where it is the same, writes nothing.

    Args:
        maker: Where files, events and sentences go; its folder has the run's ``graph.json``.
        products: Of the step's recording.
        step: Its number; 0 was recorded first.

    Raises:
        SinkError: Something cannot be written.
        GraphFormatError: The graph before cannot be read.
        GraphError: A graph breaks the rules of graphs.
        TrackerError: TensorBoard's events cannot be written.
    """
    analysis, recording = products.early.analysis, products.recording
    if analysis is None or recording is None:
        return
    if analysis.graph.partial:
        why = recording.error or recording.fault
        maker.add_remark(_PARTIAL.format(step=step, why=why))
        return
    known = _known(maker.folder)
    before = known["graphs"][known["last"]]
    key = _key(analysis)
    if key == before["key"]:
        return
    place = next((n for n, one in enumerate(known["graphs"]) if one["key"] == key), None)
    known["used"] = _used({*known["called"]}, analysis, [name for name, _ in _told(recording)])
    new = sorted(_called(analysis) - {*known["called"]})
    known["called"] = sorted({*known["called"], *_called(analysis)})
    if place is not None:
        known["last"] = place
        if not known["graphs"][place].get("again"):
            known["graphs"][place]["again"] = step
            maker.add_remark(_AGAIN.format(step=step, first=known["graphs"][place]["step"]))
    elif len(known["graphs"]) > _MOST_KEPT:
        if not known["is_full"]:
            maker.add_remark(_KEPT_ENOUGH.format(step=step, count=len(known["graphs"])))
        known["is_full"] = True
    else:
        _keep(maker, known, analysis, step, key, new)
    maker.write_shared(CHANGES, json.dumps(known, indent=2).encode())


def _keep(
    maker: Maker, known: dict[str, Any], analysis: Analysis, step: int, key: str, new: list[str]
) -> None:
    """Writes a graph that was not there before, and in what it differs from the last one."""
    last = known["graphs"][known["last"]]
    found = diff(Analysis(ModelGraph.load(maker.folder / last["file"])), analysis)
    told = _in_short(found, new)
    sentence = _CHANGED.format(step=step, before=last["step"], what=told)
    file, text = f"graph_step_{step}.json", f"graph_step_{step}.diff.txt"
    maker.write_shared(file, analysis.graph.save)
    head = "".join(f"called for the first time: {name}\n" for name in new)
    maker.write_shared(text, f"{sentence}\n{head}\n".encode() + diff_text.render(found))
    if "html" in maker.options.formats:
        page = f"graph_step_{step}.diff.html"
        maker.write_shared(page, diff_html.render(found))
    known["last"] = len(known["graphs"])
    known["graphs"].append({"step": step, "file": file, "key": key, "change": sentence})
    maker.add_remark(sentence)
    if maker.events is not None:
        _add_events(maker, analysis, step, (maker.folder / text).read_text(encoding="utf-8"))


def _add_events(maker: Maker, analysis: Analysis, step: int, text: str) -> None:
    """A graph of its own tag, and the differences among the texts, both at the step."""
    from modelviz_callbacks.writers.graphdef import timed_graph

    assert maker.events is not None
    with TensorBoardTracker(maker.events.target) as tracker:
        named = timed_graph(analysis, {}, f"graph of step {step}")
        if named.has_graph:
            tracker.add_named_graph(named.tag, named.metadata, step)
        tracker.add_text(f"{analysis.graph.name}/changes", f"```\n{text}\n```", step)
        tracker.flush()


def _known(folder: Path) -> dict[str, Any]:
    """What is known of the steps before; at first, of the run's own recording."""
    path = folder / CHANGES
    if path.is_file():
        known: dict[str, Any] = json.loads(path.read_bytes())
        return known
    first = Analysis(ModelGraph.load(folder / "graph.json"))
    return {
        "graphs": [{"step": 0, "file": "graph.json", "key": _key(first)}],
        "last": 0,
        "called": sorted(_called(first)),
        "used": [],
        "is_full": False,
    }


def _key(analysis: Analysis) -> str:
    """Equal for the same architecture of the same modules: experts may be alike but for names."""
    return " ".join([analysis.fingerprint, *sorted(_called(analysis))])


def _called(analysis: Analysis) -> set[str]:
    return {call.path for call in analysis.graph.modules if call.called and call.path}


def _in_short(found: GraphDiff, new: list[str]) -> str:
    changed = [
        line.text.strip()
        for line in diff_text.lines(found)
        if line.role in ("added", "removed", "changed")
    ]
    if new:
        changed.insert(0, f"called for the first time: {', '.join(diff_text.ranges(new))}")
    more = len(changed) - _MOST_TOLD
    shown = "; ".join(changed[:_MOST_TOLD]) or "other modules were called"
    return f"{shown}; and {more} more" if more > 0 else shown


# --- the branches seen so far


def _told(recording: Any) -> list[tuple[str, bool]]:
    return told_modules(recording.model)


def _used(called: set[str], analysis: Analysis, names: Iterable[str]) -> list[str]:
    """Which of the modules in one container were called so far, where not all of them were."""
    seen = called | _called(analysis)
    alike: dict[tuple[str, ...], list[str]] = {}
    for parent, children in _children(names).items():
        used = [one for one in children if any(_is_in(path, f"{parent}.{one}") for path in seen)]
        if parent and parent not in seen and used and len(used) < len(children):
            words = (*diff_text.ranges(used), str(len(children)))
            alike.setdefault(words, []).append(parent)
    return [
        f"{', '.join(diff_text.ranges(parents))} {', '.join(words[:-1])} of {words[-1]} were used"
        for words, parents in alike.items()
    ]


def _is_in(path: str, module: str) -> bool:
    return path == module or path.startswith(f"{module}.")


def _children(names: Iterable[str]) -> Mapping[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in names:
        parent, _, own = name.rpartition(".")
        found.setdefault(parent, []).append(own)
    return found


def branches_seen(folder: Path) -> list[str]:
    """What is known of branches when training has ended.

    Args:
        folder: Of the run.

    Returns:
        A sentence for each kind of container of which not all modules were called.
    """
    try:
        used = json.loads((folder / CHANGES).read_bytes())["used"]
        return [f"Of all recorded steps: {line}." for line in used]
    except (OSError, ValueError, LookupError, TypeError):
        return []


def changes_told(path: Path) -> list[str]:
    """The sentences about the steps whose graph was another one.

    Args:
        path: Of a ``changes.json``.
    """
    try:
        graphs = json.loads(path.read_bytes())["graphs"]
        return [str(one["change"]) for one in graphs if "change" in one]
    except (OSError, ValueError, LookupError, TypeError):
        return []
