"""What a tracker is: a place that keeps runs, as TensorBoard's log folder or an MLflow server.

One narrow interface in the manner of clu's ``MetricWriter``. A tracker is a file (or folder) here
that implements it, and a line of `modelviz_callbacks.trackers.registry`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from modelviz_callbacks.credentials import without_credentials
from modelviz_callbacks.errors import TrackerError

__all__ = [
    *("ARTIFACT_SCHEME", "FOLDER", "Heard", "MultiTracker", "Tracker", "UploadError", "linked"),
    *("store_each", "unheard"),
]

# Told of the calls to a store: whether one worked (``None``: it has begun, or goes on), and how
# many bytes the file has that it sent, if it sent one.
Heard = Callable[[bool | None, int | None], None]

# The folder among a run's artifacts that the files go to.
FOLDER = "model_graph"

# How a description refers to a file of `Tracker.log_files`; each tracker has its own addresses.
ARTIFACT_SCHEME = "artifact:"
_LINK = re.compile(rf"\({ARTIFACT_SCHEME}([^()\s]+)\)")


class UploadError(TrackerError):
    """Some files did not arrive in the run.

    Attributes:
        arrived: Names of the files that are in the run.
        missing: Names of the files that are not; pass only these to try again.
    """

    def __init__(self, message: str, arrived: tuple[str, ...], missing: tuple[str, ...]) -> None:
        super().__init__(message, f"missing: {', '.join(missing)}")
        self.arrived = arrived
        self.missing = missing


class Tracker(Protocol):
    """One run of one tracker.

    The run is found or started by `open`, or by the first call that needs it. A tracker overrides
    what it has a place for; the rest does nothing, as here. Whatever fails is a `TrackerError`
    that says what, where, why and what to do, without credentials; later calls are still allowed.
    """

    name: str
    """What the tracker is called, for people."""

    @property
    def place(self) -> str:
        """Where the run is found, for people: an address, or a command that shows it.

        Raises:
            TrackerError: The run could not be opened.
        """
        ...

    @property
    def run_id(self) -> str:
        """What the tracker calls the run; ``""`` where runs have no names.

        Raises:
            TrackerError: The run could not be opened.
        """
        return ""

    def open(self) -> None:
        """Finds the run, or starts it where it is new.

        Raises:
            TrackerError: It cannot be found, started or written to.
        """
        ...

    def log_files(self, files: Mapping[str, Path]) -> None:
        """Stores files among the run's artifacts, below `FOLDER`; every file is tried.

        Args:
            files: Name below the folder (``"graph.svg"``, ``"pictures/a.png"``) to the file on
                disk.

        Raises:
            UploadError: Not all arrived; it names those that did and those that did not.
            TrackerError: None arrived.
        """
        return

    def log_tags(self, tags: Mapping[str, object]) -> None:
        """Sets what runs are found by.

        Args:
            tags: Name to value, which is written as text.

        Raises:
            TrackerError: They could not be set.
        """
        return

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        """Logs what runs are compared by.

        Args:
            metrics: Name to value, in the unit that the name says.

        Raises:
            TrackerError: They could not be logged.
        """
        return

    def log_description(self, section: str) -> None:
        """Puts our section into the run's description, beside what the user wrote.

        Args:
            section: Markdown. ``(artifact:model_graph/graph.svg)`` refers to a file of the run.

        Raises:
            TrackerError: The description was not written, or has no room for the section.
        """
        return

    def log_model(self, path: Path, name: str) -> None:
        """Registers an ONNX file as a model of the run; the same file again changes nothing.

        Args:
            path: The file, with its weights inside or in files beside it.
            name: What the model is called.

        Raises:
            TrackerError: It is no model, or was not taken.
        """
        return

    def log_events(self, events: Iterable[Any]) -> None:
        """Writes events of TensorBoard: graphs, texts, images.

        Args:
            events: ``Event`` messages, of TensorBoard's classes or alike to them.

        Raises:
            TrackerError: They could not be written.
        """
        return

    def close(self) -> None:
        """Ends what was begun here, and only that; again, does nothing.

        Raises:
            TrackerError: It could not be ended, or what was logged could not be written.
        """
        ...


class MultiTracker(Tracker):
    """Several trackers as one: each is tried with each call, each is closed, errors are kept.

    No call raises. A tracker that could not be opened gets no other call but `close`.

    Attributes:
        errors: What failed, in order: the part (``"the tags"``) and why.
        has_files: Whether some of the files arrived somewhere.
    """

    name = "all trackers"

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        """Nothing is opened yet.

        Args:
            trackers: Not opened.
        """
        self._trackers = tuple(trackers)
        self._open = list(self._trackers)
        self.errors: list[tuple[str, TrackerError]] = []
        self.has_files = False

    @property
    def place(self) -> str:
        """Where the runs are found that could be opened."""
        places: list[str] = []
        self._each("the address", lambda tracker: places.append(f"{tracker.name}: {tracker.place}"))
        return "; ".join(places)

    def open(self) -> None:
        """Opens each."""
        self._open = [
            tracker for tracker in self._trackers if self._try("everything", tracker.open)
        ]

    def log_files(self, files: Mapping[str, Path]) -> None:
        """Hands the files to each."""
        before = len(self.errors)
        self._each("the files", lambda tracker: tracker.log_files(files))
        failed = [error for _, error in self.errors[before:]]
        self.has_files |= len(failed) < len(self._open) or any(
            isinstance(error, UploadError) and error.arrived for error in failed
        )

    def log_tags(self, tags: Mapping[str, object]) -> None:
        """Hands the tags to each."""
        self._each("the tags", lambda tracker: tracker.log_tags(tags))

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        """Hands the metrics to each."""
        self._each("the metrics", lambda tracker: tracker.log_metrics(metrics))

    def log_description(self, section: str) -> None:
        """Hands the section to each."""
        self._each("the description", lambda tracker: tracker.log_description(section))

    def log_model(self, path: Path, name: str) -> None:
        """Hands the model to each."""
        self._each(f"the model {name!r}", lambda tracker: tracker.log_model(path, name))

    def log_events(self, events: Iterable[Any]) -> None:
        """Hands the events to each."""
        kept = tuple(events)
        self._each("the events", lambda tracker: tracker.log_events(kept))

    def close(self) -> None:
        """Closes each, also those that could not be opened."""
        for tracker in self._trackers:
            self._try("the end of the run", tracker.close)

    def error(self) -> TrackerError | None:
        """All that failed, as one error; ``None``: nothing did."""
        if not self.errors:
            return None
        (_, first), *others = self.errors
        if not others:
            return first
        missing = "; ".join(f"{what}: {_reason(error)}" for what, error in others)
        combined = TrackerError(f"{first} Missing as well: {missing}.")
        combined.__cause__ = first
        return combined

    def _each(self, what: str, call: Callable[[Tracker], object]) -> None:
        for tracker in self._open:
            self._try(what, partial(call, tracker))

    def _try(self, what: str, call: Callable[[], object]) -> bool:
        try:
            call()
        except TrackerError as error:
            self.errors.append((what, error))
        except Exception as error:  # a mistake of the tracker's: the others must not pay for it
            self.errors.append((what, _unexpected(what, error)))
        else:
            return True
        return False


def store_each(files: Mapping[str, Path], store: Callable[[str, Path], object], place: str) -> None:
    """Stores files one by one: what fails of one keeps no other away.

    Args:
        files: As for `Tracker.log_files`.
        store: Stores one, by its name and its place on disk.
        place: Where to, for people.

    Raises:
        UploadError: Not all were stored.
    """
    reasons: dict[str, str] = {}
    for name, path in files.items():
        try:
            store(name, path)
        except Exception as error:
            reasons[name] = f"{name} ({type(error).__name__}: {error})"
    if reasons:
        said = without_credentials("; ".join(reasons.values()))
        arrived = tuple(name for name in files if name not in reasons)
        raise UploadError(f"could not store in {place}: {said}.", arrived, tuple(reasons))


def unheard(answered: bool | None, size_bytes: int | None = None) -> None:
    """For calls that nobody waits for; see `Heard`.

    Args:
        answered: Whether the call worked.
        size_bytes: Of the file that it sent.
    """


def linked(section: str, address: Callable[[str], str]) -> str:
    """A description with a tracker's own addresses of artifacts.

    Args:
        section: Markdown, as `Tracker.log_description` takes it.
        address: Gives the address of the artifact of that path.
    """
    return _LINK.sub(lambda found: f"({address(found.group(1))})", section)


def _reason(error: TrackerError) -> str:
    """Why, in short: the first error says what to do."""
    return (error.reason or str(error)).rstrip(".")


def _unexpected(what: str, error: Exception) -> TrackerError:
    wrapped = TrackerError(
        f"could not log {what}: {without_credentials(f'{type(error).__name__}: {error}')}."
    )
    wrapped.__cause__ = error
    return wrapped
