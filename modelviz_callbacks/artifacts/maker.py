"""Makes artifacts, wherever that happens; what fails is a line of the report."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from modelviz_callbacks.artifacts.directory import Directory
from modelviz_callbacks.artifacts.products import Products
from modelviz_callbacks.graph import ModelGraph
from modelviz_callbacks.options import Options
from modelviz_callbacks.report import Report
from modelviz_callbacks.view.note_lines import note_lines

# What else of a run can be recorded beside its own recording.
STAGES = ("train", "validate", "test", "predict")


@dataclass(frozen=True)
class Events:
    """Where TensorBoard's events go.

    Attributes:
        target: A directory, or a writer, which stays open.
        is_staged: Whether another process will take them to where they belong.
        has_run_graph: Whether the run's own graph is written here, or by somebody else.
    """

    target: Any
    is_staged: bool = False
    has_run_graph: bool = True


class Artifact(Protocol):
    """What a maker needs to know of an artifact; see ``artifacts.table``."""

    @property
    def name(self) -> str:
        """What the report calls it."""
        ...

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the products it is made from."""
        ...

    def is_wanted(self, maker: Maker) -> bool:
        """Whether the options ask for it."""
        ...

    def make(self, maker: Maker, products: Products) -> None:
        """Makes it."""
        ...


