"""How tensor parallelism has split the weights of modules, as numbers."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from modelviz_callbacks.tracing.capture.module_paths import modules_of

_LOG = logging.getLogger(__name__)

NAMES = (
    "tensor_parallel_dim",
    "tensor_parallel_ranks",
    "local_weight_shape",
    "full_weight_shape",
)
"""What the numbers are called: the weight's dimension that is split, over how many ranks, the shape
of this rank's part and of the whole."""

_Numbers = tuple[tuple[str, "int | tuple[int, ...]"], ...]


def split_weights(modules: Iterable[nn.Module]) -> dict[int, _Numbers]:
    """The modules whose own ``weight`` is split over ranks that compute together.

    What FSDP splits is not meant: that is put together before a module computes.

    Args:
        modules: Those of one model.

    Returns:
        By the module's ``id``: the `NAMES`, each with its number or numbers.
    """
    if "torch.distributed.tensor" not in sys.modules:
        return {}
    known = list(modules)
    gathered = {id(part) for one in known if _is_fsdp(one) for part in modules_of(one)}
    found: dict[int, _Numbers] = {}
    for module in known:
        own = nn.Module.named_parameters(module, recurse=False)
        weight = next((tensor for name, tensor in own if name == "weight"), None)
        if hasattr(weight, "placements") and hasattr(weight, "device_mesh"):
            numbers = _attempted(weight, id(module) in gathered)
            if numbers:
                found[id(module)] = numbers
    return found


def _is_fsdp(module: nn.Module) -> bool:
    return any(kind.__name__ == "FSDPModule" for kind in type(module).__mro__)


def _attempted(weight: Any, is_gathered: bool) -> _Numbers:
    """The numbers; none of what only looks like torch's own: a label is worth no graph."""
    try:
        return _numbers(weight, is_gathered)
    except Exception:
        _LOG.debug("how a weight is split is not told", exc_info=True)
        return ()


def _numbers(weight: Any, is_gathered: bool) -> _Numbers:
    """What the last axis of the mesh of ranks does; FSDP has the first of two for itself."""
    placements, mesh = weight.placements, weight.device_mesh
    if is_gathered and len(placements) == 1:
        return ()
    dim = getattr(placements[-1], "dim", None)
    if not isinstance(dim, int):
        return ()  # a copy on every rank
    ranks = int(mesh.size(len(placements) - 1))
    full = tuple(int(size) for size in weight.shape)
    with torch.no_grad():
        local = tuple(int(size) for size in weight.to_local().shape)
    return tuple(zip(NAMES, (dim, ranks, local, full), strict=True))
