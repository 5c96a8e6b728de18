"""An event file of our own: written as it comes, by no thread, and one a folder and process.

The format is TensorBoard's (``tensorboard.summary.writer``): records of ``Event`` messages, the
first of which tells the version. A record is its length in eight bytes, their checksum, the
message, its checksum; numbers with the lowest byte first. A URL goes through TensorBoard's own
writer, whose file system layer knows remote stores.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from pathlib import Path
from typing import Any

from modelviz_callbacks.trackers.checksum import masked_crc32c

# The file that this process began in a folder: a run that gets more later gets it there, since
# TensorBoard without its data server follows one file a run.
_BEGUN: dict[str, Path] = {}


class EventFile:
    """Takes events for one folder.

    Args:
        folder: A local folder, made if missing.

    Raises:
        OSError: It cannot be made or written to.
    """

    def __init__(self, folder: str) -> None:
        place = Path(folder).absolute()
        place.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.0"
        path = _BEGUN.setdefault(str(place), place / name)
        is_new = not path.exists()
        self._file = path.open("ab")
        if is_new:
            self.add_event(_version())

    def add_event(self, event: Any) -> None:
        """Appends an ``Event``."""
        data = event.SerializeToString()
        length = struct.pack("<Q", len(data))
        self._file.write(length + _checksum(length) + data + _checksum(data))

    def flush(self) -> None:
        """Hands everything to the operating system."""
        self._file.flush()

    def close(self) -> None:
        """Closes the file; a later `EventFile` of the folder goes on with it."""
        self._file.close()


def open_events(folder: str) -> Any:
    """Something with ``add_event``, ``flush`` and ``close`` for a folder or a URL.

    Args:
        folder: A local path, or a URL that fsspec knows.

    Returns:
        The writer.

    Raises:
        OSError: The folder cannot be written to.
    """
    if "://" not in folder:
        return EventFile(folder)
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    return EventFileWriter(folder)


def _checksum(data: bytes) -> bytes:
    return struct.pack("<I", masked_crc32c(data))


def _version() -> Any:
    from tensorboard.compat.proto import event_pb2

    return event_pb2.Event(wall_time=time.time(), file_version="brain.Event:2")
