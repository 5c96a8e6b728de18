"""An ONNX file as an MLflow model: registered with its run, servable, loadable by name.

``mlflow.onnx.log_model`` goes through the active run and leaves marks in MLflow's global state.
The same steps are made here one by one with a client, so the user's state stays as it is.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from modelviz_callbacks.errors import TrackerError

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.models import ModelSignature
    from mlflow.types import TensorSpec

__all__ = ["log_onnx_model"]

T = TypeVar("T")

_RUNS_WITH = ("onnx", "onnxruntime")
# What MLflow allows in no model's name.
_FORBIDDEN = re.compile(r"""[/:.%"']""")
# Tag of a logged model: the digest of the file that it was made of.
_DIGEST = "modelviz.sha256"
# A protobuf message holds 2 GiB at most; with room for what is not weights.
_LARGEST_IN_ONE_FILE_BYTES = 1_800_000_000


class RunCalls(Protocol):
    """Calls on the store of one run, under its deadline; see `MlflowTracker`, which makes them."""

    @property
    def run_id(self) -> str:
        """The run."""
        ...

    @property
    def experiment_id(self) -> str:
        """Its experiment."""
        ...

    def ask(self, what: str, action: Callable[[MlflowClient], T]) -> T:
        """Makes a call again and again until it works or time is up."""
        ...

    def ask_once(self, what: str, action: Callable[[MlflowClient], T]) -> T:
        """Makes a call that must not be made twice."""
        ...


def log_onnx_model(
    tracker: RunCalls,
    path: Path,
    name: str = "model",
    *,
    input_example: Mapping[str, np.ndarray[Any, Any]] | None = None,
    providers: Sequence[str] = ("CPUExecutionProvider",),
) -> str:
    """Log an ONNX file as a model of the tracker's run.

    The signature is read from the file: an axis of fixed size stays fixed, a named one is free.

    Args:
        tracker: The run, with its deadline.
        path: The ONNX file, weights inside or in files beside it.
        name: Name of the model in MLflow, which takes some characters for ``_``.
        input_example: Input name to array; kept with the model, shown by MLflow.
        providers: Where onnxruntime runs the model when MLflow loads it, first choice first.

    Returns:
        The model's address, ``models:/<id>``, for ``mlflow.pyfunc.load_model``. A run that has this
        file as a model of this name already gets no second one.

    Raises:
        TrackerError: The file is no ONNX model, or MLflow did not take it; a model that was begun
            is marked as failed then.
    """
    model, name = _read(path), _FORBIDDEN.sub("_", name)
    run_id, experiment_id = tracker.run_id, tracker.experiment_id
    tags = {_DIGEST: _digest(path, model)}
    known = _known(tracker, name, tags[_DIGEST])
    if known is not None:
        return f"models:/{known}"
    logged = tracker.ask_once(
        f"begin model {name!r} in",
        lambda client: client.create_logged_model(experiment_id, name, run_id, tags),
    )
    model_id = str(logged.model_id)
    try:
        with tempfile.TemporaryDirectory(prefix="modelviz-") as scratch:
            folder = Path(scratch, "model")
            _save(model, folder, logged, input_example, list(providers))
            _upload(tracker, folder, name, model_id)
    except Exception:
        with contextlib.suppress(TrackerError):
            _finish(tracker, model_id, "FAILED")
        raise
    _finish(tracker, model_id, "READY")
    return f"models:/{model_id}"


def _upload(tracker: RunCalls, folder: Path, name: str, model_id: str) -> None:
    from mlflow.entities import LoggedModelOutput

    run_id = tracker.run_id
    tracker.ask(
        f"upload model {name!r} to",
        lambda client: client.log_model_artifacts(model_id, str(folder)),
    )
    tracker.ask(
        f"link model {name!r} to",
        lambda client: client.log_outputs(run_id, [LoggedModelOutput(model_id, step=0)]),
    )


def _digest(path: Path, model: onnx.ModelProto) -> str:
    """What tells a file's content from another's, weights in files beside it included."""
    digest = hashlib.sha256(path.read_bytes())
    for tensor in model.graph.initializer:
        digest.update(tensor.raw_data)
    return digest.hexdigest()


def _known(tracker: RunCalls, name: str, digest: str) -> str | None:
    """The id of the run's model of this name and content, if it has one."""
    run_id, experiment_id = tracker.run_id, tracker.experiment_id
    wanted = f"source_run_id = '{run_id}' AND name = '{name}'"
    found = tracker.ask(
        f"look for model {name!r} in",
        lambda client: client.search_logged_models([experiment_id], wanted),
    )
    ready = (model for model in found if model.status.name == "READY")
    return next((str(m.model_id) for m in ready if m.tags.get(_DIGEST) == digest), None)


def _read(path: Path) -> onnx.ModelProto:
    """Read the file with its weights."""
    import onnx

    try:
        return onnx.load(str(path))
    except Exception as error:
        raise TrackerError(
            f"could not read {path} as an ONNX model: {error}. Nothing was logged; give a file "
            "that onnx.load() reads."
        ) from error


def _save(
    model: onnx.ModelProto,
    folder: Path,
    logged: LoggedModel,
    input_example: Mapping[str, np.ndarray[Any, Any]] | None,
    providers: list[str],
) -> None:
    """Write MLflow's model folder, as ``mlflow.onnx.log_model`` would."""
    import mlflow.onnx
    from mlflow.models import Model

    weights_bytes = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    try:
        mlflow.onnx.save_model(
            model,
            str(folder),
            mlflow_model=Model(
                artifact_path=logged.artifact_location,
                run_id=logged.source_run_id,
                model_id=logged.model_id,
            ),
            signature=_signature(model),
            input_example=None if input_example is None else dict(input_example),
            # Given, because finding them out means loading the model in a new process.
            pip_requirements=[f"{package}=={version(package)}" for package in _RUNS_WITH],
            onnx_execution_providers=providers,
            save_as_external_data=weights_bytes > _LARGEST_IN_ONE_FILE_BYTES,
        )
    except Exception as error:
        raise TrackerError(
            f"could not make an MLflow model of {logged.name!r}: {error}. The ONNX file itself is "
            "unharmed; try without input_example, or with free space in the temporary folder."
        ) from error


def _signature(model: onnx.ModelProto) -> ModelSignature | None:
    """Inputs and outputs of the graph; None where one of them is no tensor that numpy knows."""
    from mlflow.models import ModelSignature
    from mlflow.types import Schema

    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    try:
        inputs = [_tensor_spec(value) for value in graph.input if value.name not in weights]
        outputs = [_tensor_spec(value) for value in graph.output]
    except (KeyError, TypeError, ValueError):
        return None
    return ModelSignature(Schema([*inputs]), Schema([*outputs]))


def _tensor_spec(value: onnx.ValueInfoProto) -> TensorSpec:
    """One input or output: name, dtype, shape with -1 for a free axis."""
    import numpy as np
    import onnx
    from mlflow.types import TensorSpec

    tensor = value.type.tensor_type
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    shape = tuple(axis.dim_value if axis.HasField("dim_value") else -1 for axis in tensor.shape.dim)
    return TensorSpec(dtype, shape, value.name)


def _finish(tracker: RunCalls, model_id: str, status: Literal["READY", "FAILED"]) -> None:
    tracker.ask_once(
        f"finish model {model_id} in",
        lambda client: client.finalize_logged_model(model_id, status),
    )
