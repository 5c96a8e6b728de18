"""``Fabric(callbacks=[GraphCallback()])`` of Lightning's Fabric."""

from __future__ import annotations

from typing import Any

import torch
from typing_extensions import Unpack

from modelviz_callbacks.hook import GraphHook
from modelviz_callbacks.options import OptionFields, make_options
from modelviz_callbacks.report import Report


class GraphCallback:
    """Watches the first model that is set up, and finds Fabric's loggers.

    ``fabric.setup`` arms it. Fabric has no event for the end of training, so it ends with
    ``fabric.call("on_train_end")`` or `close`, else when the program does. In a loop of your own
    ``with GraphHook(model):`` around it is as good.

    Example:
        >>> fabric = Fabric(loggers=[logger], callbacks=[GraphCallback()])
        >>> model, optimizer = fabric.setup(model, optimizer)
        >>> train(fabric, model, optimizer)
        >>> fabric.call("on_train_end")
        modelviz: ...
    """

    def __init__(self, **options: Unpack[OptionFields]) -> None:
        """Nothing happens before a model is set up.

        Args:
            **options: See ``modelviz_callbacks.options.Options``.

        Raises:
            OptionError: An option is unknown or has an impossible value.
        """
        make_options(**options)
        self._options = options
        self._hook: GraphHook | None = None

    @property
    def report(self) -> Report | None:
        """What was written where; ``None`` before a model is set up."""
        return self._hook.report if self._hook is not None else None

    def on_after_setup(self, fabric: Any, module: torch.nn.Module) -> None:
        """Arms the hook on the first model.

        Args:
            fabric: Whose loggers get the graph.
            module: What ``fabric.setup`` made of the model.
        """
        if self._hook is None:
            self._hook = GraphHook(module, accelerator=fabric, **self._options)

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        """Ends the recording, as `close`."""
        self.close()

    def close(self) -> None:
        """Disarms the hook and writes what is slow to make; safe to call again.

        Example:
            >>> callback.close()
            modelviz: ...
        """
        if self._hook is not None:
            self._hook.close()
