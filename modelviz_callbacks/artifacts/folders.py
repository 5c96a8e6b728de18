"""Which folder a recording's files go to: what a folder shows is of one recording."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from weakref import WeakValueDictionary

from modelviz_callbacks.artifacts.directory import remove_unfinished
from modelviz_callbacks.errors import OptionError, SinkError
from modelviz_callbacks.trackers import checked_name

_REPORT = "report.json"
# Either is there from the first file on; a folder that has one is a recording's.
_OURS = frozenset({"graph.json", _REPORT})
_INNER = "model_graph"
# What we write; nothing else is removed, whatever a report says.
_ENDINGS = frozenset(
    {".json", ".txt", ".csv", ".svg", ".png", ".html", ".md", ".mmd", ".onnx", ".data"}
)
_MOST = 10_000

# Who has a folder while its run goes on.
_OWNERS: WeakValueDictionary[str, object] = WeakValueDictionary()
_LOCK = threading.Lock()


def checked_folder(dirpath: Path) -> Path:
    """The folder that a user has asked for, as it is called from anywhere.

    Args:
        dirpath: The option.

    Returns:
        Its absolute path.

    Raises:
        OptionError: No folder can ever be there.
    """
    start = f"Option dirpath={str(dirpath)!r} cannot be used: "
    if "\0" in str(dirpath):
        raise OptionError(f"{start}it has a NUL character. Give a folder's path.")
    try:
        path = dirpath.absolute()
    except OSError as error:
        raise OptionError(
            f"{start}the working directory is gone ({error.strerror}). Give an absolute path."
        ) from error
    with contextlib.suppress(OSError):  # what cannot be looked at is told when it is written
        if path.exists() and not path.is_dir():
            raise OptionError(f"{start}it is a file. Give a folder's path.")
        if path.is_symlink() and not path.exists():
            raise OptionError(f"{start}it is a link to nothing. Make its target, or remove it.")
    return path


def folder_within(dirpath: Path) -> Path:
    """Where in the folder that a user has named the files go.

    A dozen files are not strewn among the user's own: where there are some (scripts, checkpoints),
    the recording's go to a folder within. Event files, hidden files and folders are no reason.

    Args:
        dirpath: As `checked_folder` gives it.

    Returns:
        It, or ``model_graph`` in it.
    """
    try:
        names = {entry.name for entry in os.scandir(dirpath) if entry.is_file()}
    except OSError:  # not there yet, or told when the first file is written
        return dirpath
    own = {name for name in names if not name.startswith((".", "events.out."))}
    return dirpath / _INNER if own and not names & _OURS else dirpath


def take_new(wanted: Path) -> Path:
    """Makes a folder that was not there: the one wanted, or the next with a number.

    Args:
        wanted: Absolute.

    Returns:
        ``Net``, ``Net_2``, ...; where no folder can be made, the one wanted.
    """
    for folder in _numbered(wanted):
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            if folder.is_dir():
                continue  # of another recording, maybe in another process
        except OSError:  # told when the first file is written
            pass
        return folder
    return wanted


def take_given(wanted: Path, owner: object) -> Path:
    """Takes the folder that the user has named, without what an earlier recording left there.

    Args:
        wanted: Absolute.
        owner: Whose it is until `release`.

    Returns:
        The folder; the next with a number while another recording of this process has it.
    """
    with _LOCK:
        for folder in _numbered(wanted):
            if _OWNERS.setdefault(str(folder), owner) is owner:
                break
        else:
            folder = wanted
    _clear(folder)
    remove_unfinished(folder)
    return folder


def release(owner: object) -> None:
    """Gives back what an owner has taken: a later recording may replace its files."""
    with _LOCK:
        for name in [name for name, other in _OWNERS.items() if other is owner]:
            del _OWNERS[name]


def _numbered(wanted: Path) -> Iterator[Path]:
    yield wanted
    for number in range(2, _MOST):
        yield wanted.with_name(f"{wanted.name}_{number}")


def _clear(folder: Path) -> None:
    """Removes the files that the report in a folder lists; event files are a history and stay."""
    try:
        names = json.loads((folder / _REPORT).read_bytes())["files"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return
    for name in [*names, _REPORT] if isinstance(names, list) else []:
        if isinstance(name, str) and "/" not in name and Path(name).suffix in _ENDINGS:
            with contextlib.suppress(OSError, SinkError):
                (folder / checked_name(name)).unlink()
