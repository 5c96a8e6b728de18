"""``GraphHandler(model).attach(trainer)`` of pytorch-ignite."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch
from ignite.engine import Engine, Events
from typing_extensions import Unpack

from modelviz_callbacks.errors import CaptureError
from modelviz_callbacks.hook import GraphHook
from modelviz_callbacks.integrations._beginning import begin
from modelviz_callbacks.loggers import connect
from modelviz_callbacks.options import OptionFields, make_options
from modelviz_callbacks.report import Report
from modelviz_callbacks.tracing import unwrapped
from modelviz_callbacks.watching.first_update import FirstUpdate
from modelviz_callbacks.watching.training_step import Given, TrainingSteps

# Where an engine keeps the function that it was made with; it has no public name.
_PROCESS_FUNCTION = "_process_function"
_NEVER = "The engine ran no iteration: there was no data, or it was ended before."


class GraphHandler:
    """Records the first iteration of an engine: the model and the loss of its process function.

    Where that calls no ``backward`` and returns no tensor (an agent that acts until its episode is
    over), it is what comes after the first update: the model's calls up to the next ``backward``.

    Example:
        >>> trainer = create_supervised_trainer(model, optimizer, criterion)
        >>> GraphHandler(model, loggers=[tensorboard_logger]).attach(trainer)
        >>> trainer.run(loader, max_epochs=2)
        modelviz: ...
    """

    def __init__(
        self,
        model: torch.nn.Module,
        *,
        loggers: Iterable[Any] = (),
        **options: Unpack[OptionFields],
    ) -> None:
        """Nothing happens before the engine starts.

        Args:
            model: The model whose modules and parameters give the names; of several networks that
                are trained together, an ``nn.ModuleDict``.
            loggers: Ignite's ``TensorboardLogger``, ``MLflowLogger``, ``WandBLogger``,
                ``ClearMLLogger``. MLflow's, W&B's and ClearML's are found without it.
            **options: See ``modelviz_callbacks.options.Options``.

        Raises:
            OptionError: An option is unknown or has an impossible value.
            CaptureError: ``model`` is no module.
        """
        if not isinstance(model, torch.nn.Module):
            raise CaptureError(
                f"GraphHandler watches a torch.nn.Module, it was given a {type(model).__name__}."
            )
        self._model = unwrapped(model)
        self._loggers = list(loggers)
        self._options, self._given = make_options(**options), options
        self._steps: TrainingSteps | None = None
        self._hook: GraphHook | None = None
        self._update: FirstUpdate | None = None

    @property
    def report(self) -> Report | None:
        """What was written where; ``None`` before the engine starts, and in all ranks but zero."""
        if self._hook is not None:
            return self._hook.report
        return self._steps.run.report if self._steps is not None else None

    def attach(self, engine: Engine) -> GraphHandler:
        """Registers the handlers with an engine.

        Args:
            engine: The trainer.

        Returns:
            Itself.

        Example:
            >>> handler = GraphHandler(model).attach(trainer)
        """
        engine.add_event_handler(Events.STARTED, self._on_started)
        engine.add_event_handler(Events.ITERATION_STARTED, self._on_iteration_started)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._on_iteration_completed)
        for event in (Events.COMPLETED, Events.TERMINATE, Events.INTERRUPT):
            engine.add_event_handler(event, self._on_ended)
        return self

    # An exception has no handler here: with one, Ignite would no longer raise it.

    def _on_started(self, engine: Engine) -> None:
        self._on_ended(engine)  # of a run before, which an exception has ended
        self._hook = self._update = None
        self._steps = begin(
            self._options,
            self._model,
            lambda run: connect(run, self._loggers),
            _NEVER,
            self._steps,
            is_continued=engine.state.iteration > 0,
            naming=_by_batch,
            wants_outputs=True,
        )

    def _on_iteration_started(self, engine: Engine) -> None:
        if self._steps is None:
            return
        if not self._steps.lacks_outputs:
            self._steps.before(engine, _PROCESS_FUNCTION, self._model)
        elif self._update is None:
            # From here on it may be half an episode that is recorded, after an update it is not.
            self._update = FirstUpdate()
        elif self._update.has_come:
            self._update.close()
            self._steps.give_up()
            self._steps = None
            self._hook = GraphHook(self._model, loggers=self._loggers, loss=True, **self._given)

    def _on_iteration_completed(self, engine: Engine) -> None:
        if self._steps is not None:
            self._steps.after()

    def _on_ended(self, engine: Engine) -> None:
        if self._update is not None:
            self._update.close()
        if self._hook is not None:
            self._hook.close()
        if self._steps is not None:
            self._steps.finish(_NEVER)


def _by_batch(step: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Given:
    """Of a process function's arguments the batch: an engine is no input of a model."""
    signature = inspect.signature(step)
    parameters = [
        parameter
        for parameter in signature.parameters.values()
        if not isinstance(signature.bind(*args, **kwargs).arguments.get(parameter.name), Engine)
    ]
    left = [value for value in args if not isinstance(value, Engine)]
    return tuple(left), kwargs, signature.replace(parameters=parameters)
