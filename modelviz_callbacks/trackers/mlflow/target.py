"""Which MLflow run is meant, without importing MLflow into a process that does not use it."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass, field
from typing import ClassVar

from modelviz_callbacks.credentials import without_credentials
from modelviz_callbacks.errors import OptionError

__all__ = ["MlflowTarget", "find_target"]

_URI = re.compile(r"://|^(?:sqlite|file|https?|databricks|databricks-uc):|^databricks(?:-uc)?$")


@dataclass(frozen=True, repr=False)
class MlflowTarget:
    """A run in an MLflow store, or the store in which a new run is to be started.

    Attributes:
        tracking_uri: The store; None is the store that MLflow itself takes as its default
            (``MLFLOW_TRACKING_URI``, else ``mlflow.db`` in the working directory). It may hold
            credentials: never print it, never write it to a file. To hand a target to another
            process, put the URI in that process's ``MLFLOW_TRACKING_URI`` and leave this None.
        run_id: The run; None starts a new one, which the tracker ends when it is closed.
        experiment_id: Experiment of a new run; None goes by ``experiment_name``.
        experiment_name: Experiment of a new run, made if missing; None is the store's own default.
        tracker: Which tracker of `modelviz_callbacks.trackers.registry` it is a target of.
    """

    tracker: ClassVar[str] = "mlflow"

    tracking_uri: str | None = field(default=None)
    run_id: str | None = None
    experiment_id: str | None = None
    experiment_name: str | None = None

    def __repr__(self) -> str:
        fields = (self.public_uri, self.run_id, self.experiment_id, self.experiment_name)
        return "MlflowTarget({!r}, run_id={!r}, experiment_id={!r}, experiment_name={!r})".format(
            *fields
        )

    @property
    def public_uri(self) -> str:
        """The store, for people: without credentials."""
        return without_credentials(self.tracking_uri or "MLflow's default store")


def find_target(
    option: bool | str | None,
    *,
    logger_uri: str | None = None,
    logger_run_id: str | None = None,
) -> MlflowTarget | None:
    """Find the run that the ``mlflow`` option means.

    Call it in the thread that trains, while training: MLflow's active run belongs to a thread, and
    autologging keeps one only during fit. No server is asked.

    Args:
        option: None takes the logger's run, else the active one, if any. True does too, and where
            there is neither means a new run. False means no run. A string names a run, or a store
            (``http://host:5000``, ``sqlite:///mlflow.db``) in which a new run is started.
        logger_uri: Store of the trainer's MLFlowLogger, if there is one.
        logger_run_id: Run of the trainer's MLFlowLogger, if there is one.

    Returns:
        The target, or None where nothing is to be sent to MLflow.

    Raises:
        OptionError: The option is neither a bool, None, a run id nor a URI.
    """
    if isinstance(option, str):
        return _named(option.strip(), logger_uri)
    if option is not None and not isinstance(option, bool):
        raise OptionError(
            f"mlflow={option!r} is a {type(option).__name__}: give True, False, None, a run id or "
            "a tracking URI."
        )
    if option is False:
        return None
    if logger_run_id is not None:
        return MlflowTarget(_current_uri() if logger_uri is None else logger_uri, logger_run_id)
    active = _active_run_id()
    if active is not None:
        return MlflowTarget(_current_uri(), active)
    if option is None:
        return None
    # MLFLOW_RUN_ID and MLFLOW_EXPERIMENT_ID are what mlflow.start_run() itself goes by; MLflow sets
    # the latter in mlflow.set_experiment().
    return MlflowTarget(
        _current_uri(),
        os.environ.get("MLFLOW_RUN_ID") or None,
        experiment_id=os.environ.get("MLFLOW_EXPERIMENT_ID") or None,
        experiment_name=os.environ.get("MLFLOW_EXPERIMENT_NAME") or None,
    )


def _named(option: str, logger_uri: str | None) -> MlflowTarget:
    """The target that a string names."""
    if not option or any(character.isspace() for character in option):
        raise OptionError(
            f"mlflow={without_credentials(option)!r} names nothing: give a run id, or a tracking "
            "URI such as 'http://127.0.0.1:5000' or 'sqlite:///mlflow.db'."
        )
    if _URI.search(option):
        # An experiment id belongs to the store it was made in; a name means the same in any.
        return MlflowTarget(option, experiment_name=os.environ.get("MLFLOW_EXPERIMENT_NAME"))
    return MlflowTarget(logger_uri or _current_uri(), run_id=option)


def _active_run_id() -> str | None:
    """The innermost active run of this thread; an MLflow that was never imported has none."""
    active_run = getattr(sys.modules.get("mlflow"), "active_run", None)
    run = active_run() if active_run is not None else None
    return None if run is None else str(run.info.run_id)


def _current_uri() -> str | None:
    """The store that MLflow would use now, or None where MLflow is yet to find out."""
    get_tracking_uri = getattr(sys.modules.get("mlflow"), "get_tracking_uri", None)
    if get_tracking_uri is not None:
        return str(get_tracking_uri())
    return os.environ.get("MLFLOW_TRACKING_URI") or None
