"""What stands around a model without being part of it."""

from __future__ import annotations

import gc
from collections.abc import Container
from typing import Any

import torch

from modelviz_callbacks.tracing.capture.module_paths import paths_of
from modelviz_callbacks.tracing.capture.torch_internals import (
    ORIGINAL_MODULE,
    is_compiled,
    original_module,
)

# What Lightning's Fabric and DeepSpeed make of a model.
_ENGINES = ("_FabricModule", "DeepSpeedEngine")

# Begins no path.
_NOWHERE = ".."


def unwrapped(model: torch.nn.Module) -> torch.nn.Module:
    """The author's model inside the wrappers that distribute or compile it."""
    while True:
        inner = unwrapped_once(model)
        if inner is model:
            return model
        model = inner


def unwrapped_once(model: torch.nn.Module) -> torch.nn.Module:
    """What the outermost wrapper of a model holds; a model without one is given back.

    So is one whose wrapper does not say: it is watched as it is.
    """
    try:
        return _inside(model)
    except Exception:
        return model


def _inside(model: torch.nn.Module) -> torch.nn.Module:
    if is_compiled(model):
        return original_module(model)
    inner: object = None
    if isinstance(
        model, (torch.nn.parallel.DistributedDataParallel, torch.nn.parallel.DataParallel)
    ):
        inner = model.module
    elif type(model).__name__ in _ENGINES:
        # Its ``module`` is the author's, under all that is between.
        inner = getattr(model, "module", None)
    return inner if isinstance(inner, torch.nn.Module) else model


def is_compiled_elsewhere(model: torch.nn.Module) -> bool:
    """Whether ``torch.compile(model)`` was kept by somebody: calls of that are none of the model.

    Args:
        model: Any; what refers to it is looked at, which takes milliseconds.
    """
    return any(
        isinstance(holder, dict) and holder.get(ORIGINAL_MODULE) is model
        for holder in gc.get_referrers(model)
    )


def author_path(path: str) -> str:
    """A qualified name without the steps that ``torch.compile(module)`` puts into it."""
    if ORIGINAL_MODULE not in path:
        return path
    return ".".join(step for step in path.split(".") if step != ORIGINAL_MODULE)


def class_of(module: torch.nn.Module) -> type[torch.nn.Module]:
    """The author's class of a module, under the ones that wrappers make of it.

    FSDP2 and parametrisations give a module a class of their own making, with the author's
    among its bases.
    """
    if is_compiled(module):
        return class_of(unwrapped(module))
    cls = type(module)
    if len(cls.__mro__) > 2 and cls.__mro__[1].__name__ == "FSDPModule":
        return cls.__mro__[2]
    if cls.__name__ == f"Parametrized{cls.__mro__[1].__name__}":
        return cls.__mro__[1]
    return cls


def has_forward(module: torch.nn.Module) -> bool:
    """Whether a module can be called (a ``ModuleList`` cannot)."""
    if isinstance(module, torch.jit.ScriptModule):
        return True
    return type(module).forward is not torch.nn.Module.forward


def told_modules(model: torch.nn.Module, called: Container[str] = ()) -> list[tuple[str, bool]]:
    """The modules of which it is worth saying that they were never called.

    Args:
        model: Any model.
        called: The names by which modules were: one that has several has that of these.

    Returns:
        Qualified names as the author wrote them, and whether each has a forward. Left out is
        what lies in a scripted module, which runs out of sight, and what has no parameters and
        lies in a module of torch's.
    """
    found: dict[str, bool] = {}
    names: dict[int, str] = {}
    for path, module in paths_of(model):
        if author_path(path) in called:
            names.setdefault(id(module), author_path(path))
    scripted = torchs = _NOWHERE  # the modules come parents first, so one of each is enough
    for path, module in model.named_modules():
        if path.startswith(scripted):
            continue
        name = class_name(module)
        if not path.startswith(torchs) or any(True for _ in module.parameters()):
            # A compiled module and what it wraps are one to the author.
            found[names.get(id(module), author_path(path))] = has_forward(module)
        if name.startswith("torch.jit."):
            scripted = f"{path}." if path else ""
        elif name.startswith(("torch.nn.", "torch.ao.")) and not path.startswith(torchs) and path:
            is_container = name.startswith("torch.nn.modules.container.")
            torchs = _NOWHERE if is_container else f"{path}."
    return list(found.items())


def class_name(module: torch.nn.Module) -> str:
    """Qualified name of the author's class."""
    cls = class_of(module)
    return f"{cls.__module__}.{cls.__qualname__}"


def module_of_compiled(function: Any) -> torch.nn.Module | None:
    """The module whose call was compiled, ``None`` for another function.

    Args:
        function: What stands around compiled code: torch 2.14 has it around the method of a
            module, earlier ones around the module, or the method itself.
    """
    inner = getattr(function, "__wrapped__", function)
    module = inner if isinstance(inner, torch.nn.Module) else getattr(inner, "__self__", None)
    return module if isinstance(module, torch.nn.Module) else None
