"""Faults put into the library itself, to see that they cost a graph and never a training."""

from __future__ import annotations

import sys
from typing import Any

import pytest

# Where the library could fail while it arms itself, records, and takes a recording over.
FAULTS = (
    "modelviz_callbacks.tracing.capture.session.StateNames",
    "modelviz_callbacks.tracing.capture.session.Recorder",
    "modelviz_callbacks.tracing.capture.session.named_inputs",
    "torch.nn.modules.module.register_module_forward_pre_hook",
    "torch.nn.modules.module.register_module_forward_hook",
    "torch.optim.optimizer.register_optimizer_step_pre_hook",
    "torch.optim.optimizer.register_optimizer_step_post_hook",
    "modelviz_callbacks.tracing.capture.session.push_mode",
    "modelviz_callbacks.tracing.capture.recorder.Recorder.encode",
    "modelviz_callbacks.tracing.capture.recorder.record_of",
    "modelviz_callbacks.tracing.capture.session.walk",
    "modelviz_callbacks.artifacts.products.to_graph",
    "modelviz_callbacks.artifacts.table.dumps",
)


def break_at(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts a function that fails in the place of one of the library's."""

    def fails(*args: Any, **kwargs: Any) -> Any:
        raise LookupError(f"injected into {place}")

    # Not by its path alone: torch.optim hides its module `optimizer`.
    home, _, name = place.rpartition(".")
    owner: Any = sys.modules.get(home)
    if owner is None:
        module, _, cls = home.rpartition(".")
        owner = getattr(sys.modules[module], cls)
    monkeypatch.setattr(owner, name, fails)
