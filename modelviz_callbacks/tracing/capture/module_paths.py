"""The modules of a model and where they stand in it.

``Module.modules`` and ``Module.named_modules`` hand each module up through a generator for every
level above it; what a recording must know of a model is asked inside a training step.
"""

from __future__ import annotations

import torch

from modelviz_callbacks.tracing.capture.torch_internals import children_of


def modules_of(model: torch.nn.Module) -> list[torch.nn.Module]:
    """Every module of a model once, itself first, in the order of ``modules()``."""
    found: dict[int, torch.nn.Module] = {}
    waiting = [model]
    while waiting:
        module = waiting.pop()
        if id(module) in found:
            continue
        found[id(module)] = module
        children = children_of(module)
        if children:
            waiting += [child for child in children.values() if child is not None][::-1]
    return list(found.values())


def paths_of(model: torch.nn.Module) -> list[tuple[str, torch.nn.Module]]:
    """Every path to every module of a model, as ``named_modules(remove_duplicate=False)``.

    Where modules hold each other, which that fails on and which have more paths than can be
    counted, it is one path each.
    """
    found: list[tuple[str, torch.nn.Module]] = []
    return found if _add_paths("", model, set(), found) else list(model.named_modules())


def _add_paths(
    path: str,
    module: torch.nn.Module,
    above: set[int],
    found: list[tuple[str, torch.nn.Module]],
) -> bool:
    """Adds the paths from a module on; false where one of them leads to a module above it."""
    found.append((path, module))
    children = children_of(module)
    if not children:
        return True
    above.add(id(module))
    for name, child in children.items():
        if child is not None and (
            id(child) in above
            or not _add_paths(f"{path}.{name}" if path else name, child, above, found)
        ):
            return False
    above.discard(id(module))
    return True
