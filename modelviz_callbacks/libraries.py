"""The libraries that need not be there: what brings one that is missing."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from modelviz_callbacks.errors import MissingLibraryError, ModelvizError

# What is imported -> what to install for it. The extras are those of pyproject.toml.
_BROUGHT_BY = {
    "lightning": "modelviz-callbacks[lightning]",
    "mlflow": "modelviz-callbacks[mlflow]",
    "onnxruntime": "modelviz-callbacks[onnx]",
    "rich": "modelviz-callbacks[rich]",
    "onnx": "onnx",
    "onnx_ir": "onnxscript",
    "onnxscript": "onnxscript",
    "quickjs": "quickjs-ng",
    "resvg_py": "resvg-py",
    "protobuf": "protobuf",
    "numpy": "numpy",
    "tensorboard": "modelviz-callbacks[tensorboard]",
    "netron": "netron",
    "fsspec": "fsspec",
}


def missing_library(error: BaseException) -> str:
    """Which library was missing, or too old, where that is why something failed.

    Args:
        error: Any error, or one that was raised from it.

    Returns:
        A sentence with the command that brings it; ``""``: the reason is another.
    """
    seen: BaseException | None = error
    while seen is not None:
        name = seen.name or "" if isinstance(seen, ModuleNotFoundError) else ""
        # Many packages lie in "google", which is nobody's own.
        name = "protobuf" if name in ("google", "google.protobuf") else name
        library = name.partition(".")[0]
        # A folder of that name beside the script is imported, too, and has no file.
        is_there = getattr(sys.modules.get(library), "__file__", None)
        if library in _BROUGHT_BY and library != name and is_there:
            return (
                f"The {library} that is installed has no {name}, it is too old for the rest: "
                f'pip install --upgrade "{_BROUGHT_BY[library]}" mends that.'
            )
        if library in _BROUGHT_BY:
            return f'{library} is not installed: pip install "{_BROUGHT_BY[library]}" brings it.'
        seen = seen.__cause__ or seen.__context__
    return ""


@contextlib.contextmanager
def says_what_is_missing() -> Iterator[None]:
    """Says which library is needed, where one of those this library can use is not there.

    Raises:
        MissingLibraryError: In the place of Python's own error, or of one that was raised from it.
    """
    try:
        yield
    except (ModuleNotFoundError, ModelvizError) as error:
        sentence = missing_library(error)
        if not sentence or "pip install" in str(error):  # it says so itself, and maybe more
            raise
        raise MissingLibraryError(sentence) from error
