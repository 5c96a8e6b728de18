"""``with GraphHook(model):`` around a plain training loop."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any

import torch
from typing_extensions import Self, Unpack

from modelviz_callbacks.errors import CaptureError
from modelviz_callbacks.options import OptionFields, make_options
from modelviz_callbacks.pipeline import Pipeline
from modelviz_callbacks.ranks import is_recording_rank
from modelviz_callbacks.report import Report
from modelviz_callbacks.tracing import Capture


class GraphHook:
    """Records the first forward of a model in training mode, once.

    It is armed when made and disarms itself after that forward; files that are slow to make
    are written by `close`, or at the end of the ``with`` block.

    Example:
        >>> with GraphHook(model):  # doctest: +SKIP
        ...     for features, labels in loader:
        ...         loss = criterion(model(features), labels)
        ...         ...
    """

    def __init__(self, model: torch.nn.Module, **options: Unpack[OptionFields]) -> None:
        """Arms the hook.

        Args:
            model: The model to watch; may be a part of a larger one.
            **options: See ``modelviz_callbacks.options.Options``.

        Raises:
            OptionError: An option is unknown or has an impossible value.
            CaptureError: ``model`` is not a module.
        """
        if not isinstance(model, torch.nn.Module):
            raise CaptureError(
                f"GraphHook watches a torch.nn.Module, it was given a {type(model).__name__}."
            )
        self._model = model
        self._pipeline = Pipeline(make_options(**options), type(model).__name__)
        self._pipeline.find_mlflow()
        self._capture: Capture | None = None
        self._closed = False
        self._depth = 0
        self._handled: BaseException | None = None
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        if is_recording_rank():
            self._handles = [
                model.register_forward_pre_hook(self._before, prepend=True, with_kwargs=True),
                model.register_forward_hook(self._after, with_kwargs=True, always_call=True),
            ]

    @property
    def report(self) -> Report:
        """What was written where, what was refused and why."""
        return self._pipeline.report

    def close(self) -> None:
        """Disarms the hook and writes what is slow to make; safe to call again."""
        self._disarm()
        if self._capture is not None:
            self._capture.stop()  # a forward that was interrupted never came to its end
        if not self._closed:
            self._closed = True
            if is_recording_rank():
                self._pipeline.finish(
                    "No forward of it ran in training mode between the making of the hook and "
                    "its end. Make the hook before the loop, call the module itself rather "
                    "than its forward(), and call model.train()."
                )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _disarm(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _before(
        self, model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        if self._capture is not None:
            if self._capture.is_here():
                self._depth += 1  # the model calls itself
            return
        if not model.training or self._closed:
            return
        with self._pipeline.guarded("the recording"):
            capture = Capture(model)
            capture.start(args, kwargs)
            capture.enter_model()
            self._capture, self._depth = capture, 0
            self._handled = sys.exc_info()[1]

    def _after(
        self, model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
    ) -> None:
        capture = self._capture
        if capture is None or not capture.is_here():
            return
        if self._depth:
            self._depth -= 1
            return
        self._capture = None
        self._disarm()
        capture.stop()
        raised = sys.exc_info()[1]
        with self._pipeline.guarded("the recording"):
            if raised is not None and raised is not self._handled:
                self._pipeline.captured(capture.abandon(raised))
            else:
                self._pipeline.captured(capture.finish(result))
