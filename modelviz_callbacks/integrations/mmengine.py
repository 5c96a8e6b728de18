"""``Runner(custom_hooks=[ModelGraphHook()])`` of OpenMMLab's MMEngine."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from typing_extensions import Unpack

from modelviz_callbacks.integrations._beginning import begin
from modelviz_callbacks.loggers import connect
from modelviz_callbacks.options import OptionFields, make_options
from modelviz_callbacks.report import Report
from modelviz_callbacks.run import Run
from modelviz_callbacks.tracing import unwrapped
from modelviz_callbacks.watching.training_step import Given, TrainingSteps

# Where a visualizer keeps its backends; in public it tells them by name only.
_BACKENDS = "_vis_backends"
_NEVER = "No training iteration ran: there was no data, or all iterations were done before."


@HOOKS.register_module()
class ModelGraphHook(Hook):  # type: ignore[misc]
    """Records the first training iteration of a runner: the model's ``train_step``.

    That is the data preprocessor, the model in mode ``"loss"``, what ``parse_losses`` makes of its
    losses. The visualizer's TensorBoard, MLflow, W&B and ClearML backends get the graph; the files
    are in ``model_graph`` in the runner's ``log_dir``. A configuration names it with
    ``custom_imports=dict(imports=["modelviz_callbacks.integrations.mmengine"])`` and
    ``custom_hooks=[dict(type="ModelGraphHook")]``.

    Example:
        >>> runner = Runner(model, work_dir="work_dirs/iris", custom_hooks=[ModelGraphHook()], ...)
        >>> runner.train()
        modelviz: ...
    """

    def __init__(self, **options: Unpack[OptionFields]) -> None:
        """Nothing happens before training begins.

        Args:
            **options: See ``modelviz_callbacks.options.Options``.

        Raises:
            OptionError: An option is unknown or has an impossible value.
        """
        self._options = make_options(**options)
        self._steps: TrainingSteps | None = None

    @property
    def report(self) -> Report | None:
        """What was written where; ``None`` before training, and in all processes but the first."""
        return self._steps.run.report if self._steps is not None else None

    def before_train(self, runner: Runner) -> None:
        """Finds the run's trackers; only the first process takes part."""

        def connect_to(run: Run) -> None:
            connect(run, getattr(runner.visualizer, _BACKENDS, {}).values())
            run.write_to(Path(runner.log_dir) / "model_graph")

        model = unwrapped(runner.model)
        self._steps = begin(self._options, model, connect_to, _NEVER, self._steps, naming=_by_batch)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Puts the recording around the first iteration, the timer around another."""
        if self._steps is not None:
            self._steps.before(runner.model, "train_step", unwrapped(runner.model))

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Puts what the worker has made for TensorBoard into the run, once it is there."""
        if self._steps is not None:
            self._steps.after()

    def after_train(self, runner: Runner) -> None:
        """Writes what is slow, with the trained weights at hand."""
        if self._steps is not None:
            self._steps.finish(_NEVER)

    def __getstate__(self) -> dict[str, Any]:
        # A copy is for another run: what belongs to this one stays behind.
        return {**vars(self), "_steps": None}


def _by_batch(step: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Given:
    """Of the arguments of ``train_step`` the batch, by its own names if it has any."""
    batch: Any = inspect.signature(step).bind(*args, **kwargs).arguments.get("data")
    if not isinstance(batch, dict):
        names = [inspect.Parameter("data", inspect.Parameter.POSITIONAL_OR_KEYWORD)]
        return (batch,), {}, inspect.Signature(names)
    given = {name: value for name, value in batch.items() if str(name).isidentifier()}
    names = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in given]
    return (), given, inspect.Signature(names)
