"""The modules of a model and where they stand in it.

``Module.modules`` and ``Module.named_modules`` hand each module up through a generator for every
level above it; what a recording must know of a model is asked inside a training step.
"""

from __future__ import annotations

import torch

# A module that stands in more places than this is looked at in these only: modules that hold
# each other have more paths than can be counted.
_MOST_PLACES = 1000


def modules_of(model: torch.nn.Module) -> list[torch.nn.Module]:
    """Every module of a model once, itself first, in the order of ``modules()``."""
    found: dict[int, torch.nn.Module] = {}
    waiting = [model]
    while waiting:
        module = waiting.pop()
        if id(module) in found:
            continue
        found[id(module)] = module
        if module._modules:
            waiting += [child for child in module._modules.values() if child is not None][::-1]
    return list(found.values())


def paths_of(model: torch.nn.Module) -> list[tuple[str, torch.nn.Module]]:
    """Every path to every module of a model, as ``named_modules(remove_duplicate=False)``.

    A module inside itself, which that fails on, is not entered again.
    """
    found: list[tuple[str, torch.nn.Module]] = []
    _add_paths("", model, set(), {}, found)
    return found


def _add_paths(
    path: str,
    module: torch.nn.Module,
    above: set[int],
    places: dict[int, int],
    found: list[tuple[str, torch.nn.Module]],
) -> None:
    found.append((path, module))
    if not module._modules:
        return
    above.add(id(module))
    for name, child in module._modules.items():
        if child is None or id(child) in above:
            continue
        count = places[id(child)] = places.get(id(child), 0) + 1
        if count <= _MOST_PLACES:
            _add_paths(f"{path}.{name}" if path else name, child, above, places, found)
    above.discard(id(module))
