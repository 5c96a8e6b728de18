"""What a run has left behind: files that are not whole, jobs, processes."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import signal
import xml.etree.ElementTree
from collections.abc import Callable, Iterator
from pathlib import Path

from modelviz_callbacks.graph import ModelGraph
from modelviz_callbacks.report import Report

EVENTS = "events.out.tfevents."
_PNG_END = b"IEND\xaeB`\x82"


def broken_files(folder: Path) -> Iterator[str]:
    """Names of the files below a folder that are not whole, each with what its reader says.

    Files of a job are private to it and may be unfinished; what it leaves is told by `leftovers`.
    """
    for path in sorted(folder.rglob("*")):
        name = path.name
        in_job = any(part.startswith(".job-") for part in path.relative_to(folder).parts)
        if in_job or not path.is_file() or name.startswith(".part-"):
            continue
        check = _events if name.startswith(EVENTS) else _CHECKS.get(path.suffix)
        if check is None:
            continue
        try:
            check(path)
        except Exception as error:
            yield f"{name}: {type(error).__name__}: {str(error)[:200]}"


def leftovers(folder: Path) -> Iterator[str]:
    """Names of the jobs and unfinished files below a folder."""
    for path in sorted(folder.rglob(".*")):
        if path.name.startswith((".job-", ".part-")):
            yield path.name


def graphs_in_events(folder: Path) -> int:
    """How many graphs of runs the event files below a folder hold."""
    found = 0
    for path in folder.rglob(f"{EVENTS}*"):
        with contextlib.suppress(ValueError, OSError):
            found += sum(event.HasField("graph_def") for event in _events(path))
    return found


def processes_with(tag: str) -> list[int]:
    """The processes that were started with a word in their environment, zombies left out."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if tag.encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def end_process(pid: int) -> None:
    """Ends a process that should have ended long ago."""
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGKILL)


def _events(path: Path) -> list[object]:
    """Every record of an event file; each has a length and two checksums."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

    content, found, at = path.read_bytes(), [], 0
    while at < len(content):
        length = int.from_bytes(content[at : at + 8], "little")
        body = content[at + 12 : at + 12 + length]
        sums = content[at + 8 : at + 12], content[at + 12 + length : at + 16 + length]
        checked = (content[at : at + 8], body)
        for told, data in zip(sums, checked, strict=True):
            if len(told) < 4 or int.from_bytes(told, "little") != masked_crc32c(data):
                raise ValueError(f"a cut record at byte {at} of {len(content)}")
        found.append(Event.FromString(body))
        at += 16 + length
    return found


def _json(path: Path) -> None:
    if path.name == "report.json":
        Report.from_json(json.loads(path.read_bytes()))
    elif path.name == "graph.json":
        ModelGraph.load(path)
    else:
        json.loads(path.read_bytes())


def _png(path: Path) -> None:
    content = path.read_bytes()
    if not content.startswith(b"\x89PNG") or not content.endswith(_PNG_END):
        raise ValueError("no whole picture")


def _html(path: Path) -> None:
    if not path.read_text(encoding="utf-8").rstrip().endswith("</html>"):
        raise ValueError("no end")


def _text(path: Path) -> None:
    if not path.read_text(encoding="utf-8").endswith("\n"):
        raise ValueError("no end")


def _csv(path: Path) -> None:
    rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"))))
    if len({len(row) for row in rows}) != 1:
        raise ValueError("rows of several lengths")


def _onnx(path: Path) -> None:
    import onnx

    onnx.checker.check_model(path)


_CHECKS: dict[str, Callable[[Path], object]] = {
    ".json": _json,
    ".svg": xml.etree.ElementTree.parse,
    ".png": _png,
    ".html": _html,
    ".txt": _text,
    ".md": _text,
    ".mmd": _text,
    ".csv": _csv,
    ".onnx": _onnx,
}
