"""Your PyTorch model's graph, recorded from the training step that is happening anyway.

``Trainer(callbacks=[GraphLogger()])`` in Lightning, ``with GraphHook(model):`` in a plain
loop, ``trace(model, x)`` for one forward now. The public names are resolved on first use, so
importing this package imports neither lightning, mlflow nor onnx.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelviz_callbacks.graph import ModelGraph
    from modelviz_callbacks.hook import GraphHook
    from modelviz_callbacks.lightning import GraphLogger
    from modelviz_callbacks.tracer import Trace, trace

_HOMES = {
    "GraphHook": "modelviz_callbacks.hook",
    "GraphLogger": "modelviz_callbacks.lightning",
    "ModelGraph": "modelviz_callbacks.graph",
    "Trace": "modelviz_callbacks.tracer",
    "trace": "modelviz_callbacks.tracer",
}

__all__ = ["GraphHook", "GraphLogger", "ModelGraph", "Trace", "trace"]
__version__ = "0.2.0"


if not TYPE_CHECKING:  # to a type checker a misspelt name would be one of any type

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from modelviz_callbacks.libraries import says_what_is_missing

        with says_what_is_missing():
            home = importlib.import_module(_HOMES[name])
        return getattr(home, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
