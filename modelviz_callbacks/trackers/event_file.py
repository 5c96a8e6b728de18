"""An event file of our own: written by no thread, one a folder and process, whole or not at all.

The records are TensorBoard's (the ``TFRecord`` format). They are collected
in memory and appended at each flush; what could not be appended whole is taken away again, so a
full disk or a limit on the size of files leaves no cut record behind. A URL goes through
TensorBoard's own writer, whose file system layer knows remote stores.
"""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import socket
import struct
import time
from pathlib import Path
from typing import Any

from modelviz_callbacks.trackers.checksum import crc32c

# The file that a process began in a folder: a run that gets more later gets it there, since
# TensorBoard without its data server follows one file a run. A forked process begins its own.
_BEGUN: dict[tuple[int, str], Path] = {}


class EventFile:
    """Takes events for one folder.

    Args:
        folder: A local folder, made if missing. The file in it is made with the first flush.

    Raises:
        OSError: It cannot be made.
    """

    def __init__(self, folder: str) -> None:
        place = Path(folder).absolute()
        place.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.0"
        self._path = _BEGUN.setdefault((os.getpid(), str(place)), place / name)
        self._waiting: list[Any] = []
        self._made = time.time()

    def add_event(self, event: Any) -> None:
        """Keeps an ``Event`` for the next flush."""
        self._waiting.append(event)

    def flush(self) -> None:
        """Appends what was added since the last time, whole or not at all.

        Raises:
            OSError: It cannot be written; it is not tried again.
        """
        events, self._waiting = self._waiting, []
        if not self._path.exists():
            self._begin(_records([_version(self._made), *events]))
        elif events:
            self._append(_records(events))

    def _begin(self, records: memoryview) -> None:
        """Makes the file: beside its name first, so that whoever is killed here leaves none."""
        beside = self._path.with_name(f".part-{secrets.token_hex(8)}")
        try:
            with beside.open("xb", buffering=0) as file:
                _write(file, records)
            beside.replace(self._path)
        except BaseException:
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)
            raise

    def _append(self, records: memoryview) -> None:
        """Adds to the file in its place: TensorBoard may be following it."""
        with self._path.open("ab", buffering=0) as file:
            length = file.seek(0, os.SEEK_END)
            try:
                _write(file, records)
            except BaseException:
                with contextlib.suppress(OSError):
                    file.truncate(length)
                raise

    def close(self) -> None:
        """Flushes; a later `EventFile` of the folder goes on with the file.

        Raises:
            OSError: As `flush`.
        """
        self.flush()


def closed_events(folder: str) -> EventFile | None:
    """The event file that a writer of this process has left in a folder, to go on with.

    Args:
        folder: A local path.

    Returns:
        What appends to it; ``None`` if there is none, or one of several.
    """
    place = Path(folder).absolute()
    of_this_process = f".{socket.gethostname()}.{os.getpid()}."
    there = [path for path in place.glob("events.out.tfevents.*") if of_this_process in path.name]
    if len(there) != 1:
        return None
    _BEGUN[(os.getpid(), str(place))] = there[0]
    return EventFile(folder)


def open_events(folder: str) -> Any:
    """Something with ``add_event``, ``flush`` and ``close`` for a folder or a URL.

    Args:
        folder: A local path, or a URL that fsspec knows.

    Returns:
        The writer.

    Raises:
        OSError: The folder cannot be made.
    """
    if "://" not in folder:
        return EventFile(folder)
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    return EventFileWriter(folder)


def _records(events: list[Any]) -> memoryview:
    """Events as they stand in a file: length, its checksum, the event, its checksum."""
    content = io.BytesIO()
    for event in events:
        data = event.SerializeToString()
        length = struct.pack("<Q", len(data))
        for part in (length, data):
            content.write(part + struct.pack("<I", _masked(crc32c(part))))
    return content.getbuffer()


def _masked(checksum: int) -> int:
    """As the format has it, since a checksum of what holds checksums says little."""
    turned = (checksum >> 15 | checksum << 17) & 0xFFFFFFFF
    return (turned + 0xA282EAD8) & 0xFFFFFFFF


def _write(file: io.FileIO, records: memoryview) -> None:
    while records:
        records = records[file.write(records) or 0 :]


def _version(made: float) -> Any:
    from tensorboard.compat.proto import event_pb2

    return event_pb2.Event(wall_time=made, file_version="brain.Event:2")
