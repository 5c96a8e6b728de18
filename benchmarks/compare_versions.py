"""Two checkouts side by side: which files of the zoo's models differ by a byte.

For every case of the zoo (``tests/zoo``) each checkout makes all its files: those of `GraphHook`
and those of ``Trace.save_*``, in a process that does one case after the other, under the same
seeds. Both processes take the cases from the same tree, the one this script lies in, so source
lines are the same; only ``modelviz_callbacks`` comes from the checkout. Of event files the events
are compared, without the times at which they were written. What a report says is compared too.

    python benchmarks/compare_versions.py OLD NEW [-k PATTERN] [--every N] [--jobs N]
                                          [--output FILE] [--keep FOLDER]

``-k`` takes the cases whose name holds the pattern (a regular expression), ``--every 10`` a tenth
of them, chosen by a hash of the name. Exit status: 0 where all files are equal, 1 where not.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import hashlib
import json
import os
import queue
import re
import select
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

SIDES = ("old", "new")
ZOO = Path(__file__).resolve().parent.parent
LIMIT_S = 300.0
SHOWN_LINES = 8
SHOWN_WIDTH = 200
# torch_geometric writes code into files with names from tempfile, other ones in each process.
_RANDOM_NAME = re.compile(rb"(torch_geometric\.[\w.]+_)[a-z0-9_]{8}(\.py)")


# --- in the child: one checkout, one case after the other


def zoo_cases() -> dict[str, Any]:
    """Every case of the zoo by its family and name, in the zoo's order."""
    from tests.zoo import hard_cases, pyg_models, torch_layers, transformers_models

    shelves = (hard_cases, torch_layers, pyg_models, transformers_models)
    return {
        f"{case.family}-{case.name}": case
        for module in shelves
        for case in module.CASES  # type: ignore[attr-defined]
    }


def serve(checkout: Path) -> None:
    """Makes the files of each case that a line of standard input asks for."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    sys.path[:0] = [str(checkout)]
    import torch

    import modelviz_callbacks

    found = Path(modelviz_callbacks.__file__).resolve().parent.parent
    assert found == checkout, f"modelviz_callbacks came from {found}, not from {checkout}"
    sys.path[0] = str(ZOO)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    cases = zoo_cases()
    for line in sys.stdin:
        asked = json.loads(line)
        answer = make_all(cases[asked["case"]], Path(asked["folder"]))
        print(json.dumps(answer), file=answers, flush=True)


def make_all(case: Any, folder: Path) -> dict[str, dict[str, str]]:
    """All files of a case: the hash of each by its name, and what failed by its name."""
    failed: dict[str, str] = {}
    for making in (_by_hook, _by_trace):
        part = folder / making.__name__.removeprefix("_by_")
        part.mkdir(parents=True)
        try:
            failed |= making(case, part)
        except Exception as error:
            failed[part.name] = _said(error)
    for path in _files(folder):
        path.write_bytes(_RANDOM_NAME.sub(rb"\1________\2", path.read_bytes()))
    hashes = {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in _files(folder)
    }
    return {"hashes": hashes, "failed": failed}


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _built(case: Any) -> Any:
    import torch

    from tests.zoo.cases import seed_everything

    torch.set_grad_enabled(True)  # a case that failed may have left it off
    built = case.make()
    seed_everything(1)
    return built


def _by_hook(case: Any, folder: Path) -> dict[str, str]:
    from modelviz_callbacks import GraphHook

    model, args, kwargs = _built(case)
    hook = GraphHook(
        model,
        dirpath=folder,
        tensorboard=str(folder / "events"),
        mlflow=False,
        formats=("svg", "html", "text", "markdown", "csv"),
        background=False,
    )
    try:
        with contextlib.suppress(Exception):  # of the model; the files up to there count
            model(*args, **kwargs)
    finally:
        hook.close()
    _flatten_events(folder / "events")
    report = json.loads((folder / "report.json").read_text())
    kept = {key: report.get(key) for key in ("name", "files", "refused", "figures")}
    (folder / "report.json").write_text(json.dumps(kept, indent=1))
    return {}


def _by_trace(case: Any, folder: Path) -> dict[str, str]:
    from modelviz_callbacks import trace

    model, args, kwargs = _built(case)
    traced = trace(model, *args, **kwargs)
    failed = {}
    makers = {
        "graph.json": lambda path: traced.graph.save(path),
        "graph.txt": traced.save_text,
        "graph.svg": traced.save_svg,
        "graph.html": traced.save_html,
        "graph.mmd": traced.save_mermaid,
        "graph.onnx": traced.save_onnx,
        "backward.svg": traced.save_backward_svg,
        "backward.html": traced.save_backward_html,
        "events": lambda path: traced.write_tensorboard(str(path)),
        "program.txt": lambda path: path.write_text(_program_text(traced)),
    }
    for name, make in makers.items():
        try:
            make(folder / name)
        except Exception as error:
            failed[f"trace/{name}"] = _said(error)
    _flatten_events(folder / "events")
    return failed


def _program_text(traced: Any) -> str:
    """The program's calls; in which of our modules a function lies is no matter."""
    return re.sub(r"modelviz_callbacks(\.\w+)*\.(\w+)", r"ours.\2", str(traced.program.graph))


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:SHOWN_WIDTH]


