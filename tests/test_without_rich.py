"""rich is an extra: without it everything works, in plain text."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from modelviz_callbacks.cli import terminal
from modelviz_callbacks.jobs.waiting import shown
from modelviz_callbacks.writers.diff_text import DiffLine

ROOT = Path(__file__).parents[1]


@pytest.fixture
def no_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal, and no rich: importing it fails."""
    for name in [name for name in sys.modules if name.split(".")[0] == "rich"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rich", None)
    for stream in (sys.stdout, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True)


@pytest.mark.usefixtures("no_rich")
def test_a_graph_and_a_difference_are_printed_plainly(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.print_tree("Net: x 2×3 -> y 2×3")
    terminal.print_diff([DiffLine("added", "+ fc")])
    assert capsys.readouterr().out == "Net: x 2×3 -> y 2×3\n+ fc\n"


@pytest.mark.usefixtures("no_rich")
def test_what_is_waited_for_is_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with shown(tmp_path, time.monotonic() + 60) as tell:
        tell("half")
    said = capsys.readouterr()
    assert (said.out + said.err).count("modelviz: finishing the files") == 1


def test_rich_is_no_requirement() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    required = text.partition("\ndependencies = [")[2].partition("]")[0]
    assert '"torch>=' in required
    assert "rich" not in required
    assert '\nrich = ["rich>=' in text
