"""Which line of whose code a torch call comes from."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from pathlib import Path
from types import CodeType
from typing import Final

import torch

from modelviz_callbacks.graph import Source
from modelviz_callbacks.tracing.capture.internal_names import SHARDING_FILES

_TORCH: Final = os.path.dirname(torch.__file__) + os.sep  # noqa: PTH120 - a prefix for strings
_HERE: Final = str(Path(__file__).parents[2]) + os.sep

# Code that only passes calls on: whoever called it is meant.
_PASSES_ON: Final = (
    f"{os.sep}site-packages{os.sep}torchmetrics{os.sep}",
    f"{os.sep}site-packages{os.sep}accelerate{os.sep}hooks.py",
    f"{os.sep}copy.py",
    f"{os.sep}functools.py",
    f"{os.sep}contextlib.py",
)

# Where ipykernel says that the code of cells is: in files that are not there, named by a number.
_NOTEBOOK: Final = "ipykernel_"

# Packages whose frames around a torch call mean bookkeeping of the training framework; their
# demo models are models.
_FRAMEWORKS: Final = tuple(
    f"{os.sep}site-packages{os.sep}{package}{os.sep}"
    for package in ("lightning", "pytorch_lightning", "lightning_fabric")
)
_DEMOS: Final = f"{os.sep}demos{os.sep}"


class FrameKind(IntEnum):
    """Whose code a frame runs."""

    USER = 0
    TORCH = 1  # torch itself or this library: look further out
    PLUMBING = 2  # a training framework's own bookkeeping
    SHARDING = 3  # gathers and frees parameters around the modules' forwards


@dataclass(frozen=True, eq=False)
class CodeLines:
    """What is asked of a code object, of one that is in another process.

    Attributes:
        co_filename: As of a code object, like the others.
        co_name: The function's name.
        co_firstlineno: Where it begins.
        lines: What ``co_lines`` gives: begin and end in the code, and the line.
    """

    co_filename: str
    co_name: str
    co_firstlineno: int
    lines: Sequence[tuple[int, int, int | None]]

    def co_lines(self) -> Iterator[tuple[int, int, int | None]]:
        """Where each line of the source is in the code."""
        return iter(self.lines)


def classify_file(filename: str) -> FrameKind:
    """Whose code a file is."""
    if any(part in filename for part in SHARDING_FILES):
        return FrameKind.SHARDING
    if filename.startswith((_TORCH, _HERE, "<frozen")):
        return FrameKind.TORCH
    if any(part in filename for part in _PASSES_ON):
        return FrameKind.TORCH
    if _DEMOS not in filename and any(part in filename for part in _FRAMEWORKS):
        return FrameKind.PLUMBING
    return FrameKind.USER


# Of the code of a graph of torch.fx.
_GENERATED = "<eval_with_key>"


@lru_cache(maxsize=4096)
def is_library_file(filename: str) -> bool:
    """Whether a file belongs to an installed package, not to the user."""
    if filename.startswith(_GENERATED) and " from " not in filename:
        return True  # by a library that generates code; what the user traces says from where
    steps = Path(filename).parts
    return filename.startswith(_TORCH) or "site-packages" in steps or "dist-packages" in steps


def is_ours(filename: str) -> bool:
    """Whether a file is of this library."""
    return filename.startswith(_HERE)


def source_of(code: CodeType | CodeLines | None, lasti: int) -> Source | None:
    """The source line of a position in a code object; ``None`` where it has none."""
    if code is None or code.co_filename.startswith("<"):
        return None
    line = _line_at(code, lasti)
    return Source(short_path(code.co_filename), line, code.co_name)


def _line_at(code: CodeType | CodeLines, lasti: int) -> int:
    for start, end, line in code.co_lines():
        if start <= lasti < end and line is not None:
            return line
    return code.co_firstlineno


def short_path(filename: str) -> str:
    """A path that is the same on every machine: below the working directory or a package.

    A file in an installed package is named from the package on, one below the working
    directory relative to it, any other by its name alone, so that no home directory ends up
    in a graph; what was typed into a notebook is a ``notebook cell``.
    """
    try:
        here = os.getcwd()  # noqa: PTH109 - once an op
    except OSError:  # it was removed meanwhile; no file is below it
        here = os.devnull
    return _shortened(filename, here, tuple(sys.path))


@lru_cache(maxsize=4096)
def _shortened(filename: str, cwd: str, search_path: tuple[str, ...]) -> str:
    """See `short_path`; an op in a loop has the same file each time."""
    path = Path(filename)
    if path.parent.name.startswith(_NOTEBOOK):
        return "notebook cell"
    for root in (*_package_roots(search_path), Path(cwd)):
        if path.is_relative_to(root):
            return path.relative_to(root).as_posix()
    return path.name


def _package_roots(search_path: tuple[str, ...]) -> tuple[Path, ...]:
    return tuple(
        Path(entry)
        for entry in search_path
        if entry.endswith(("site-packages", "dist-packages")) or "lib/python" in entry
    )
