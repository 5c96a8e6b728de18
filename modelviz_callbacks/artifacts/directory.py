"""Files on disk, whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import sys
from collections.abc import Callable
from pathlib import Path

from modelviz_callbacks.errors import SinkError
from modelviz_callbacks.trackers import checked_name

__all__ = ["Directory", "is_running", "remove_unfinished"]

# What an unfinished file is called: by this, the process that writes it, and letters by chance.
_UNFINISHED = ".part"

_ADVICE = {
    errno.ENOSPC: "the disk is full: free some space, or pass dirpath= on another disk",
    errno.EDQUOT: "your disk quota is used up: free some space, or pass dirpath= on another disk",
    errno.EFBIG: "the file is larger than this process may write: raise the limit (ulimit -f)",
    errno.EACCES: "make the folder writable for this user, or pass another dirpath=",
    errno.EPERM: "make the folder writable for this user, or pass another dirpath=",
    errno.EROFS: "the file system is read-only: pass a dirpath= on another one",
    errno.ENOTDIR: "a part of the path is a file, not a folder: pass another dirpath=",
    errno.EEXIST: "a part of the path is a file, not a folder: pass another dirpath=",
    errno.EISDIR: "a folder has the name of the file: move it away, or pass another dirpath=",
    errno.ENAMETOOLONG: "the path is too long for this file system: pass a shorter dirpath=",
}


class Directory:
    """A folder that files are written into; made when the first file comes.

    A reader never sees half a file: the content is written beside under a hidden name, flushed to
    disk, then renamed over the old file. Of several writers of one name the last one wins, whole.

    Attributes:
        root: The folder.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)

    def write(self, name: str, data: bytes | Callable[[Path], object]) -> Path:
        """Write one file.

        Args:
            name: Name below the folder, for example ``"graph.svg"`` or ``"pictures/a.png"``.
            data: The content, or a function that writes it to the path it is given (a new path in
                the same folder, with the same extension).

        Returns:
            The path of the finished file.

        Raises:
            SinkError: The name is not plain, or the file cannot be written. Nothing of it is left
                behind then, and a file that was there before is untouched. What a given function
                raises, other than an OSError, goes on as it is.
        """
        final = self.root / checked_name(name)
        # The extension is kept: some libraries choose the format by it.
        name = f"{_UNFINISHED}-{os.getpid()}-{secrets.token_hex(8)}{final.suffix}"
        beside = final.with_name(name)
        try:
            try:
                final.parent.mkdir(parents=True, exist_ok=True)
                _fill(beside, data)
                beside.replace(final)
            finally:
                with contextlib.suppress(OSError):
                    beside.unlink(missing_ok=True)
        except OSError as error:
            advice = _ADVICE.get(error.errno or 0, "check the folder, or pass another dirpath=")
            reason = error.strerror or str(error)
            raise SinkError(f"could not write {final}: {reason}; {advice}.") from error
        return final


def remove_unfinished(root: Path) -> None:
    """Removes the unfinished files in a folder whose processes were killed over them.

    Args:
        root: The folder.
    """
    for path in root.glob(f"{_UNFINISHED}-*-*"):
        process = path.name.split("-")[1]
        if process.isdecimal() and not is_running(int(process)):
            with contextlib.suppress(OSError):
                path.unlink()


def is_running(process: int) -> bool:
    """Whether a process is there and more than a zombie; on Windows, as far as is known.

    Args:
        process: Its number.
    """
    if sys.platform == "win32":
        return True  # to ask would end it
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    with contextlib.suppress(OSError):
        return ") Z " not in Path(f"/proc/{process}/stat").read_text(errors="replace")
    return True


def _fill(path: Path, data: bytes | Callable[[Path], object]) -> None:
    """Write the content to a new file and force it to the disk."""
    if callable(data):
        data(path)
        with path.open("rb+") as file:
            os.fsync(file.fileno())
        return
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
