from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import mlflow
import numpy as np
import onnx
import onnxruntime
import pytest
from mlflow import MlflowClient
from mlflow.entities import LoggedModel
from onnx import TensorProto, helper, numpy_helper

from modelviz_callbacks.errors import TrackerError
from modelviz_callbacks.trackers.mlflow.model import log_onnx_model
from modelviz_callbacks.trackers.mlflow.target import MlflowTarget
from modelviz_callbacks.trackers.mlflow.tracker import MlflowTracker
from tests.mlflow_server import MlflowServer, Proxy
from tests.trackers.conftest import Store

NothingChanges = Callable[[], AbstractContextManager[None]]
Array = np.ndarray[Any, Any]

FEATURES = np.array([[1.0, -2.0, 0.5, 3.0], [0.0, 1.0, 1.0, -1.0]], dtype=np.float32)


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A layer of 4 inputs and 3 outputs with a free batch axis."""
    weight = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["features", "weight"], ["logits"], transB=1)],
        "layer",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    return path


def folder_of(model: LoggedModel) -> str:
    return url2pathname(urlsplit(model.artifact_location).path)


def predicted_by_the_file(path: Path) -> Array:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"features": FEATURES})[0])


def predicted_in_a_fresh_process(uri: str, model_uri: str, folder: Path) -> Array:
    script = """
        import json, sys
        import mlflow, numpy
        mlflow.set_tracking_uri(sys.argv[1])
        model = mlflow.pyfunc.load_model(sys.argv[2])
        features = numpy.array(json.loads(sys.argv[3]), dtype=numpy.float32)
        print(json.dumps(model.predict({"features": features})["logits"].tolist()))
    """
    arguments = [uri, model_uri, json.dumps(FEATURES.tolist())]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    return np.array(json.loads(done.stdout.splitlines()[-1]), dtype=np.float32)


@pytest.mark.slow
@pytest.mark.process
def test_a_logged_model_predicts_in_a_fresh_process_what_the_file_predicts(
    fluent: Store,
    trained: Path,
    tmp_path: Path,
    nothing_changes: NothingChanges,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with mlflow.start_run() as run, nothing_changes():
        tracker = MlflowTracker(MlflowTarget(fluent.uri, run.info.run_id))
        model_uri = log_onnx_model(tracker, trained, "net", input_example={"features": FEATURES})
    printed = capfd.readouterr()

    found = predicted_in_a_fresh_process(fluent.uri, model_uri, tmp_path)
    np.testing.assert_array_equal(found, predicted_by_the_file(trained))
    assert printed == ("", "")


def test_a_logged_model_is_linked_to_its_run_and_ready_with_its_signature(
    fluent: Store, trained: Path
) -> None:
    run_id = fluent.new_run()
    model_uri = log_onnx_model(MlflowTracker(MlflowTarget(fluent.uri, run_id)), trained, "net")

    model = fluent.client.get_logged_model(model_uri.removeprefix("models:/"))
    outputs = fluent.client.get_run(run_id).outputs.model_outputs
    info = mlflow.models.get_model_info(folder_of(model))
    assert (model.name, model.status, model.source_run_id) == ("net", "READY", run_id)
    assert [output.model_id for output in outputs] == [model.model_id]
    assert (info.run_id, info.model_id) == (run_id, model.model_id)
    assert info.signature.inputs.to_dict() == [
        {
            "name": "features",
            "type": "tensor",
            "tensor-spec": {"dtype": "float32", "shape": (-1, 4)},
        }
    ]
    assert info.signature.outputs.input_names() == ["logits"]


def test_the_same_file_twice_is_one_model_and_a_changed_one_another(
    fluent: Store, trained: Path
) -> None:
    tracker = MlflowTracker(MlflowTarget(fluent.uri, fluent.new_run()))
    first = log_onnx_model(tracker, trained, "net")
    again = log_onnx_model(tracker, trained, "net")
    model = onnx.load(trained)
    model.doc_string = "trained for longer"
    onnx.save(model, trained)
    longer = log_onnx_model(tracker, trained, "net")

    assert again == first
    found = fluent.client.search_logged_models([fluent.experiment_id])
    assert {f"models:/{model.model_id}" for model in found} == {first, longer}


def test_a_name_that_mlflow_forbids_is_changed(fluent: Store, trained: Path) -> None:
    tracker = MlflowTracker(MlflowTarget(fluent.uri, fluent.new_run()))
    log_onnx_model(tracker, trained, "generator.model")

    (model,) = fluent.client.search_logged_models([fluent.experiment_id])
    assert model.name == "generator_model"


def test_a_server_with_proxied_artifacts_takes_a_model(
    server: MlflowServer, trained: Path, tmp_path: Path
) -> None:
    tracker = MlflowTracker(MlflowTarget(server.uri), deadline_s=120)
    model_uri = log_onnx_model(tracker, trained)
    tracker.close()

    found = predicted_in_a_fresh_process(server.uri, model_uri, tmp_path)
    np.testing.assert_array_equal(found, predicted_by_the_file(trained))


def test_a_model_whose_upload_fails_is_marked_as_failed(
    server: MlflowServer, proxy: Proxy, trained: Path
) -> None:
    tracker = MlflowTracker(MlflowTarget(proxy.uri), deadline_s=5)
    run_id, experiment_id = tracker.run_id, tracker.experiment_id
    proxy.behaviour = "no uploads"
    with pytest.raises(TrackerError, match="could not upload model 'net' to MLflow run"):
        log_onnx_model(tracker, trained, "net")

    client = MlflowClient(server.uri)
    found = client.search_logged_models([experiment_id], f"source_run_id = '{run_id}'")
    assert [model.status for model in found] == ["FAILED"]


def test_a_file_that_is_no_model_is_refused_before_anything_is_begun(
    store: Store, tmp_path: Path
) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no model")
    run_id = store.new_run()
    with pytest.raises(TrackerError, match=r"model\.onnx as an ONNX model.*onnx\.load"):
        log_onnx_model(MlflowTracker(MlflowTarget(store.uri, run_id)), tmp_path / "model.onnx")

    assert store.client.search_logged_models([store.experiment_id]) == []


def test_a_model_with_an_input_that_numpy_has_no_type_for_is_logged_without_signature(
    fluent: Store, tmp_path: Path
) -> None:
    sequence = helper.make_tensor_sequence_value_info("parts", TensorProto.FLOAT, [2])
    joined = helper.make_tensor_value_info("joined", TensorProto.FLOAT, [None])
    node = helper.make_node("ConcatFromSequence", ["parts"], ["joined"], axis=0)
    graph = helper.make_graph([node], "joins", [sequence], [joined])
    onnx.save(helper.make_model(graph, ir_version=9), tmp_path / "model.onnx")

    tracker = MlflowTracker(MlflowTarget(fluent.uri, fluent.new_run()))
    model_uri = log_onnx_model(tracker, tmp_path / "model.onnx")

    model = fluent.client.get_logged_model(model_uri.removeprefix("models:/"))
    assert model.status == "READY"
    assert mlflow.models.get_model_info(folder_of(model)).signature is None
