"""Does beforehand what the first recording would otherwise do inside a training step."""

from __future__ import annotations

import importlib

import torch

from modelviz_callbacks.tracing.capture.qualified_names import qualified_name


def warm_up() -> None:
    """Imports what a recording needs and lets torch build its tables of names."""
    for name in ("torch._dynamo", "torch._higher_order_ops.utils"):
        importlib.import_module(name)
    qualified_name(torch.add)
    torch.overrides.get_testing_overrides()
