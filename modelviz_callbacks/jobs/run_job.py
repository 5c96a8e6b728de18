"""What a worker does with a job."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

from modelviz_callbacks.artifacts.products import Production
from modelviz_callbacks.artifacts.tracking import publish
from modelviz_callbacks.jobs.job_directory import Job
from modelviz_callbacks.tracing import Recording, unpack
from modelviz_callbacks.trackers.tensorboard import TensorBoardSink, staged


def work(job: Job, remaining_s: Callable[[], float]) -> None:
    """Does a job.

    Args:
        job: What to do; its report is written into its folder.
        remaining_s: How many seconds are left for uploads.
    """
    production = Production(job.options, job.folder, job.report)
    packed = job.recording()
    if packed is not None:
        with production.guarded("the graph"):
            _make(production, job, unpack(packed))
        production.write_report()
    with production.guarded("the report"):
        job.tell()
    if job.run is not None:
        names = job.upload if packed is None else job.report.files
        run = replace(job.run, tracking_uri=os.environ.get("MLFLOW_TRACKING_URI"))
        with production.guarded("the MLflow run"):
            publish(run, job.report, production.analysis, names, remaining_s)
        if packed is not None:
            production.write_report()
        with production.guarded("the report"):
            job.tell()


def deliver(job: Job) -> None:
    """Writes staged events into the run itself: the process that owns its writer is gone."""
    events = job.take_events() if job.event_folder else None
    if events is None:
        return
    with TensorBoardSink(job.event_folder) as sink:
        for event in staged(events):
            sink.add_event(event)


def _make(production: Production, job: Job, recording: Recording) -> None:
    production.lower(recording)
    production.lower_backward(recording)
    production.add_costs(recording)
    production.write_quick()
    production.write_pictures()
    if job.tensorboard == "folder":
        production.write_run_graph(job.event_folder)
        production.write_extras(job.event_folder)
    elif job.tensorboard:
        _stage_events(production, job)
    production.write_views(recording)


def _stage_events(production: Production, job: Job) -> None:
    """Leaves the events to the process that owns the run's writer; all of them or none."""
    if production.graph is None:
        return
    unfinished = job.staged_events.with_suffix(".part")
    if job.tensorboard == "staged":
        production.write_run_graph(unfinished, is_staged=True)
    production.write_extras(unfinished)
    if unfinished.exists():
        unfinished.rename(job.staged_events)
