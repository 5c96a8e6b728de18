"""Trackers: files, tags, metrics, descriptions in, kept with a run. None knows what a graph is.

`interface` says what a tracker is, `registry` which there are: ``tensorboard`` writes into a
run's event file, ``mlflow`` uploads to a run. Importing this package imports none of their
libraries.
"""

from __future__ import annotations

import re

from modelviz_callbacks.errors import SinkError

__all__ = ["checked_name"]

# Control characters, halves of characters, what some file system refuses in a name, and what
# changes the meaning of the URL that an artifact's name becomes part of.
_ODD = re.compile(r'[\x00-\x1f\x7f\ud800-\udfff<>:"|?*\\#%]')
_LONGEST_PART_BYTES = 200


def checked_name(name: str) -> str:
    """Refuse a name that is not the same file everywhere.

    A name is one or more parts with ``/`` between them. It stays inside its destination, is not
    hidden, and has no character that a file system or a URL reads as something else.

    Args:
        name: The name a file is to have in a destination.

    Returns:
        The same name.

    Raises:
        SinkError: The name is empty, absolute, leads out of the destination, is hidden or has odd
            characters.
    """
    parts = name.split("/")
    for part in parts:
        if not part or part.startswith(".") or part != part.strip() or part.endswith("."):
            raise SinkError(
                f"cannot store a file as {name!r}: {part!r} is not a plain file name. Give a "
                "relative name such as 'graph.svg' or 'pictures/graph.svg'."
            )
        if _ODD.search(part) or len(part.encode()) > _LONGEST_PART_BYTES:
            raise SinkError(
                f"cannot store a file as {name!r}: {part!r} is over {_LONGEST_PART_BYTES} bytes or "
                "has a character that is not the same on every file system and in a URL. Use "
                "letters, digits, '.', '_' and '-'."
            )
    return name
