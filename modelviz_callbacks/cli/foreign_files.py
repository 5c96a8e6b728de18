"""Files with graphs that others made; what reads them is loaded when there is one."""

from __future__ import annotations

import importlib
from pathlib import Path

from modelviz_callbacks.errors import ModelvizError
from modelviz_callbacks.graph.model import ModelGraph

# Suffix: module of `modelviz_callbacks.foreign` and its function.
_READERS = {".onnx": ("onnx_file", "read"), ".pt2": ("fx_graph", "read_exported")}


def is_foreign(path: Path) -> bool:
    """Whether a file is of a kind that others make."""
    return path.suffix.lower() in _READERS


def read_foreign(path: Path) -> ModelGraph:
    """Reads such a file.

    Args:
        path: For which `is_foreign` holds.

    Returns:
        Its graph.

    Raises:
        GraphFormatError: It holds something else.
        ModelvizError: What reads it is not installed.
    """
    module, function = _READERS[path.suffix.lower()]
    try:
        reader = importlib.import_module(f"modelviz_callbacks.foreign.{module}")
    except ImportError as error:
        raise ModelvizError(f"{path} cannot be read here: {error}.") from error
    graph: ModelGraph = getattr(reader, function)(path)
    return graph
