"""``Learner(dls, model, cbs=GraphCallback())`` of fastai."""

from __future__ import annotations

from typing import Any

from fastai.callback.core import Callback
from typing_extensions import Unpack

from modelviz_callbacks.hook import GraphHook
from modelviz_callbacks.options import OptionFields, make_options
from modelviz_callbacks.report import Report

# fastai's own loggers begin their runs at 51 and less.
_AFTER_THE_LOGGERS = 60


class GraphCallback(Callback):  # type: ignore[misc]
    """Records the first training batch of a learner: the model and the loss.

    Each ``fit`` is recorded, ``fine_tune`` twice: its second stage trains other layers. The search
    of a learning rate (``lr_find``) and predictions are not. fastai's TensorBoard and W&B callbacks
    and an open MLflow run are found.

    Example:
        >>> learn = Learner(dls, model, loss_func=CrossEntropyLossFlat(), cbs=GraphCallback())
        >>> learn.fit(2)
        modelviz: ...
    """

    order = _AFTER_THE_LOGGERS

    def __init__(self, **options: Unpack[OptionFields]) -> None:
        """Nothing happens before training begins.

        Args:
            **options: See ``modelviz_callbacks.options.Options``.

        Raises:
            OptionError: An option is unknown or has an impossible value.
        """
        super().__init__()
        make_options(**options)
        self._options = options
        self._hook: GraphHook | None = None
        self._is_armed = False

    @property
    def report(self) -> Report | None:
        """What was written where; ``None`` before training."""
        return self._hook.report if self._hook is not None else None

    def before_fit(self) -> None:
        """Waits for the first epoch: a validation and predictions begin with this event, too."""
        self._is_armed = False

    def before_train(self) -> None:
        """Arms the recording in the first epoch, unless it is the search of a learning rate."""
        learner = self.learn
        if self._is_armed or hasattr(learner, "lr_finder"):
            return
        self._is_armed = True
        others = [one for one in learner.cbs if one is not self]
        self._hook = GraphHook(learner.model, loggers=others, loss=True, **self._options)

    def after_fit(self) -> None:
        """Writes what is slow, with the trained weights at hand."""
        if self._hook is not None:
            self._hook.close()

    def __getstate__(self) -> dict[str, Any]:
        # An exported learner is for another program: what belongs to this run stays behind.
        return {**vars(self), "_hook": None}
