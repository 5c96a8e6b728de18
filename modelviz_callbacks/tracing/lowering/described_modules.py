"""What modules say of themselves, for labels: the numbers among their attributes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

from torch import nn

from modelviz_callbacks.graph import Argument, ModuleCall
from modelviz_callbacks.tracing.capture.module_attributes import numbers_of
from modelviz_callbacks.tracing.capture.module_paths import paths_of
from modelviz_callbacks.tracing.capture.tensor_parallel import split_weights
from modelviz_callbacks.tracing.capture.wrappers import author_path


def described(calls: Iterable[ModuleCall], model: nn.Module) -> Iterator[ModuleCall]:
    """Module calls with the attributes of their modules.

    Args:
        calls: Of a graph.
        model: The model, or the stand-in for it.
    """
    modules = {author_path(path): module for path, module in paths_of(model)}
    split = split_weights(modules.values())
    for call in calls:
        module = modules.get(call.path) if call.path else None
        numbers = numbers_of(module) if module is not None else ()
        numbers += split.get(id(module), ())
        if numbers:
            attributes = tuple(Argument(name, value) for name, value in numbers)
            yield dataclasses.replace(call, attributes=attributes)
        else:
            yield call
