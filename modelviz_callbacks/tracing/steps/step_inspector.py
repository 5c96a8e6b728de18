"""Looks into one later training step: what modules give, which gradients come, what is changed.

The window outlives the forward: outputs are looked at by a global module hook until the recorded
code has returned, gradients and updates by hooks around the optimizer's step, which may come some
batches later (accumulation) or never. All is computed where the tensors are; what is read is one
tensor from each device, at the end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from threading import get_ident
from typing import Any

import torch
from torch.compiler import is_dynamo_compiling
from torch.nn.modules import module as module_hooks
from torch.nn.parameter import is_lazy
from torch.optim import optimizer as optimizer_hooks

from modelviz_callbacks.tracing.capture.compile_guard import compiled_parts
from modelviz_callbacks.tracing.capture.module_paths import paths_of
from modelviz_callbacks.tracing.capture.pytree import leaves, walk
from modelviz_callbacks.tracing.capture.step_hook import StepHook
from modelviz_callbacks.tracing.capture.torch_internals import (
    AUTOCAST_DEVICES,
    backward_number,
    has_compiled,
)
from modelviz_callbacks.tracing.capture.wrappers import author_path
from modelviz_callbacks.tracing.steps.inspected_step import (
    InspectedStep,
    SeenOutput,
    SeenParameter,
)
from modelviz_callbacks.tracing.steps.tensor_statistics import (
    Looked,
    Results,
    TensorStatistics,
    is_captured,
    is_readable,
    is_watched,
)

# How many further forwards an optimizer's step is waited for.
_MOST_FORWARDS = 1000

# Copies of the weights may take this part of a device's free memory.
_SHARE_OF_MEMORY = 0.5

_COMPILED = (
    "Outputs of modules were not looked at: torch.compile fuses what is between them. Gradients "
    "and updates were."
)
_IN_OPTIMIZER = (
    "Updates were not measured: the optimizer's step had begun before the forward that is looked "
    "into (a closure that calls the model), or is compiled."
)
_NO_STEP = (
    "No optimizer step of these parameters came after this forward, so there are no updates; "
    "gradients are as they were when the next forward began."
)
_SKIPPED = (
    "The optimizer made no step after this forward: a gradient scaler skips it where a gradient "
    "is not finite, as here. Gradients may hold the scaler's factor."
)
_LATER = (
    "Gradients and updates are those of the next optimizer step of these parameters; {count} more "
    "forward(s) ran before it."
)
_WATCHED = (
    "Outputs within function transforms (vmap, grad) or dispatch modes (a selective checkpoint) "
    "were not looked at."
)
_CAPTURED = "Nothing was looked at: the step was being captured as a CUDA graph."
_NO_ROOM = "Updates were not measured: a copy of the weights has no room on the device."
_UNREADABLE = (
    "{count} of {all} parameters were not looked at: their tensors have no data here, or are made "
    "of others (sharded by FSDP2)."
)
_FAULT = "Looking into the step ended early with {error!r}."


class StepInspector:
    """Looks into the step that one thread runs from `start` on, until `close`.

    A fault of its own ends the looking, never the step.
    """

    def __init__(
        self, model: torch.nn.Module, number: int, done: Callable[[InspectedStep], None]
    ) -> None:
        """Nothing is armed yet.

        Args:
            model: The model that was recorded.
            number: Of the step.
            done: Called once with what was seen, in the thread that trains.
        """
        self._model = model
        self._number = number
        self._done = done
        self._thread = 0
        self._forward_hook = ExitStack()
        self._gradient_hooks = ExitStack()
        self._step_hooks: list[StepHook] = []
        self._statistics = TensorStatistics()
        self._paths: dict[int, str] = {}
        self._aliases: dict[str, str] = {}
        self._trained: dict[int, tuple[str, torch.nn.Parameter]] = {}
        self._calls: Counter[int] = Counter()
        self._outputs: list[tuple[str, int, str, Looked, bool]] = []
        self._gradients: dict[int, Looked] = {}
        self._copies: dict[int, torch.Tensor] = {}
        self._norms: dict[int, tuple[int, int]] = {}
        self._under_way: set[int] = set()
        self._stepped: set[int] = set()
        self._forwards = 0
        self._is_scaled = False
        self._remarks: list[str] = []
        self._is_closed = False

    def start(self) -> None:
        """Begins; call it right before the step, at best before its optimizer begins."""
        self._thread = get_ident()
        if is_captured():
            self._remark(_CAPTURED)
            self.close()
            return
        with self._guarded():
            for path, module in paths_of(self._model):
                first = self._paths.setdefault(id(module), author_path(path))
                self._aliases[author_path(path)] = first
            for name, parameter in self._model.named_parameters():
                if parameter.requires_grad and not is_lazy(parameter):
                    self._trained[id(parameter)] = (author_path(name), parameter)
            for register, hook in (
                (optimizer_hooks.register_optimizer_step_pre_hook, self._before_update),
                (optimizer_hooks.register_optimizer_step_post_hook, self._after_update),
            ):
                self._step_hooks.append(StepHook(register, hook))
            self._watch_outputs()

    def _watch_outputs(self) -> None:
        if compiled_parts(self._model) or has_compiled():
            self._remark(_COMPILED)
            return
        hook = module_hooks.register_module_forward_hook(self._after_module)
        self._forward_hook.callback(hook.remove)

    def end_forward(self) -> None:
        """The recorded code has returned: what modules are called for later is not this step's."""
        self._forward_hook.close()

    def next_forward(self) -> None:
        """The next step begins: what is still missing is waited for, or will not come."""
        self.end_forward()
        if self._is_closed or self._under_way:
            return
        self._forwards += 1
        if self._stepped or self._forwards >= _MOST_FORWARDS:
            self.close()
        elif self._forwards == 1 and self._was_skipped():
            self._remark(_SKIPPED)
            self.close()

    def _was_skipped(self) -> bool:
        """Whether a gradient scaler will have left the step out; else it is still to come."""
        with self._guarded():
            # Of an accumulated gradient the part that is there; the whole one takes its place.
            self._look_at_gradients(self._trained)
            return self._is_scaled and self._statistics.has_not_finite(self._gradients.values())
        return False

    def close(self) -> None:
        """Takes every hook down and hands on what was seen; safe to call again."""
        if self._is_closed:
            return
        self._is_closed = True
        self.remove_hooks()
        seen = InspectedStep(self._number, remarks=tuple(self._remarks))
        with self._guarded():
            if not self._stepped and _SKIPPED not in self._remarks:
                self._remark(_NO_STEP)
            self._look_at_gradients(self._of_no_optimizer())
            unread = [one for _, one in self._trained.values() if not is_readable(one)]
            if unread:
                self._remark(_UNREADABLE.format(count=len(unread), all=len(self._trained)))
            seen = self._read()
        if self._remarks != [*seen.remarks]:
            seen = InspectedStep(
                seen.number, seen.outputs, seen.parameters, seen.aliases, tuple(self._remarks)
            )
        self._statistics, self._trained = TensorStatistics(), {}
        self._done(seen)

    @property
    def is_closed(self) -> bool:
        """Whether all that will be seen was handed on."""
        return self._is_closed

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Turns any failure into a remark, and looks no further."""
        try:
            yield
        except Exception as error:
            self._remark(_FAULT.format(error=error))
            self.remove_hooks()

    def remove_hooks(self) -> None:
        """Takes every hook down; again where `close` was called from a hook of torch's table."""
        self._forward_hook.close()
        self._gradient_hooks.close()
        for hook in self._step_hooks:
            hook.remove()
        self._copies = {}

    def _remark(self, sentence: str) -> None:
        if sentence not in self._remarks:
            self._remarks.append(sentence)

    # --- outputs of modules; the hook sees every module call of every thread

    def _after_module(self, module: torch.nn.Module, args: Any, result: Any) -> None:
        if is_dynamo_compiling() or get_ident() != self._thread:
            return
        path = self._paths.get(id(module))
        if path is None or backward_number() != -1 or is_captured():
            return
        with self._guarded():
            if is_watched():
                self._remark(_WATCHED)
                return
            index = self._calls[id(module)]
            self._calls[id(module)] += 1
            tensors: list[torch.Tensor] = []

            def keep(tensor: torch.Tensor) -> int:
                tensors.append(tensor)
                return len(tensors) - 1

            for place, number in leaves(walk(result, keep), ""):
                found = self._statistics.look(tensors[number])
                if found is not None:
                    self._outputs.append((path, index, place, *found))
            self._look_for_a_scaler()

    def _look_for_a_scaler(self) -> None:
        """With half-precision autocast a step may be skipped, and its gradients never be seen."""
        if self._is_scaled or not any(
            torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) is torch.float16
            for kind in {parameter.device.type for _, parameter in self._trained.values()}
            if kind in AUTOCAST_DEVICES
        ):
            return
        self._is_scaled = True
        for _, parameter in self._trained.values():
            if is_readable(parameter):
                watched: Any = parameter
                hook = watched.register_post_accumulate_grad_hook(self._after_gradient)
                self._gradient_hooks.callback(hook.remove)

    def _after_gradient(self, parameter: torch.Tensor) -> None:
        if not self._is_closed and not self._forwards:
            with self._guarded():
                self._look_at_gradient(parameter)

    # --- gradients and updates

    def _own(self, optimizer: torch.optim.Optimizer) -> dict[int, Any]:
        """The parameters of the model that an optimizer trains and none has stepped yet."""
        return {
            id(parameter): self._trained[id(parameter)]
            for group in optimizer.param_groups
            for parameter in group["params"]
            if id(parameter) in self._trained and id(parameter) not in self._stepped
        }

    def _before_update(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if is_dynamo_compiling() or self._is_closed or is_captured():
            return
        with self._guarded():
            own = self._own(optimizer)
            if not own:
                return
            self._under_way.add(id(optimizer))
            if not _has_closure(args, kwargs):  # with one the gradients come in the step
                self._look_at_gradients(own, getattr(optimizer, "grad_scale", None))
            self._copy(own)

    def _copy(self, own: dict[int, Any]) -> None:
        wanted = [one for _, one in own.values() if is_readable(one) and one.numel()]
        if not _have_room(wanted):
            self._remark(_NO_ROOM)
            return
        with torch.no_grad():
            for parameter in wanted:
                self._copies[id(parameter)] = parameter.detach().clone()

    def _after_update(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if is_dynamo_compiling() or self._is_closed or is_captured():
            return
        with self._guarded():
            own = self._own(optimizer)
            if not own:
                return
            has_begun = id(optimizer) in self._under_way
            self._under_way.discard(id(optimizer))
            if not has_begun:
                self._remark(_IN_OPTIMIZER)
            elif self._forwards and not self._stepped:
                self._remark(_LATER.format(count=self._forwards))
            if not has_begun or _has_closure(args, kwargs):
                self._look_at_gradients(own)
            for key in own:
                before = self._copies.pop(key, None)
                if before is not None:
                    after = self._trained[key][1]
                    change = self._statistics.change_norm(before, after)
                    self._norms[key] = (self._statistics.norm(before), change)
            self._stepped.update(own)
            if self._stepped >= self._trained.keys():
                self.end_forward()
        if self._stepped >= self._trained.keys():
            self.close()

    def _look_at_gradients(self, own: dict[int, Any], scale: Any = None) -> None:
        for _, parameter in own.values():
            self._look_at_gradient(parameter, scale)

    def _look_at_gradient(self, parameter: torch.Tensor, scale: Any = None) -> None:
        gradient = parameter.grad
        if gradient is None:
            return
        if isinstance(scale, torch.Tensor) and is_readable(gradient):
            with torch.no_grad():  # a fused optimizer takes the scale out by itself
                gradient = gradient.detach() / scale.to(gradient.device)
        found = self._statistics.look(gradient)
        if found is not None:
            self._gradients[id(parameter)] = found[0]

    def _of_no_optimizer(self) -> dict[int, Any]:
        """The parameters whose gradients nobody has asked for so far."""
        seen = {*self._gradients, *self._stepped}
        return {key: one for key, one in self._trained.items() if key not in seen}

    # --- what was seen

    def _read(self) -> InspectedStep:
        results = self._statistics.read()
        outputs = [
            SeenOutput(path, index, place, *_told(looked), again, results.health(looked))
            for path, index, place, looked, again in self._outputs
        ]
        return InspectedStep(
            self._number,
            tuple(outputs),
            tuple(self._parameter(key, results) for key in self._trained),
            self._aliases,
            tuple(self._remarks),
        )

    def _parameter(self, key: int, results: Results) -> SeenParameter:
        name, parameter = self._trained[key]
        looked = self._gradients.get(key)
        weight, change = self._norms.get(key, (None, None))
        return SeenParameter(
            name,
            *_told(looked or Looked(parameter)),
            looked is not None,
            results.health(looked),
            results.norm(weight),
            results.norm(change),
        )


def _told(looked: Looked) -> tuple[str, tuple[int, ...]]:
    return looked.dtype, looked.shape


def _has_closure(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    given = [*args, *kwargs.values()]
    return any(callable(one) and not isinstance(one, torch.optim.Optimizer) for one in given)


def _have_room(tensors: list[torch.nn.Parameter]) -> bool:
    """Whether copies of some tensors leave enough free memory on every CUDA device."""
    wanted: Counter[torch.device] = Counter()
    for one in tensors:
        if one.is_cuda:
            wanted[one.device] += one.numel() * one.element_size()
    for device, size in wanted.items():
        free, _ = torch.cuda.mem_get_info(device)
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        if size > _SHARE_OF_MEMORY * (free + kept):
            return False
    return True
