"""``Trainer(callbacks=[GraphCallback()])`` of Hugging Face transformers."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from typing_extensions import Unpack

from modelviz_callbacks.integrations._beginning import begin
from modelviz_callbacks.loggers import connect
from modelviz_callbacks.options import OptionFields, make_options
from modelviz_callbacks.report import Report
from modelviz_callbacks.run import Run
from modelviz_callbacks.tracing import unwrapped
from modelviz_callbacks.watching.training_step import Given, TrainingSteps

_NEVER = (
    "No training step came to the point where compute_loss is called: the training set was empty, "
    "or the trainer has a training_step of its own that does not call it."
)
_NO_TRAINER = "whoever called the callback is no transformers.Trainer"


class GraphCallback(TrainerCallback):
    """Records the first training step of a ``Trainer``: the model and the loss.

    What is recorded is ``compute_loss``, which trainers override: label smoothing, a loss function
    of your own and the losses of trl's trainers are in the graph. The writer, run or task of every
    tracker in ``report_to`` gets it; the files are beside TensorBoard's, else in ``output_dir``.

    Example:
        >>> trainer = Trainer(model, arguments, train_dataset=rows, callbacks=[GraphCallback()])
        >>> trainer.train()
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
        self._trainer: Trainer | None = None

    @property
    def report(self) -> Report | None:
        """What was written where; ``None`` before training, and in all processes but the first."""
        return self._steps.run.report if self._steps is not None else None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Finds the run's trackers; only the first process takes part."""
        if not state.is_world_process_zero:
            return
        frame = sys._getframe(1)

        def connect_to(run: Run) -> None:
            self._trainer = _calling_trainer(frame)
            loggers = [one for one in self._trainer.callback_handler.callbacks if one is not self]
            folder = getattr(args, "logging_dir", None) or args.output_dir
            connect(run, loggers, Path(folder or "."), are_closed_first=True)

        model = unwrapped(kwargs["model"])
        self._steps = begin(
            self._options,
            model,
            connect_to,
            _NEVER,
            self._steps,
            is_continued=state.global_step > 0,
            naming=_by_key,
        )

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Puts the recording around the first batch's loss, the timer around another's."""
        if self._steps is not None and self._trainer is not None:
            self._steps.before(self._trainer, "compute_loss", unwrapped(kwargs["model"]))

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Puts what the worker has made for TensorBoard into the run, once it is there."""
        if self._steps is not None:
            self._steps.after()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Writes what is slow, with the trained weights at hand."""
        self._trainer = None
        if self._steps is not None:
            self._steps.finish(_NEVER)

    def __getstate__(self) -> dict[str, Any]:
        # A copy is for another run: what belongs to this one stays behind.
        return {**vars(self), "_steps": None, "_trainer": None}


def _by_key(step: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Given:
    """The inputs of ``compute_loss`` as the batch names them."""
    called = inspect.signature(step).bind(*args, **kwargs).arguments
    batch: Any = called.get("inputs")
    if not hasattr(batch, "items"):
        return args, kwargs, inspect.signature(step)
    given = {str(name): value for name, value in batch.items() if str(name).isidentifier()}
    items = called.get("num_items_in_batch")
    if isinstance(items, torch.Tensor):
        given.setdefault("num_items_in_batch", items)
    names = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in given]
    return (), given, inspect.Signature(names)


def _calling_trainer(frame: FrameType | None) -> Trainer:
    """The trainer whose event is being handled: a callback is told everything but that.

    Args:
        frame: Of whoever called the callback.

    Raises:
        LookupError: No trainer is among the callers.
    """
    while frame is not None:
        found = frame.f_locals.get("self")
        if isinstance(found, Trainer):
            return found
        frame = frame.f_back
    raise LookupError(_NO_TRAINER)
