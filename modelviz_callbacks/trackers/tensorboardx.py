"""A SummaryWriter of tensorboardX, which Ray, Ignite and others take, as one of torch.

Both write the same files; but tensorboardX takes only messages of its own classes, and its thread
ends with the first of another.
"""

from __future__ import annotations

import importlib
from typing import Any


class TensorboardXWriter:
    """Takes TensorBoard's events for a writer of tensorboardX, which stays the user's.

    Args:
        writer: The ``tensorboardX.SummaryWriter``.
    """

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    @property
    def all_writers(self) -> Any:
        """``None``: it was closed."""
        return self._writer.all_writers

    @property
    def file_writer(self) -> TensorboardXWriter | None:
        """What takes events."""
        return None if self._writer.file_writer is None else self

    def get_logdir(self) -> str:
        """The run's folder."""
        return str(self._writer.logdir)

    def add_event(self, event: Any) -> None:
        """Writes an ``Event`` of TensorBoard."""
        own = importlib.import_module("tensorboardX.proto.event_pb2").Event
        copy = own.FromString(event.SerializeToString())
        self._writer.file_writer.add_event(copy, walltime=event.wall_time)

    def flush(self) -> None:
        """Makes what was written visible."""
        self._writer.file_writer.flush()


def as_torchs(target: Any) -> Any:
    """Something to write to, with a writer of tensorboardX made alike to torch's."""
    for kind in type(target).__mro__:
        if kind.__name__ == "SummaryWriter" and kind.__module__.split(".")[0] == "tensorboardX":
            return TensorboardXWriter(target)
    return target