def _flatten_events(folder: Path) -> None:
    """Puts one file of events without their times in the place of a folder of event files."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    if not folder.is_dir():
        return
    events = []
    for path in sorted(folder.rglob("*tfevents*")):
        for event in EventFileLoader(str(path)).Load():
            event.ClearField("wall_time")
            event.ClearField("source_metadata")
            events.append(event.SerializeToString(deterministic=True))
    shutil.rmtree(folder)
    folder.with_suffix(".pb").write_bytes(
        b"".join(len(event).to_bytes(8, "little") + event for event in events)
    )


# --- in the parent: pairs of children, what they made compared


class Child:
    """A process that makes the files of one checkout."""

    def __init__(self, checkout: Path, log: IO[bytes]) -> None:
        self._checkout, self._log = checkout, log
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, case: str, folder: Path) -> None:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, __file__, "--serve", str(self._checkout)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env=os.environ | {"PYTHONPATH": str(self._checkout), "PYTHONHASHSEED": "0"},
            )
        assert self._process.stdin is not None
        line = json.dumps({"case": case, "folder": str(folder)})
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()

    def answer(self) -> dict[str, dict[str, str]]:
        """What was made; a process that ends or hangs is said to, and started anew."""
        assert self._process is not None
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], LIMIT_S)
        line = self._process.stdout.readline() if readable else b""
        if line:
            answer: dict[str, dict[str, str]] = json.loads(line)
            return answer
        why = "the process ended" if readable else f"nothing came in {LIMIT_S:.0f} s"
        self.end()
        return {"hashes": {}, "failed": {"process": why}}

    def end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


@dataclass
class Outcome:
    """What came out for one kind of file.

    Attributes:
        compared: How many both sides have.
        different: The cases in which they differ.
        one_sided: The cases that only one side has, with why.
    """

    compared: int = 0
    different: list[str] = field(default_factory=list)
    one_sided: list[str] = field(default_factory=list)


class Comparison:
    """Gathers the outcomes; may be told of cases from several threads."""

    def __init__(self, keep: Path) -> None:
        self._keep, self._lock = keep, threading.Lock()
        self.outcomes: dict[str, Outcome] = defaultdict(Outcome)
        self.failed_alike: Counter[str] = Counter()
        self.diffs: list[str] = []
        self.cases = 0

    def add(self, case: str, answers: list[dict[str, dict[str, str]]], folder: Path) -> None:
        with self._lock:
            self.cases += 1
            hashes = [answer["hashes"] for answer in answers]
            for name in sorted(hashes[0].keys() | hashes[1].keys()):
                self._add_file(case, name, [side.get(name) for side in hashes], folder)
            failed = [answer["failed"] for answer in answers]
            for name in sorted(failed[0].keys() | failed[1].keys()):
                said = [side.get(name, "made") for side in failed]
                if said[0] == said[1]:
                    self.failed_alike[name] += 1
                else:
                    text = f"{case} (old: {said[0]}; new: {said[1]})"
                    self.outcomes[name].one_sided.append(text)

    def _add_file(self, case: str, name: str, pair: list[str | None], folder: Path) -> None:
        outcome = self.outcomes[name]
        if None in pair:
            side = "old" if pair[1] is None else "new"
            outcome.one_sided.append(f"{case} (only {side})")
            return
        outcome.compared += 1
        if pair[0] == pair[1]:
            return
        outcome.different.append(case)
        paths = [folder / side / name for side in SIDES]
        self.diffs.append(f"{case} {name}\n{difference(*paths)}")
        for side, path in zip(SIDES, paths, strict=True):
            kept = self._keep / case / side / name
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, kept)

    @property
    def all_equal(self) -> bool:
        return not any(o.different or o.one_sided for o in self.outcomes.values())

    def text(self) -> str:
        lines = [f"{'file':24}{'cases':>7}{'equal':>7}{'differ':>8}{'one side':>10}"]
        for name, outcome in sorted(self.outcomes.items()):
            differ, alone = len(outcome.different), len(outcome.one_sided)
            equal = outcome.compared - differ
            lines.append(f"{name:24}{outcome.compared:7}{equal:7}{differ:8}{alone:10}")
        for name, outcome in sorted(self.outcomes.items()):
            if outcome.different:
                lines.append(f"\n{name} differs in: {' '.join(outcome.different)}")
            if outcome.one_sided:
                lines.append(f"\n{name} is not on both sides in: {'; '.join(outcome.one_sided)}")
        if self.failed_alike:
            counts = ", ".join(f"{name} {count}" for name, count in self.failed_alike.items())
            lines.append(f"\nCould not be made on either side, for the same reason: {counts}")
        return "\n".join(lines)


def difference(old: Path, new: Path) -> str:
    """The first lines in which two files differ, short."""
    found = [
        line
        for line in difflib.unified_diff(_lines(old), _lines(new), n=0, lineterm="")
        if not line.startswith(("---", "+++"))
    ]
    more = [f"  … {len(found) - SHOWN_LINES} more lines"] if len(found) > SHOWN_LINES else []
    return "\n".join([*(f"  {line[:SHOWN_WIDTH]}" for line in found[:SHOWN_LINES]), *more])


def _lines(path: Path) -> list[str]:
    """A file as lines of text: one an XML tag or JSON field, one a field of a protobuf."""
    data = path.read_bytes()
    if path.suffix == ".onnx":
        import onnx

        return str(onnx.load_from_string(data)).splitlines()
    if path.suffix == ".pb":
        return _lines_of_events(data)
    text = data.decode(errors="replace")
    if path.suffix in (".svg", ".html", ".json"):
        text = re.sub(r'(<|, "|\{")', r"\n\1", text)
    return text.splitlines()


def _lines_of_events(data: bytes) -> list[str]:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.graph_pb2 import GraphDef

    lines, at = [], 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 8], "little")
        event = Event.FromString(data[at + 8 : at + 8 + size])
        at += 8 + size
        if event.graph_def:
            lines += str(GraphDef.FromString(event.graph_def)).splitlines()
            event.ClearField("graph_def")
        lines += str(event).splitlines()
    return lines


def work(checkouts: list[Path], cases: queue.Queue[str], into: Comparison, folder: Path) -> None:
    """Gives the cases to a pair of children, one of each checkout, until none is left."""
    with (folder.with_suffix(".log")).open("wb") as log:
        children = [Child(checkout, log) for checkout in checkouts]
        try:
            for case in _taken(cases):
                for side, child in zip(SIDES, children, strict=True):
                    child.ask(case, folder / side)
                into.add(case, [child.answer() for child in children], folder)
                shutil.rmtree(folder, ignore_errors=True)
                if into.cases % 25 == 0:
                    print(f"{into.cases} cases, at {time.strftime('%H:%M:%S')}", file=sys.stderr)
        finally:
            for child in children:
                child.end()


def _taken(cases: queue.Queue[str]) -> Iterator[str]:
    with contextlib.suppress(queue.Empty):
        while True:
            yield cases.get_nowait()


def chosen(pattern: str, every: int) -> list[str]:
    sys.path.insert(0, str(ZOO))
    return [
        name
        for name in zoo_cases()
        if re.search(pattern, name)
        and int(hashlib.sha256(name.encode()).hexdigest(), 16) % every == 0
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=lambda given: Path(given).resolve())
    parser.add_argument("new", type=lambda given: Path(given).resolve())
    parser.add_argument("-k", default="", metavar="PATTERN", help="only cases whose name holds it")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only one case in N")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time, an even number")
    parser.add_argument("--output", type=Path, help="a file for the outcome and all differences")
    parser.add_argument("--keep", type=Path, help="a folder for the files that differ")
    options = parser.parse_args()
    cases: queue.Queue[str] = queue.Queue()
    names = chosen(options.k, options.every)
    for name in names:
        cases.put(name)
    print(f"{len(names)} cases, old: {options.old}, new: {options.new}", file=sys.stderr)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        comparison = Comparison(options.keep or Path(scratch) / "kept")
        threads = [
            threading.Thread(
                target=work,
                args=([options.old, options.new], cases, comparison, Path(scratch) / f"pair{i}"),
            )
            for i in range(max(1, options.jobs // 2))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    took = f"{comparison.cases} cases in {time.monotonic() - started:.0f} s"
    outcome = f"{comparison.text()}\n\n{took}"
    if options.output:
        options.output.write_text("\n\n".join([outcome, *comparison.diffs]) + "\n")
    print("\n\n".join([outcome, *comparison.diffs[:10]]))
    sys.exit(0 if comparison.all_equal and comparison.cases == len(names) > 0 else 1)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(Path(sys.argv[2]))
    else:
        main()
