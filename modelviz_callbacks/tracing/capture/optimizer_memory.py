"""What optimizers keep for the parameters of a model, read right after a step of theirs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from weakref import ref

import torch
from torch.compiler import is_dynamo_compiling
from torch.optim import optimizer as optimizer_hooks

from modelviz_callbacks.tracing.capture.step_hook import StepHook
from modelviz_callbacks.tracing.capture.wrappers import author_path


class OptimizerMemory:
    """Looks at the sizes of optimizers' states, from `start` until `close`.

    Only sizes are asked for; nothing is held, and nothing is added to a state. Where the model is
    thrown away before, it ends with the next step of an optimizer.

    Attributes:
        sizes: Bytes by the parameters' qualified names; of those that no optimizer has stepped
            meanwhile nothing.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        """Nothing is watched yet.

        Args:
            model: Whose parameters count.
        """
        self._model = ref(model)
        self._hook: StepHook | None = None
        self.sizes: dict[str, int] = {}

    def start(self) -> None:
        """Begins to look."""
        if self._hook is None:
            register = optimizer_hooks.register_optimizer_step_post_hook
            self._hook = StepHook(register, self._after_step)

    def close(self) -> None:
        """Takes the hook down; safe to call again."""
        hook, self._hook = self._hook, None
        if hook is not None:
            hook.remove()

    def _after_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if is_dynamo_compiling():
            return
        try:
            self._read(optimizer)
        except Exception:  # a state of another kind: its size is not known
            self.close()

    def _read(self, optimizer: torch.optim.Optimizer) -> None:
        model = self._model()
        if model is None:
            self.close()
            return
        names = {id(one): author_path(name) for name, one in model.named_parameters()}
        state: Mapping[Any, Any] = optimizer.state
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                name = names.get(id(parameter))
                if name is not None:
                    self.sizes[name] = _size(state.get(parameter), set())


def _size(value: Any, seen: set[int]) -> int:
    """Bytes of the tensors in something, each once."""
    if isinstance(value, torch.Tensor):
        is_new = id(value) not in seen
        seen.add(id(value))
        return value.numel() * value.element_size() if is_new else 0
    if isinstance(value, Mapping):
        return sum(_size(one, seen) for one in value.values())
    if isinstance(value, (tuple, list)):
        return sum(_size(one, seen) for one in value)
    return 0