class Maker:
    """Makes the artifacts of one recording and keeps the report.

    Attributes:
        options: What to make.
        folder: Where the files go.
        report: Gets a line for each file and each failure.
        events: Where TensorBoard's events go; ``None``: nowhere.
        stage: ``""`` for the run's own recording; else the files' names begin with it, and what a
            run has but once (tags, figures) is left to the run's own.
        failed: What failed first of this recording.
        failures: What failed, of all recordings of the run.
    """

    def __init__(
        self,
        options: Options,
        folder: Path,
        report: Report,
        events: Events | None = None,
        stage: str = "",
    ) -> None:
        """Nothing is made yet.

        Args:
            options: What to make.
            folder: Where the files go.
            report: Gets a line for each file and each failure.
            events: Where TensorBoard's events go; ``None``: nowhere.
            stage: Which further recording of the run it is for.
        """
        self.options = options
        self.folder = folder
        self.report = report
        self.events = events
        self.stage = stage
        self.failed: Exception | None = None
        self.failures: list[Exception] = []

    def for_stage(self, stage: str) -> Maker:
        """One for a further recording of the same run, into the same folder and report.

        Args:
            stage: ``validate``, ``test``, ... It is told in the graph's name.
        """
        name = f"{self.options.name or self.report.name} ({stage})"
        options = replace(
            self.options,
            name=name,
            trained_onnx=False,
            profile_step=None,
            inspect_step=None,
            watch_changes=None,
        )
        maker = Maker(options, self.folder, self.report, stage=stage)
        maker.failures = self.failures
        return maker

    @contextmanager
    def guarded(self, what: str) -> Iterator[None]:
        """Turns any failure into a line of the report: nothing here ends a run."""
        try:
            yield
        except Exception as error:
            self.refuse(what, error)

    def refuse(self, what: str, error: Exception) -> None:
        """Notes a failure."""
        self.report.refuse(f"{self.stage}: {what}" if self.stage else what, error)
        self.note_failure(error)

    def note_failure(self, error: Exception) -> None:
        """Remembers a failure that the report has already."""
        self.failures.append(error)
        if self.failed is None:
            self.failed = error

    def make(self, artifacts: Iterable[Artifact], products: Products) -> None:
        """Makes artifacts in their order, each that is wanted and whose needs are there.

        Args:
            artifacts: Rows of the table.
            products: What they are made from.
        """
        for artifact in artifacts:
            if not artifact.is_wanted(self):
                continue
            if all(getattr(products, need) is not None for need in artifact.needs):
                with self.guarded(artifact.name):
                    artifact.make(self, products)

    def describe(self, graph: ModelGraph | None) -> None:
        """Puts the figures and the notes of a graph into the report."""
        if graph is None:
            return
        figures = {
            "parameters": graph.parameter_count,
            "trainable": graph.trainable_count,
            "ops": len(graph.ops),
            "modules": sum(call.called and not call.is_function for call in graph.modules),
        }
        if any(node.flops is not None for node in graph.ops):
            figures["flops"] = sum(node.flops or 0 for node in graph.ops)
        live = [node.live_bytes for node in graph.ops if node.live_bytes is not None]
        if live:
            figures["kept_bytes"] = sum(node.kept_bytes or 0 for node in graph.ops)
            figures["peak_bytes"] = max(live)
        if not self.stage:
            self.report.figures |= figures
        for note in graph.notes:
            self.add_remark(note.message)
            if note.kind == "no-inputs":  # a warning: what depends on a batch is a constant in it
                self._warn_of("the inputs", note.message)

    def _warn_of(self, what: str, message: str) -> None:
        """Makes a sentence one of those that are shown when the run is over."""
        what = f"{self.stage}: {what}" if self.stage else what
        if all(refusal.what != what for refusal in self.report.refused):
            self.report.refuse(what, message)

    def describe_measured(self, products: Products) -> None:
        """Puts what is known of steps that were timed or looked into into the report."""
        times = products.times
        if times is not None:
            for remark in times.remarks:
                self.add_remark(remark)
            if times.times_us:
                self.report.figures["step_us"] = times.total_us
            if times.backward_total_us:
                self.report.figures["backward_us"] = times.backward_total_us
        optimizer_bytes = products.measured.optimizer_bytes
        if optimizer_bytes:
            self.report.figures["optimizer_bytes"] = sum(optimizer_bytes.values())
        for step in products.inspected or ():
            for remark in step.remarks:
                self.add_remark(f"Step {step.number}: {remark}")
        for line in note_lines(products.health_notes):
            self.add_remark(line)

    def add_remark(self, remark: str) -> None:
        """Puts a sentence into the report, once."""
        remark = f"{self.stage}: {remark}" if self.stage else remark
        if remark not in self.report.remarks:
            self.report.remarks.append(remark)

    # --- files

    def called(self, name: str) -> str:
        """What a file of this recording is called in the folder."""
        return called(name, self.stage)

    def write(self, name: str, data: bytes | Callable[[Path], object]) -> None:
        """Writes one file of this recording, whole or not at all, and lists it.

        Args:
            name: What it is called where there is but one recording.
            data: As `Directory.write` takes it.

        Raises:
            SinkError: It cannot be written.
        """
        self.write_shared(self.called(name), data)

    def write_shared(self, name: str, data: bytes | Callable[[Path], object]) -> None:
        """Writes one file of all recordings of the run; else as `write`.

        Args:
            name: What it is called in the folder.
            data: As `Directory.write` takes it.

        Raises:
            SinkError: It cannot be written.
        """
        Directory(self.folder).write(name, data)
        self.add_file(name)

    def add_file(self, name: str) -> None:
        """Lists a file."""
        if name not in self.report.files:
            self.report.files.append(name)

    def write_report(self) -> None:
        """Writes the report, which lists itself."""
        self.add_file("report.json")
        with self.guarded("report.json"):
            try:
                Directory(self.folder).write("report.json", self.report.to_json().encode())
            except Exception:
                self.report.files.remove("report.json")
                raise

    def find_files(self, since: float) -> None:
        """Lists what is in the folder since a moment: who wrote it cannot tell any more.

        Args:
            since: In seconds since 1970.
        """
        for path in sorted(self.folder.glob("*")):
            if path.name[0] != "." and path.is_file() and path.stat().st_mtime >= since:
                self.add_file(path.name)


def called(name: str, stage: str) -> str:
    """What a file of a recording is called.

    Args:
        name: Where there is but one recording.
        stage: ``""`` for the run's own.
    """
    return f"{stage}.{name}" if stage else name


# Shorter than what any file system takes, so that an ending fits behind it.
_LONGEST_NAME_BYTES = 100
# What Windows takes for a device, in any folder and with any ending.
_DEVICE = re.compile(r"(con|prn|aux|nul|(com|lpt)[0-9¹²³])(\.|$)", re.IGNORECASE)


def file_name(name: str) -> str:
    """A name that any file system takes: letters, digits, ``-``, ``_`` and ``.``."""
    plain = re.sub(r"[^\w.-]", "_", name)
    short = plain.strip(".").encode()[:_LONGEST_NAME_BYTES].decode(errors="ignore").rstrip(".")
    return _DEVICE.sub(r"\1_\3", short, count=1) if _DEVICE.match(short) else short or "model"
