"""What is not installed costs what needs it, never the graph; what brings it is said."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from modelviz_callbacks.libraries import missing_library, says_what_is_missing
from tests.samples import one_and_the_rest_slow

pytestmark = pytest.mark.process

# Python reads this at the start of every process that has its folder in PYTHONPATH, so the worker
# misses the libraries, too.
SITECUSTOMIZE = """
import importlib.machinery
import os
import sys

class WithoutSome:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in os.environ["HIDDEN"].split(","):
            return None
        return importlib.machinery.PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = WithoutSome()
"""
PROGRAM = """
import json, pathlib, sys, warnings
import torch
from torch import nn
from modelviz_callbacks import GraphHook, trace
from modelviz_callbacks.errors import ModelvizError

warnings.simplefilter("ignore")
model, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.ones(3, 4)
told = {}
for name in ("onnx", "svg", "text", "html", "mermaid"):
    try:
        getattr(trace(model, x), "save_" + name)(f"{sys.argv[1]}/saved_{name}")
    except ModelvizError as error:
        told[name] = str(error)
try:
    trace(model, x).write_tensorboard(f"{sys.argv[1]}/saved_events")
except ModelvizError as error:
    told["tensorboard"] = str(error)
try:
    from modelviz_callbacks import GraphLogger
except ImportError as error:
    told["GraphLogger"] = str(error)
hook = GraphHook(model, dirpath=sys.argv[1], trained_onnx=True, background=sys.argv[2] == "worker")
model(x).sum().backward()
hook.close()
refused = {refusal.what: refusal.why for refusal in hook.report.refused}
events = [str(path) for path in pathlib.Path(sys.argv[1]).rglob("events.out.tfevents.*")]
result = {"told": told, "files": hook.report.files, "refused": refused, "events": events}
result["remarks"] = hook.report.remarks
print("RESULT" + json.dumps(result))
"""
EXTRAS = ("lightning", "pytorch_lightning", "mlflow", "onnxruntime", "tensorboard", "tensorboardX")
EXTRAS += ("rich",)
CORE = ("onnx", "onnxscript", "onnx_ir", "google", "quickjs", "resvg_py", "numpy")


def without(libraries: tuple[str, ...], folder: Path, way: str) -> dict[str, Any]:
    """What a run says and leaves where some libraries are not installed."""
    (folder / "site").mkdir()
    (folder / "site/sitecustomize.py").write_text(SITECUSTOMIZE)
    home = str(Path(__file__).parent.parent)
    environment = os.environ | {
        "HIDDEN": ",".join(libraries),
        "PYTHONPATH": os.pathsep.join([str(folder / "site"), home]),
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder / "graph"), way],
        env=environment,
        cwd=(folder / "site"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.rpartition("RESULT")[2])
    return result


@pytest.mark.parametrize("way", one_and_the_rest_slow(["in place", "worker"]))
def test_the_core_makes_everything_but_the_model_that_is_run(tmp_path: Path, way: str) -> None:
    (tmp_path / "graph").mkdir()
    found = without(EXTRAS, tmp_path, way)
    assert {"graph.onnx", "graph.svg", "graph.png", "index.html", "backward.svg"} <= set(
        found["files"]
    )
    assert found["told"] == {
        "GraphLogger": 'lightning is not installed: pip install "modelviz-callbacks[lightning]" '
        "brings it."
    }
    assert found["refused"] == {
        "model.onnx": 'onnxruntime is not installed: pip install "modelviz-callbacks[onnx]" '
        "brings it."
    }
    (run,) = (path for path in found["events"] if "saved_events" not in path)
    tags = EventAccumulator(run).Reload().Tags()
    assert tags["graph"]
    assert {"Sequential/layers", "Sequential/modules", "backward"} <= set(tags["tensors"])
    assert tags["images"] == ["Sequential/picture"]


def test_without_any_of_them_the_graph_is_there_and_each_is_named(tmp_path: Path) -> None:
    (tmp_path / "graph").mkdir()
    found = without(EXTRAS + CORE, tmp_path, "in place")
    assert {"graph.json", "graph.txt", "graph.csv", "graph.md", "index.html"} <= set(found["files"])
    assert set(found["told"]) == {"onnx", "svg", "tensorboard", "GraphLogger"}
    assert re.match(r"\w+ is not installed: pip install", found["told"]["tensorboard"])
    assert re.search(r'pip install "(onnx|numpy)', found["told"]["onnx"])
    assert found["told"]["svg"] == 'quickjs is not installed: pip install "quickjs-ng" brings it.'
    for what, library in {
        "graph.onnx": ("onnx", "numpy"),
        "model.onnx": ("onnx", "numpy"),
        "graph.svg": "quickjs",
        "the TensorBoard graph": ("protobuf", "numpy"),
    }.items():
        assert found["refused"][what].startswith(library), what
        assert " is not installed: pip install" in found["refused"][what], what


def test_what_torchs_exporter_lacks_is_named_and_the_ops_are_shown_as_torch_calls_them(
    tmp_path: Path,
) -> None:
    (tmp_path / "graph").mkdir()
    found = without(("onnxscript",), tmp_path, "in place")
    assert "graph.onnx" in found["files"]
    assert found["remarks"] == [
        "graph.onnx shows the ops as torch calls them: onnxscript is not installed: "
        'pip install "onnxscript" brings it.'
    ]


def test_all_that_the_core_imports_is_declared() -> None:
    declared = (Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    core = declared.partition("\ndependencies = [")[2].partition("\n]")[0]
    brought = {name.replace("-", "_") for name in re.findall(r'^    "([\w-]+)', core, re.M)}
    renamed = {"google": "protobuf", "onnx_ir": "onnxscript", "quickjs": "quickjs_ng"}
    assert {renamed.get(name, name) for name in CORE} <= brought


def test_an_error_that_was_raised_from_a_missing_library_names_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "onnx_ir", raising=False)
    error = ModuleNotFoundError("No module named 'onnx_ir.passes'", name="onnx_ir.passes")
    outer = RuntimeError("no file")
    outer.__cause__ = error
    assert missing_library(outer) == 'onnx_ir is not installed: pip install "onnxscript" brings it.'
    assert missing_library(ModuleNotFoundError("no", name="users_own")) == ""
    # What of it is found missing first depends on what else lies in "google".
    for name in ("google", "google.protobuf"):
        said = missing_library(ModuleNotFoundError("no", name=name))
        assert said == 'protobuf is not installed: pip install "protobuf" brings it.'


def test_a_missing_library_of_the_users_stays_pythons_error() -> None:
    with pytest.raises(ModuleNotFoundError), says_what_is_missing():
        raise ModuleNotFoundError("No module named 'users_own'", name="users_own")


def test_a_library_that_is_too_old_is_not_said_to_be_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    missing = ModuleNotFoundError("no", name="onnxscript._framework_apis.torch_9_0")
    monkeypatch.setitem(sys.modules, "onnxscript", types.ModuleType("a folder of that name"))
    assert missing_library(missing).startswith("onnxscript is not installed: ")
    monkeypatch.setitem(sys.modules, "onnxscript", json)
    said = missing_library(missing)
    assert said.startswith("The onnxscript that is installed has no onnxscript._framework_apis")
    assert 'pip install --upgrade "onnxscript"' in said
