"""Weights that are on the meta device between the calls of their modules, as accelerate has them.

Before a module's forward a hook puts a copy in the place of each, after it the placeholder again.
Such a copy is the parameter whose place it takes: it is found there while the module is called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from modelviz_callbacks.tracing.capture.module_paths import paths_of
from modelviz_callbacks.tracing.capture.state_names import StateNames
from modelviz_callbacks.tracing.capture.tape import Origin, TensorRecord
from modelviz_callbacks.tracing.capture.torch_internals import buffers_of, parameters_of
from modelviz_callbacks.tracing.capture.wrappers import author_path

# How many tensors of unknown origin are looked for in the modules at a time.
_MOST_WAITING = 64


class OffloadedWeights:
    """Finds the placeholders whose places tensors take."""

    def __init__(
        self,
        model: torch.nn.Module,
        state: StateNames,
        record_of: Callable[[torch.Tensor], TensorRecord],
        innermost: Callable[[], torch.nn.Module | None],
    ) -> None:
        """Knows the model's modules as they are now.

        Args:
            model: The model.
            state: The names of its parameters and buffers.
            record_of: Gives the record of one of them.
            innermost: Gives the module whose call is under way.
        """
        self._paths = {id(module): path for path, module in paths_of(model)}
        self._record_of, self._innermost = record_of, innermost
        self._placeholders: dict[str, torch.Tensor] = {}
        for tensor, names in state.all():
            if tensor.is_meta:
                self._placeholders.update(dict.fromkeys((names.name, *names.aliases), tensor))
        self._waiting: list[TensorRecord] = []

    @staticmethod
    def among(state: StateNames) -> bool:
        """Whether some parameters or buffers are on the meta device."""
        return any(tensor.is_meta for tensor, _ in state.all())

    def placeholder(
        self, tensor: torch.Tensor, modules: Iterable[torch.nn.Module]
    ) -> TensorRecord | None:
        """The record of the placeholder whose place a tensor has in one of some modules."""
        if tensor.is_meta:
            return None
        for module in modules:
            path = self._paths.get(id(module))
            for table in (parameters_of(module), buffers_of(module)) if path is not None else ():
                for label, other in table.items():
                    if other is tensor:
                        name = author_path(f"{path}.{label}" if path else label)
                        found = self._placeholders.get(name)
                        return None if found is None else self._record_of(found)
        return None

    def wait_for(self, record: TensorRecord) -> None:
        """Looks from now on whether a tensor takes a placeholder's place."""
        self._waiting.append(record)
        del self._waiting[:-_MOST_WAITING]

    def settle(self) -> None:
        """Looks for those that are waited for in the module whose call is under way."""
        module = self._innermost() if self._waiting else None
        if module is None:
            return
        waiting, self._waiting = self._waiting, []
        for record in waiting:
            tensor, origin = record.ref(), record.origin
            if tensor is None or origin is None:
                continue
            placeholder = self.placeholder(tensor, (module,))
            if placeholder is None:
                self._waiting.append(record)
            else:
                take_place(origin, placeholder, record)


def take_place(origin: Origin, placeholder: TensorRecord, record: TensorRecord) -> None:
    """Lets a tensor be the parameter or buffer whose placeholder's place it has.

    Args:
        origin: Where the tensor comes from, as far as it is known.
        placeholder: The record of the placeholder.
        record: The tensor's own record.
    """
    before = origin.alias_of
    root: Origin | None = origin
    while root is not None and root.alias_of is not None and not root.gathered:
        root = root.alias_of.origin
    if root is not None and root is not origin and root.value is not None and record.stride:
        # What it shows was there before; a copy made for this call is not kept.
        origin.value = root.value.as_strided(record.shape or (), record.stride, record.offset)
    origin.sources = () if before is None else (before,)
    origin.alias_of = placeholder
    origin.passes = origin.gathered = True


class AskingFirst(dict[Any, Any]):
    """A dictionary that asks something before each look-up."""

    def __init__(self, ask: Callable[[], None]) -> None:
        """Empty.

        Args:
            ask: Called before each look-up.
        """
        super().__init__()
        self._ask = ask

    def get(self, key: Any, default: Any = None) -> Any:
        """As of any dictionary."""
        self._ask()
        return super().get(key, default)
