"""What optimizers keep for the parameters of a model, read right after their first step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, ClassVar
from weakref import WeakSet, ref

import torch
from torch.compiler import is_dynamo_compiling
from torch.optim import optimizer as optimizer_hooks

from modelviz_callbacks.tracing.capture.step_hook import StepHook
from modelviz_callbacks.tracing.capture.wrappers import author_path

# How many steps of optimizers are waited for: a GAN's discriminator may have some before the first
# one of its generator, and other models have optimizers, too.
_MOST_STEPS = 16


class OptimizerMemory:
    """Reads the sizes of optimizers' states after the first step of each, and is gone then.

    It is over when all parameters that are trained had such a step, or some steps later. Only
    sizes are asked for; nothing is held, and nothing is added to a state. Where the model is
    thrown away before, it ends with the next step of an optimizer.

    All that wait share one hook: of several the first could not go while torch calls them.
    """

    _waiting: ClassVar[list[OptimizerMemory]] = []
    _hook: ClassVar[StepHook | None] = None
    _left: ClassVar[list[StepHook]] = []  # they could not go while torch called them

    def __init__(self, model: torch.nn.Module, done: Callable[[Mapping[str, int]], None]) -> None:
        """Looks from now on.

        Args:
            model: Whose parameters count.
            done: Called once, with bytes by the parameters' qualified names; of those that no
                optimizer has stepped there are none.
        """
        self._model = ref(model)
        self._done = done
        self._sizes: dict[str, int] = {}
        self._seen: WeakSet[torch.optim.Optimizer] = WeakSet()
        self._steps = 0
        self._join(self)

    def close(self) -> None:
        """Waits no more and tells what was read; safe to call again."""
        if self._leave(self):
            self._done(self._sizes)

    @classmethod
    def _join(cls, one: OptimizerMemory) -> None:
        cls._waiting.append(one)
        if cls._hook is None:
            register = optimizer_hooks.register_optimizer_step_post_hook
            cls._hook = StepHook(register, cls._after_any_step)

    @classmethod
    def _leave(cls, one: OptimizerMemory) -> bool:
        """Whether it waited; the hook goes with the last one."""
        is_waiting = one in cls._waiting
        if is_waiting:
            cls._waiting.remove(one)
        if not cls._waiting and cls._hook is not None:
            cls._left.append(cls._hook)
            cls._hook = None
        cls._left[:] = [hook for hook in cls._left if not hook.remove()]
        return is_waiting

    @classmethod
    def _after_any_step(cls, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if is_dynamo_compiling():
            return
        for one in tuple(cls._waiting):
            with suppress(Exception):  # it is the trainer's own step that goes on here
                one._after_step(optimizer)

    def _after_step(self, optimizer: torch.optim.Optimizer) -> None:
        try:
            self._steps += 1
            is_over = self._steps >= _MOST_STEPS
            if optimizer not in self._seen:
                self._seen.add(optimizer)
                is_over |= self._read(optimizer)
        except Exception:  # a state of another kind: its size is not known
            is_over = True
        if is_over:
            self.close()

    def _read(self, optimizer: torch.optim.Optimizer) -> bool:
        """Reads a state; whether nothing more is to be expected."""
        model = self._model()
        if model is None:
            return True
        named = [(author_path(name), one) for name, one in model.named_parameters()]
        names = {id(one): name for name, one in named}
        state: Mapping[Any, Any] = optimizer.state
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                name = names.get(id(parameter))
                if name is not None:  # an optimizer around another has a state of its own
                    size = _size(state.get(parameter), set())
                    self._sizes[name] = max(size, self._sizes.get(name, 0))
        return all(name in self._sizes for name, one in named if one.requires_grad)


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
