"""What a trainer's loggers are, whatever package they come from: writers, runs, folders.

Nothing is imported for it: what a person does not use is not loaded to be recognised.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from modelviz_callbacks.run import Run
from modelviz_callbacks.tracing import open_writer, tracking_uri
from modelviz_callbacks.trackers.event_classes import as_taken_by
from modelviz_callbacks.trackers.event_file import open_events
from modelviz_callbacks.trackers.registry import is_live_run
from modelviz_callbacks.trackers.tensorboardx import TensorboardXWriter, as_torchs

# How a logger calls what it writes with, in Lightning, accelerate, Ignite, transformers.
_INNER = (
    *("experiment", "tracker", "writer", "tb_writer", "active_run", "_task", "_wandb"),
    *("run_", "wandb_run", "task"),  # skorch
)


class Writers:
    """Several SummaryWriters as one: what comes goes to all of them."""

    def __init__(self, writers: Sequence[Any], are_closed_first: bool = False) -> None:
        """The writers stay the user's.

        Args:
            writers: One or more ``SummaryWriter``.
            are_closed_first: Whether their trainer closes them for good before we have written
                everything: the rest goes into a file of ours beside theirs.
        """
        self._writers = writers
        self._are_closed_first = are_closed_first
        self._own: dict[str, Any] = {}

    def get_logdir(self) -> str:
        """The folder around those of all."""
        return os.path.commonpath([Path(one.get_logdir()).absolute() for one in self._writers])

    def add_event(self, event: Any) -> None:
        """Writes an event."""
        self._each(lambda file: file.add_event(as_taken_by(file, event)))

    def flush(self) -> None:
        """Makes what was written visible."""
        self._each(lambda file: file.flush())

    def _each(self, act: Callable[[Any], object]) -> None:
        """Does something with every file, then raises what failed first."""
        failed: list[Exception] = []
        for writer in self._writers:
            try:
                # One that is closed would begin another file for its next scalar.
                if writer.file_writer is not None:
                    act(writer.file_writer)
                elif self._are_closed_first:
                    act(self._own_file(writer.get_logdir()))
            except Exception as error:
                failed.append(error)
        if failed:
            raise failed[0]

    def _own_file(self, folder: str) -> Any:
        if folder not in self._own:
            self._own[folder] = open_events(folder)
        return self._own[folder]


def is_named(thing: object, name: str, *packages: str) -> bool:
    """Whether an object is of a class of that name from one of some packages."""
    return any(
        kind.__name__ == name and kind.__module__.split(".")[0] in packages
        for kind in type(thing).__mro__
    )


def connect(
    run: Run,
    loggers: Iterable[Any],
    otherwise: Path | None = None,
    are_closed_first: bool = False,
) -> None:
    """Points a run at what a trainer's loggers write to: folder, TensorBoard, MLflow, others.

    Args:
        run: Of which nothing was recorded yet.
        loggers: Those of Lightning, Fabric, accelerate, Ignite or transformers; what none of them
            is told apart by is passed over.
        otherwise: The folder above the files if no logger has one; ``None``: the run's own.
        are_closed_first: Whether the trainer closes its writers before it tells that training has
            ended.
    """
    folder: Path | None = None
    writers: list[Any] = []
    runs: list[tuple[str | None, str]] = []
    for logger in loggers:
        with run.guarded("the loggers"):
            inner = as_torchs(_written_with(logger))
            given = _folder_of(logger, inner)
            if given is not None and "://" in given:
                run.add_remote_folder(f"{given.rstrip('/')}/model_graph")
            elif given is not None and folder is None:
                folder = Path(given).absolute()
            if is_summary_writer(inner) and run.tensorboard is True:
                # After an earlier fit the writer is closed, and is opened again by the next
                # scalar. Opening it now puts the graph into that same file.
                open_writer(inner.users if isinstance(inner, TensorboardXWriter) else inner)
                writers.append(inner)
            elif is_named(logger, "MLFlowLogger", "lightning", "pytorch_lightning"):
                # The run is made now, as the trainer would a moment later.
                runs.append((tracking_uri(logger), logger.run_id))
            elif is_named(inner, "Run", "mlflow"):
                runs.append((None, inner.info.run_id))
            elif is_live_run(inner):
                run.add_live(inner)
    if writers:
        is_simple = len(writers) == 1 and not are_closed_first
        run.tensorboard = writers[0] if is_simple else Writers(writers, are_closed_first)
    if folder is not None or otherwise is not None:
        run.write_to((folder or otherwise or Path()) / "model_graph")
    run.find_mlflow(runs)


def loggers_of(accelerator: Any, loggers: Iterable[Any] | None) -> list[Any] | None:
    """The loggers that somebody has named.

    Args:
        accelerator: An ``Accelerator`` of accelerate, a ``Fabric``, or ``None``.
        loggers: Loggers, or ``None``.

    Returns:
        All of them; ``None``: nothing was named.
    """
    if accelerator is None and loggers is None:
        return None
    kept = getattr(accelerator, "trackers", None) or getattr(accelerator, "loggers", None) or []
    return [*kept, *(loggers or [])]


class Surroundings:
    """What is found among the variables of whoever calls: locals, globals, those of ``self``.

    Attributes:
        has_accelerator: Whether there is an ``Accelerator`` or a ``Fabric``.
        loggers: Theirs; else the one ``SummaryWriter`` that is open. Of several nobody can tell
            which is meant.
    """

    def __init__(
        self, frame: FrameType, accelerator: Any = None, loggers: Iterable[Any] | None = None
    ) -> None:
        """Looks around, unless somebody has named what is meant.

        Args:
            frame: The caller's.
            accelerator: An ``Accelerator`` of accelerate, a ``Fabric``, or ``None``.
            loggers: Loggers, or ``None``.
        """
        given = loggers_of(accelerator, loggers)
        self.has_accelerator = accelerator is not None
        if given is not None:
            self.loggers = given
            return
        variables = [*frame.f_locals.values(), *frame.f_globals.values()]
        variables += getattr(frame.f_locals.get("self"), "__dict__", {}).values()
        found = {id(one): one for one in variables if _has_loggers(one)}
        self.has_accelerator = bool(found)
        self.loggers = [logger for one in found.values() for logger in loggers_of(one, None) or []]
        if found:
            return
        open_ones = {
            id(one): one
            for one in variables
            if is_summary_writer(one) and one.all_writers is not None
        }
        self.loggers = list(open_ones.values()) if len(open_ones) == 1 else []


def _has_loggers(thing: object) -> bool:
    packages = ("lightning", "lightning_fabric")
    return is_named(thing, "Accelerator", "accelerate") or is_named(thing, "Fabric", *packages)


def is_summary_writer(thing: object) -> bool:
    """Whether something is a ``SummaryWriter``, of torch or of tensorboardX."""
    is_adapted = isinstance(thing, TensorboardXWriter)
    return is_adapted or is_named(thing, "SummaryWriter", "torch", "tensorboardX")


def _written_with(logger: Any) -> Any:
    """What a logger writes with: a SummaryWriter, a run; else the logger itself."""
    if is_summary_writer(logger) or is_live_run(logger) or is_named(logger, "Run", "mlflow"):
        return logger
    if is_named(logger, "CSVLogger", "lightning", "pytorch_lightning"):
        return logger  # to ask for its experiment makes its folder
    for name in _INNER:
        inner = getattr(logger, name, None)
        if is_summary_writer(inner) or is_live_run(inner) or is_named(inner, "Run", "mlflow"):
            return inner
    return logger


def _folder_of(logger: Any, inner: Any) -> str | None:
    """The folder that a logger keeps this run's files in, maybe a URL; ``None``: none."""
    given = getattr(logger, "log_dir", None)
    if given is None and is_summary_writer(inner):
        given = inner.get_logdir()
    if given is None and not is_named(logger, "MLFlowLogger", "lightning", "pytorch_lightning"):
        # A logger that has only a folder for all runs: where Lightning puts its checkpoints.
        given, version = getattr(logger, "save_dir", None), getattr(logger, "version", None)
        if isinstance(given, (str, os.PathLike)) and version is not None:
            version = version if isinstance(version, str) else f"version_{version}"
            given = "/".join((str(given), str(getattr(logger, "name", "")), version))
    return str(given) if isinstance(given, (str, os.PathLike)) else None
