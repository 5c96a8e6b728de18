"""A SummaryWriter of tensorboardX, which Ray, Ignite and others take, as one of torch.

Both write the same files; but tensorboardX names a few things otherwise, and its thread ends with
the first message that is not of its own classes.
"""

from __future__ import annotations

from typing import Any

from modelviz_callbacks.trackers.event_classes import as_taken_by


class TensorboardXWriter:
    """Takes TensorBoard's events for a writer of tensorboardX, which stays the user's.

    Attributes:
        users: The ``tensorboardX.SummaryWriter``.
    """

    def __init__(self, users: Any) -> None:
        self.users = users

    @property
    def all_writers(self) -> Any:
        """``None``: it was closed."""
        return self.users.all_writers

    @property
    def file_writer(self) -> TensorboardXWriter | None:
        """What takes events."""
        return None if self.users.file_writer is None else self

    def get_logdir(self) -> str:
        """The run's folder."""
        return str(self.users.logdir)

    def add_event(self, event: Any) -> None:
        """Writes an ``Event`` of any library."""
        file = self.users.file_writer
        file.add_event(as_taken_by(file, event), walltime=event.wall_time)

    def flush(self) -> None:
        """Makes what was written visible."""
        self.users.file_writer.flush()


def as_torchs(target: Any) -> Any:
    """Something to write to, with a writer of tensorboardX made alike to torch's."""
    for kind in type(target).__mro__:
        if kind.__name__ == "SummaryWriter" and kind.__module__.split(".")[0] == "tensorboardX":
            return TensorboardXWriter(target)
    return target
