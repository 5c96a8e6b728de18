"""Does beforehand what the first recording would otherwise do inside a training step."""

from __future__ import annotations

import torch

from modelviz_callbacks.tracing.capture.qualified_names import qualified_name
from modelviz_callbacks.tracing.capture.torch_internals import import_slow_parts


def warm_up() -> None:
    """Imports what a recording needs and lets torch build its tables of names."""
    import_slow_parts()
    qualified_name(torch.add)
    torch.overrides.get_testing_overrides()
