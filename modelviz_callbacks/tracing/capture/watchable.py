"""Which modules may have hooks of ours: none that compiled code may run."""

from __future__ import annotations

import torch

from modelviz_callbacks.tracing.capture.module_paths import modules_of
from modelviz_callbacks.tracing.capture.torch_internals import compiled_call, is_compiled
from modelviz_callbacks.tracing.capture.wrappers import unwrapped, unwrapped_once


def watchable_parts(model: torch.nn.Module, core: torch.nn.Module) -> list[torch.nn.Module]:
    """The modules below a model that may have hooks.

    Args:
        model: The model that is called.
        core: The model that it wraps, or itself.
    """
    if is_compiled(model):
        return []
    parts = modules_of(core)[1:]
    inside = {id(one) for part in parts if runs_compiled(part) for one in modules_of(part)}
    scripted = torch.jit.ScriptModule
    return [one for one in parts if id(one) not in inside and not isinstance(one, scripted)]


def runs_compiled(model: torch.nn.Module) -> bool:
    """Whether calls of a module run compiled code."""
    return is_compiled(model) or compiled_call(model) is not None


def without_wrappers(model: torch.nn.Module) -> torch.nn.Module:
    """What is watched: the model without the wrappers that only distribute it (DDP).

    One that compiles is watched from outside, since nothing of ours may run inside compiled code.
    """
    core = unwrapped(model)
    while model is not core and not runs_compiled(model):
        inner = unwrapped_once(model)
        if inner is model:
            return model
        model = inner
    return model
