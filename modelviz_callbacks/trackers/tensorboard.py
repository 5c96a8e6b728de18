"""A TensorBoard run: graphs, texts and images as events in its event file.

The formats are TensorBoard's own: ``Event.graph_def`` for the
run's one graph, summaries of the plugin ``graph_run_metadata`` for any number of named ones,
of the plugin ``text`` for Markdown, and ``Summary.Image`` for pictures.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from modelviz_callbacks.credentials import without_credentials
from modelviz_callbacks.errors import TrackerError
from modelviz_callbacks.trackers.event_classes import as_taken_by
from modelviz_callbacks.trackers.event_file import closed_events, open_events
from modelviz_callbacks.trackers.event_records import read_records
from modelviz_callbacks.trackers.interface import Tracker
from modelviz_callbacks.trackers.tensorboardx import as_torchs

_PNG_START = b"\x89PNG\r\n\x1a\n"
# Colour type of a PNG's header to the number of channels (PNG specification, 11.2.2).
_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}


class TensorBoardTracker(Tracker):
    """Writes into one TensorBoard run.

    A writer that is handed in stays the user's: everything goes into its own event file (with
    a second file in a run, TensorBoard without its data server stops following the first), and
    it is flushed but never closed; once the user has closed it, the rest is appended to its file.
    For a path a new writer is made, and closed by `close`.
    TensorBoard keeps events alone: what else a tracker may be given has no place here.

    Args:
        target: A ``torch.utils.tensorboard.SummaryWriter`` (also Lightning's
            ``TensorBoardLogger.experiment``) or one of tensorboardX, anything with its
            FileWriter's ``add_event`` and ``flush``, or the run's folder: a local path, or a URL
            that fsspec knows. No running writer may have its event file in that folder.

    Raises:
        TrackerError: The target is none of these.
    """

    name = "TensorBoard"

    def __init__(self, target: object) -> None:
        target = as_torchs(target)
        self._writer: Any = None
        self._owned = isinstance(target, (str, os.PathLike))
        self._target = target
        self._closed = False
        if not self._owned and not _is_summary_writer(target) and not _is_file_writer(target):
            raise TrackerError(
                f"Cannot write TensorBoard events to {_describe(target)}: it has no 'add_event' "
                "and no file writer. Give a SummaryWriter of torch.utils.tensorboard or a folder."
            )

    def __enter__(self) -> TensorBoardTracker:
        self.open()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def log_dir(self) -> str:
        """The run's folder; ``""`` if the writer does not tell."""
        if isinstance(self._target, (str, os.PathLike)):
            return str(os.fspath(self._target))
        get_logdir = getattr(self._target, "get_logdir", None)
        return str(get_logdir()) if callable(get_logdir) else ""

    @property
    def place(self) -> str:
        """How to look at the run; an address in it is without credentials."""
        return f"tensorboard --logdir {without_credentials(self.log_dir)}"

    def open(self) -> None:
        """Makes the writer for a folder.

        Raises:
            TrackerError: The folder cannot be made.
        """
        if self._owned and self._writer is None and not self._closed:
            self._writer = _new_writer(os.fspath(self._target))  # type: ignore[call-overload]

    def log_events(self, events: Iterable[Any]) -> None:
        """Writes events and makes them visible to a TensorBoard that is already running.

        Args:
            events: ``Event`` messages of any library, for example those of `staged`.

        Raises:
            TrackerError: They cannot be written.
        """
        for event in events:
            self.add_event(event)
        self.flush()

    def add_graph(self, graph_def: bytes) -> None:
        """Writes the run's graph. Of several in a run, which one is shown is not defined.

        Args:
            graph_def: A serialized ``GraphDef``.

        Raises:
            TrackerError: It cannot be written.
        """
        self._write("the graph", _messages().Event(graph_def=graph_def))

    def add_event(self, event: Any) -> None:
        """Writes an event that `staged` gave.

        Args:
            event: An ``Event`` message.

        Raises:
            TrackerError: It cannot be written.
        """
        self._write("a staged event", event)

    def add_named_graph(self, tag: str, run_metadata: bytes, step: int = 0) -> None:
        """Writes a graph that is shown under a tag; repeated, the last one is shown.

        Args:
            tag: What it is called in the run.
            run_metadata: A serialized ``RunMetadata`` with one function graph and its profile.
            step: The training step it belongs to.

        Raises:
            TrackerError: It cannot be written.
        """
        event = _tensor_event(tag, run_metadata, "graph_run_metadata", b"1")
        event.step = step
        self._write(f"the graph {tag!r}", event)

    def add_profile(self, tag: str, run_metadata: bytes) -> None:
        """Writes a profile of the run's graph; without a graph in the run the page breaks.

        Args:
            tag: What it is called in the run.
            run_metadata: A serialized ``RunMetadata`` with step statistics.

        Raises:
            TrackerError: It cannot be written.
        """
        messages = _messages()
        tagged = messages.TaggedRunMetadata(tag=tag, run_metadata=run_metadata)
        self._write(f"the profile {tag!r}", messages.Event(tagged_run_metadata=tagged))

    def add_text(self, tag: str, markdown: str, step: int = 0) -> None:
        """Writes a text for the Text tab.

        Args:
            tag: What it is called in the run.
            markdown: Markdown; TensorBoard removes HTML from it and shows no ``data:`` images.
            step: The training step it belongs to.

        Raises:
            TrackerError: It cannot be written.
        """
        event = _tensor_event(tag, markdown.encode(), "text", b"")
        event.step = step
        self._write(f"the text {tag!r}", event)

    def add_image(self, tag: str, png: bytes, step: int = 0) -> None:
        """Writes a picture for the Images tab.

        Args:
            tag: What it is called in the run.
            png: A PNG file.
            step: The training step it belongs to.

        Raises:
            TrackerError: It is no PNG, or cannot be written.
        """
        if png[:8] != _PNG_START or png[12:16] != b"IHDR" or len(png) < 29:
            raise TrackerError(
                f"Cannot write the image {tag!r} to TensorBoard: expected a PNG file, found "
                f"{len(png)} bytes that start with {png[:8]!r}."
            )
        width, height, _, colour = struct.unpack(">IIBB", png[16:26])
        image = {
            "width": width,
            "height": height,
            "colorspace": _PNG_CHANNELS.get(colour, 4),
            "encoded_image_string": png,
        }
        event = _messages().Event(step=step)
        event.summary.value.add(tag=tag, image=image)
        self._write(f"the image {tag!r}", event)

    def flush(self) -> None:
        """Makes everything written visible to a TensorBoard that is already running.

        Raises:
            TrackerError: It cannot be written.
        """
        if not self._closed:
            self._try("flush the event file", lambda: self._file_writer().flush())

    def close(self) -> None:
        """Flushes, and closes the writer if it was made here; again, does nothing.

        Raises:
            TrackerError: What is still to be written cannot be.
        """
        if self._closed:
            return
        try:
            if self._writer is not None or not (self._owned or _is_closed(self._target)):
                self.flush()
        finally:
            self._closed = True
            if self._writer is not None:
                self._try("close the event file", self._writer.close)

    def _write(self, what: str, event: Any) -> None:
        if self._closed:
            raise TrackerError(
                f"Cannot write {what} to TensorBoard ({self.place}): this tracker is closed. "
                "Write before closing it."
            )
        event.wall_time = time.time()
        self._try(f"write {what}", lambda: self._add(event))

    def _add(self, event: Any) -> None:
        writer = self._file_writer()
        writer.add_event(as_taken_by(writer, event))

    def _file_writer(self) -> Any:
        """What events go to, looked up each time: a SummaryWriter may have been closed."""
        if self._owned:
            self.open()
            return self._writer
        if _is_closed(self._target):
            if self._writer is None:
                self._writer = closed_events(self.log_dir)
            if self._writer is None:
                raise ValueError(
                    "the writer was closed, and reopening it would begin a second event file"
                )
            return self._writer
        if _is_summary_writer(self._target):
            return self._target.file_writer  # type: ignore[attr-defined]
        return self._target

    def _try(self, what: str, act: Callable[[], object]) -> None:
        try:
            act()
        except Exception as error:  # the writer's own, the file system's, a remote store's
            where = self.log_dir or _describe(self._target)
            said = without_credentials(f"{where}: {error}")
            raise TrackerError(
                f"Could not {what} to TensorBoard in {said}. Check that the writer is open and "
                "that its folder can be written to."
            ) from error


