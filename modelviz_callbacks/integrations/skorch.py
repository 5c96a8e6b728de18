"""``NeuralNetClassifier(..., callbacks=[GraphCallback()])`` of skorch."""

from __future__ import annotations

from typing import Any

from skorch import NeuralNet
from skorch.callbacks import Callback
from typing_extensions import Unpack

from modelviz_callbacks.integrations._beginning import begin
from modelviz_callbacks.loggers import connect
from modelviz_callbacks.options import OptionFields, make_options
from modelviz_callbacks.report import Report
from modelviz_callbacks.tracing import unwrapped
from modelviz_callbacks.watching.training_step import TrainingSteps

_NEVER = "No training batch ran: the training set was empty, or every batch was skipped."


class GraphCallback(Callback):  # type: ignore[misc]
    """Records the first training batch of a net: the module, the criterion, the loss.

    A second ``fit`` keeps the graph that is there, unless it has changed; skorch's own TensorBoard,
    MLflow and W&B callbacks are found. Where a net is cloned (cross-validation, a grid search),
    each clone has its own.

    Example:
        >>> net = NeuralNetClassifier(Classifier, callbacks=[GraphCallback()])
        >>> net.fit(features, labels)
        modelviz: ...
    """

    def __init__(self, **options: Unpack[OptionFields]) -> None:
        """Nothing happens before training begins.

        Args:
            **options: See ``modelviz_callbacks.options.Options``.

        Raises:
            OptionError: An option is unknown or has an impossible value.
        """
        self.options = options
        self._checked = make_options(**options)
        self._steps: TrainingSteps | None = None

    @property
    def report(self) -> Report | None:
        """What was written where; ``None`` before training."""
        return self._steps.run.report if self._steps is not None else None

    def on_train_begin(self, net: NeuralNet, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        """Finds the run's trackers."""
        others = [callback for _, callback in net.callbacks_ if callback is not self]
        self._steps = begin(
            self._checked,
            unwrapped(net.module_),
            lambda run: connect(run, others, are_closed_first=True),
            _NEVER,
            self._steps,
        )

    def on_batch_begin(
        self, net: NeuralNet, batch: Any = None, training: bool = False, **kwargs: Any
    ) -> None:
        """Puts the recording around the first training batch, the timer around another."""
        if self._steps is not None and training:
            self._steps.before(net, "train_step_single", unwrapped(net.module_))

    def on_batch_end(
        self, net: NeuralNet, batch: Any = None, training: bool = False, **kwargs: Any
    ) -> None:
        """Puts what the worker has made for TensorBoard into the run, once it is there."""
        if self._steps is not None:
            self._steps.after()

    def on_train_end(self, net: NeuralNet, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        """Writes what is slow, with the trained weights at hand."""
        if self._steps is not None:
            self._steps.finish(_NEVER)

    def __getstate__(self) -> dict[str, Any]:
        # A copy is for another run: what belongs to this one stays behind.
        return {**vars(self), "_steps": None}

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The options, for a net that clones its callbacks.

        Args:
            deep: Not used: no option has parameters of its own.

        Returns:
            Option to value, as given.
        """
        return dict(self.options)
