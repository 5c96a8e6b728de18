"""Keeps torch.compile out of the recorded stretch, and the recorder out of torch's own compiles.

Dynamo cannot trace through a mode of ours, and what it compiles hides its ops; so compiled
parts run as eager code for the recorded batch. torch's higher-order ops (``torch.cond``,
``scan``) are another matter: they are defined by being compiled, and run wrongly without.
While one of them compiles, everything is as if nobody recorded; its result is then explained
like that of any code out of sight.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch

from modelviz_callbacks.tracing.modes import is_active, push_mode, remove_mode

# torch's context around the compilation of a higher-order op.
_COMPILING = "setup_compilation_env"


@contextlib.contextmanager
def eager(mode: torch.overrides.TorchFunctionMode) -> Iterator[None]:
    """Runs compiled code eagerly until left, but for the insides of higher-order ops.

    Dynamo is imported by any optimiser, so needing it costs a training process nothing.

    Args:
        mode: The recorder; out of the way while a higher-order op compiles.
    """
    with torch.compiler.set_stance("force_eager"), _hidden_from_higher_order_ops(mode):
        yield


@contextlib.contextmanager
def _hidden_from_higher_order_ops(mode: torch.overrides.TorchFunctionMode) -> Iterator[None]:
    from torch._higher_order_ops import utils

    # Whoever imported the function by name has to be told as well.
    homes = [utils, sys.modules.get("torch.nn.attention.flex_attention")]
    holders = [module for module in homes if hasattr(module, _COMPILING)]
    if not holders:  # an older torch compiles them elsewhere
        yield
        return
    original: Callable[[], Any] = getattr(utils, _COMPILING)

    @contextlib.contextmanager
    def setup_compilation_env() -> Iterator[Any]:
        if not is_active(mode):  # another thread's
            with original() as backend:
                yield backend
            return
        remove_mode(mode)
        try:
            with torch.compiler.set_stance("default"), original() as backend:
                yield backend
        finally:
            push_mode(mode)

    for module in holders:
        setattr(module, _COMPILING, setup_compilation_env)
    try:
        yield
    finally:
        for module in holders:
            setattr(module, _COMPILING, original)


def compiled_parts(model: torch.nn.Module) -> list[str]:
    """The qualified names of the modules of a model that torch.compile has its hands on."""
    from torch._dynamo import OptimizedModule

    return [
        name or type(module).__name__
        for name, module in model.named_modules()
        if isinstance(module, OptimizedModule) or module._compiled_call_impl is not None
    ]