def staged(folder: os.PathLike[str]) -> Iterator[Any]:
    """The events that a tracker of another process wrote into a folder of their own.

    Args:
        folder: With complete event files only.

    Yields:
        ``Event`` messages, without those that begin a file.

    Raises:
        OSError: A file cannot be read.
        TrackerError: A file is damaged.
    """
    for path in sorted(Path(folder).glob("events.*")):
        for data in read_records(path):
            event = _messages().Event.FromString(data)
            if not event.HasField("file_version"):
                yield event


def _tensor_event(tag: str, content: bytes, plugin: str, plugin_content: bytes) -> Any:
    """A summary of one string, for the plugin named."""
    messages = _messages()
    event = messages.Event()
    value = event.summary.value.add(tag=tag)
    value.metadata.plugin_data.plugin_name = plugin
    value.metadata.plugin_data.content = plugin_content
    value.tensor.dtype = messages.DT_STRING
    value.tensor.string_val.append(content)
    return event


def _messages() -> ModuleType:
    """TensorBoard's messages; imported when first needed, as few processes write any."""
    from modelviz_callbacks import tensorboard_messages

    return tensorboard_messages


def _new_writer(path: str) -> Any:
    try:
        return open_events(path)
    except Exception as error:  # the file system's, or a remote store's own
        said = without_credentials(f"{path!r}: {error}")
        raise TrackerError(
            f"Cannot begin a TensorBoard event file in {said}. Give a folder that can be created "
            "and written to."
        ) from error


def _is_summary_writer(target: object) -> bool:
    return hasattr(target, "file_writer") and hasattr(target, "all_writers")


def _is_file_writer(target: object) -> bool:
    return all(callable(getattr(target, name, None)) for name in ("add_event", "flush"))


def _is_closed(target: object) -> bool:
    """Whether a SummaryWriter was closed: it would open a new file when asked for its writer."""
    return _is_summary_writer(target) and getattr(target, "all_writers", True) is None


def _describe(target: object) -> str:
    return f"an object of {type(target).__module__}.{type(target).__qualname__}"
