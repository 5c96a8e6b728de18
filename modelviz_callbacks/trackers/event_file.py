"""An event file of our own: written by no thread, one a folder and process, whole or not at all.

The records are collected in memory and appended at each flush; what could not be appended whole is
taken away again, so a full disk or a limit on the size of files leaves no cut record behind. Behind
a URL, where hardly any store can append, the file is replaced by a longer one.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import secrets
import socket
import time
from pathlib import Path
from typing import Any

from modelviz_callbacks.trackers.event_records import records

# The file that a process began in a folder: a run that gets more later gets it there, since
# TensorBoard without its data server follows one file a run. A forked process begins its own.
_BEGUN: dict[tuple[int, str], Path] = {}
# Likewise behind a URL.
_BEGUN_REMOTE: dict[tuple[int, str], str] = {}


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
        self._path = _BEGUN.setdefault((os.getpid(), str(place)), place / _new_name())
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
            self._begin(records([_version(self._made), *events]))
        elif events:
            self._append(records(events))

    def _begin(self, content: memoryview) -> None:
        """Makes the file: beside its name first, so that whoever is killed here leaves none."""
        beside = self._path.with_name(f".part-{secrets.token_hex(8)}")
        try:
            with beside.open("xb", buffering=0) as file:
                _write(file, content)
            beside.replace(self._path)
        except BaseException:
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)
            raise

    def _append(self, content: memoryview) -> None:
        """Adds to the file in its place: TensorBoard may be following it."""
        with self._path.open("ab", buffering=0) as file:
            length = file.seek(0, os.SEEK_END)
            try:
                _write(file, content)
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


class RemoteEventFile:
    """Takes events for a folder behind a URL; everything is made with the first flush.

    Args:
        url: The folder; its file system and the settings of that are fsspec's.

    Raises:
        Exception: Whatever fsspec raises: there is no such file system, or it refuses the address.
    """

    def __init__(self, url: str) -> None:
        from fsspec.core import url_to_fs

        self._system, root = url_to_fs(url)
        self._folder = str(root).rstrip("/")
        place = f"{self._folder}/{_new_name()}"
        self._path = _BEGUN_REMOTE.setdefault((os.getpid(), url), place)
        self._waiting: list[Any] = []
        self._made = time.time()

    def add_event(self, event: Any) -> None:
        """Keeps an ``Event`` for the next flush."""
        self._waiting.append(event)

    def flush(self) -> None:
        """Replaces the file by itself and what was added since the last time.

        Raises:
            Exception: The file system's own; what was added is not tried again.
        """
        events, self._waiting = self._waiting, []
        before = b""
        with contextlib.suppress(FileNotFoundError):
            before = self._system.cat_file(self._path)
        if not before:
            self._system.makedirs(self._folder, exist_ok=True)
            events = [_version(self._made), *events]
        if events:
            self._system.pipe_file(self._path, before + records(events))

    def close(self) -> None:
        """Flushes; a later `RemoteEventFile` of the folder goes on with the file.

        Raises:
            Exception: As `flush`.
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
    # Behind the host are the process and a number; with tensorboardX, which names neither, nothing
    # or a suffix of the user's.
    host = rf"events\.out\.tfevents\.\d+\.{re.escape(socket.gethostname())}"
    ours = re.compile(rf"{host}(\.{os.getpid()}\.\d|(?![\w-]|.*\.\d+\.\d))")
    there = [path for path in place.glob("events.out.tfevents.*") if ours.match(path.name)]
    if len(there) != 1:
        return None
    _BEGUN[(os.getpid(), str(place))] = there[0]
    return EventFile(folder)


def open_events(folder: str) -> EventFile | RemoteEventFile:
    """What takes events for a folder or a URL.

    Args:
        folder: A local path, or a URL that fsspec knows.

    Returns:
        The writer.

    Raises:
        OSError: The folder cannot be made.
        Exception: The URL's file system refuses it.
    """
    return RemoteEventFile(folder) if "://" in folder else EventFile(folder)


def _new_name() -> str:
    return f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.0"


def _write(file: io.FileIO, content: memoryview) -> None:
    while content:
        content = content[file.write(content) or 0 :]


def _version(made: float) -> Any:
    from modelviz_callbacks.tensorboard_messages import Event

    return Event(wall_time=made, file_version="brain.Event:2")
