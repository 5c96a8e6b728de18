"""What is switched on in a process: hooks, modes and flags."""

from __future__ import annotations

import gc
import sys
import threading
import weakref
from typing import Any

import torch
from torch.nn.modules import module as module_hooks
from torch.optim import optimizer as optimizer_hooks
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from modelviz_callbacks.tracing import OptimizerMemory
from tests.zoo.leaves import frozen


def hooks(attributes: dict[str, Any]) -> dict[str, Any]:
    """Every table of hooks, with the functions in it; without what waits for an optimizer.

    That one is gone after the first step of an optimizer, which belongs to the first batch; not
    all who look here make one. ``tests/watching/test_optimizer_memory.py`` holds it.
    """
    return {
        name: [
            getattr(hook, "__qualname__", type(hook).__qualname__)
            for hook in table.values()
            if not _waits_for_optimizer(hook)
        ]
        for name, table in attributes.items()
        if "_hooks" in name and isinstance(table, dict)
    }


def _waits_for_optimizer(hook: Any) -> bool:
    call = getattr(getattr(hook, "__self__", None), "_call", None)
    return getattr(call, "__self__", None) is OptimizerMemory


# Threads that were there before the test; one that ends meanwhile is no difference.
_EARLIER: weakref.WeakSet[threading.Thread] = weakref.WeakSet()


def disregard_threads() -> None:
    """Takes the threads of now for somebody else's."""
    _EARLIER.update(threading.enumerate())


def switches() -> Any:
    """What is switched on in this process and thread, `frozen`."""
    tables = {**hooks(vars(module_hooks)), **hooks(vars(optimizer_hooks))}
    found = {
        "hooks": tables,
        "full backward hooks": str(module_hooks._global_is_full_backward_hook),
        "function modes": [type(mode).__qualname__ for mode in _get_current_function_mode_stack()],
        "dispatch modes": [type(mode).__qualname__ for mode in _get_current_dispatch_mode_stack()],
        "function modes enabled": torch._C._is_torch_function_mode_enabled(),
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "autocast": [torch.is_autocast_enabled(device) for device in ("cpu", "cuda")],
        "default dtype": str(torch.get_default_dtype()),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "threads": [thread.name for thread in threading.enumerate() if thread not in _EARLIER],
        "trace function": str(sys.gettrace()),
        "profile function": str(sys.getprofile()),
        "collector": (gc.get_threshold(), gc.isenabled()),
        "module call": torch.nn.Module.__call__.__qualname__,
    }
    return frozen(found)
