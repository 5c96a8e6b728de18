"""Events for a writer of the user's, which takes only messages of its own library's classes."""

from __future__ import annotations

import importlib
import sys
from typing import Any

_TENSORBOARDS = "tensorboard.compat.proto.event_pb2"
# The package of a writer's class -> where the class of its events is.
_EVENTS_OF = {
    "tensorboard": _TENSORBOARDS,
    "torch": _TENSORBOARDS,  # torch.utils.tensorboard
    "tensorboardX": "tensorboardX.proto.event_pb2",
}


def as_taken_by(writer: object, event: Any) -> Any:
    """An event as the writer wants it.

    Args:
        writer: Of TensorBoard, torch or tensorboardX, of this package, or of somebody's own with
            one of these behind it.
        event: An ``Event`` message of any library.

    Returns:
        A copy of the class that the writer's library has; for somebody's own, of one that this
        process has loaded, or else the event itself: nothing is loaded that the user does not use.
    """
    packages = {kind.__module__.partition(".")[0] for kind in type(writer).__mro__}
    if __name__.partition(".")[0] in packages:
        return event
    named = [place for package, place in _EVENTS_OF.items() if package in packages]
    loaded = [place for place in _EVENTS_OF.values() if place in sys.modules]
    for place in (named or loaded)[:1]:
        wanted = importlib.import_module(place).Event
        return wanted.FromString(event.SerializeToString())
    return event
