"""The errors this library raises, under one base class.

Every message says what was tried, on what, and what to do about it.
"""

from __future__ import annotations


class ModelvizError(Exception):
    """Base class of every error raised by this library."""


class OptionError(ModelvizError, ValueError):
    """An option has an unknown name, a wrong type or an impossible value."""


class CaptureError(ModelvizError):
    """A forward pass could not be recorded, or was never seen."""


class GraphError(ModelvizError, ValueError):
    """A model graph breaks one of its own rules (see ``modelviz_callbacks.graph.validate``)."""


class GraphFormatError(ModelvizError, ValueError):
    """A file is not a model graph that this version can read."""


class ReplayError(ModelvizError):
    """A recorded program cannot be run again."""


class WriterError(ModelvizError):
    """A graph could not be turned into the format asked for."""


class SinkError(ModelvizError):
    """A file was made but could not be stored where it was asked for."""


class TrackerError(SinkError):
    """Something could not be put into a tracker's run.

    Attributes:
        reason: Why, in a few words; ``""``: the message says it.
    """

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class WorkerError(ModelvizError):
    """The process that makes the files ended early, or is not done yet."""


class MissingLibraryError(ModelvizError, ImportError):
    """A library is not installed that what was asked for needs; the message says how to get it."""
