"""What is done with a job, in the worker or, if it was taken back, in the training process."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.artifacts.changes import compare_step
from modelviz_callbacks.artifacts.events import mention
from modelviz_callbacks.artifacts.maker import Events, Maker
from modelviz_callbacks.artifacts.products import Products
from modelviz_callbacks.artifacts.table import MadeIn, Row, measured_rows, rows
from modelviz_callbacks.artifacts.tracking import publish
from modelviz_callbacks.graph import ModelGraph
from modelviz_callbacks.jobs.job import Job
from modelviz_callbacks.jobs.sending import Sending
from modelviz_callbacks.tracing import unpack, unpack_measured
from modelviz_callbacks.trackers.tensorboard import TensorBoardTracker, staged


def work(job: Job, remaining_s: Callable[[], float], uri: str | None = None) -> None:
    """Does a job, uploads included.

    Args:
        job: What to do; its report is left in its folder.
        remaining_s: How many seconds are left for uploads.
        uri: The MLflow store.
    """
    maker, analysis = make(job)
    if job.run is None or not (job.report.files or job.upload):
        return
    if analysis is None and "graph.json" in job.upload:
        with maker.guarded("the MLflow run"):
            analysis = Analysis(ModelGraph.load(job.folder / "graph.json"))
    names = [*job.report.files, *(name for name in job.upload if name not in job.report.files)]
    run = replace(job.run, tracking_uri=uri)
    with maker.guarded("the MLflow run"):
        publish(
            run,
            job.report,
            analysis,
            names,
            remaining_s,
            heard=Sending(job.place).heard,
        )
    if "report.json" in job.report.files:
        maker.write_report()
    _publish_report(maker, job)


def make(job: Job) -> tuple[Maker, Analysis | None]:
    """Makes the files and events of a job.

    Args:
        job: What to make; its report is left in its folder.

    Returns:
        Who made them, and the analysis of the graph they are of.
    """
    maker = Maker(job.options, job.folder, job.report, stage=job.stage)
    recording, measured = job.recording(), job.measured()
    analysis = None
    if recording is not None and job.step:
        with maker.guarded("the comparison with the steps before"), _EventsOf(job, maker):
            products = Products(unpack(recording), job.options.name, maker.refuse)
            compare_step(maker, products, job.step)
    elif recording is not None:
        with maker.guarded("the graph"), _EventsOf(job, maker):
            known = None if measured is None else unpack_measured(measured)
            products = Products(unpack(recording), job.options.name, maker.refuse, known)
            maker.describe(products.graph)
            maker.describe_measured(products)
            _make_rows(rows(MadeIn.JOB), job, maker, products)
            # What a run has but once is told of its own recording.
            analysis = None if job.stage else products.analysis
        maker.write_report()
    elif measured is not None:
        with maker.guarded("what was measured"), _EventsOf(job, maker):
            products = Products.of_graph(
                ModelGraph.load(job.folder / "graph.json"), maker.refuse, unpack_measured(measured)
            )
            analysis = products.analysis
            maker.describe_measured(products)
            _make_rows(measured_rows(products), job, maker, products)
    _publish_report(maker, job)
    return maker, analysis


def _make_rows(wanted: tuple[Row, ...], job: Job, maker: Maker, products: Products) -> None:
    """Makes rows in their order; what a run's own folder has got, it does not get again."""
    in_run = job.tensorboard == "folder"
    written = job.events_written() if in_run else []
    for row in wanted:
        if row.name in written:
            continue
        refused = len(maker.report.refused)
        maker.make([row], products)
        if in_run and row.is_event and len(maker.report.refused) == refused:
            with maker.guarded("the job"):
                job.note_events(row.name)


def _publish_report(maker: Maker, job: Job) -> None:
    with maker.guarded("the report"):
        job.publish_report()


class _EventsOf:
    """Lets events go where a job says; staged ones appear all together or not at all."""

    def __init__(self, job: Job, maker: Maker) -> None:
        self._job = job
        self._maker = maker
        self._unfinished = job.staged_events.with_suffix(".part")

    def __enter__(self) -> None:
        kind = self._job.tensorboard
        if kind == "folder":
            self._maker.events = Events(self._job.event_folder)
        elif kind and not self._job.has_made_events:
            shutil.rmtree(self._unfinished, ignore_errors=True)  # of who was killed over it
            has_run_graph = kind == "staged"
            self._maker.events = Events(self._unfinished, True, has_run_graph)

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None and self._unfinished.exists():
            self._unfinished.rename(self._job.staged_events)


def deliver(place: Path) -> None:
    """Writes staged events into the run itself: the process that owns its writer is gone.

    Args:
        place: A job's folder.
    """
    job = Job.load(place)
    if job.event_folder:
        take_events(job, job.event_folder)


def take_events(job: Job, target: object) -> str | None:
    """Writes a job's staged events where they belong; whoever is first does.

    Args:
        job: The job.
        target: A TensorBoard writer, or the folder of one that is gone.

    Returns:
        The run's folder; ``None``: there are no such events any more.

    Raises:
        TrackerError: They cannot be written there.
    """
    events = job.take_events()
    if events is None:
        return None
    with TensorBoardTracker(target) as tracker:
        tracker.log_events(staged(events))
        job.events_delivered()
        if job.tensorboard == "staged":
            mention(job.report, tracker)
        return tracker.log_dir
