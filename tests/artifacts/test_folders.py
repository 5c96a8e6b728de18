"""Two recordings never share a folder; what a folder shows is of one recording."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from modelviz_callbacks import GraphHook, ModelGraph
from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.artifacts.maker import Maker, file_name
from modelviz_callbacks.artifacts.onnx_files import write_trained_models, write_views
from modelviz_callbacks.errors import OptionError
from modelviz_callbacks.options import Options
from modelviz_callbacks.report import Report

QUICK: dict[str, Any] = {
    "onnx": False,
    "formats": ["text"],
    "background": False,
    "tensorboard": False,
    "mlflow": False,
}


class Net(nn.Module):
    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.fc = nn.Linear(4, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x)


def _parameters(folder: Path) -> int:
    return ModelGraph.load(folder / "graph.json").parameter_count


def test_two_hooks_on_two_models_of_one_class_have_a_folder_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = Net(3), Net(5)
    with GraphHook(first, **QUICK) as one, GraphHook(second, **QUICK) as two:
        first(torch.ones(2, 4))
        second(torch.ones(2, 4))
    folder = tmp_path / "model_graph"
    assert sorted(path.name for path in folder.iterdir()) == ["Net", "Net_2"]
    assert [one.report.folder, two.report.folder] == [str(folder / "Net"), str(folder / "Net_2")]
    assert (_parameters(folder / "Net"), _parameters(folder / "Net_2")) == (15, 25)


def test_a_second_run_leaves_the_folder_of_the_first_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for width in (3, 5, 7):
        model = Net(width)
        with GraphHook(model, **QUICK):
            model(torch.ones(2, 4))
    folders = [tmp_path / "model_graph" / name for name in ("Net", "Net_2", "Net_3")]
    assert [_parameters(folder) for folder in folders] == [15, 25, 35]
    for folder in folders:
        assert json.loads((folder / "report.json").read_text())["folder"] == str(folder)


def test_a_folder_that_was_asked_for_has_no_files_of_an_earlier_run(tmp_path: Path) -> None:
    outside = tmp_path / "graph.txt"
    outside.write_text("mine")
    folder = tmp_path / "graphs"
    model = Net()
    with GraphHook(model, dirpath=folder, **QUICK | {"formats": ["text", "csv"]}):
        model(torch.ones(2, 4))
    kept = {"events.out.tfevents.1": "old", "notes.md": "mine", "train.py": "mine"}
    for name, text in kept.items():
        (folder / name).write_text(text)
    ended = subprocess.Popen(["true"])
    ended.wait()
    (folder / f".part-{ended.pid}-0123.svg").write_text("half a")  # killed over it
    told = json.loads((folder / "report.json").read_text())
    told["files"] += ["../graph.txt", "train.py", str(outside), "events.out.tfevents.1", 3]
    (folder / "report.json").write_text(json.dumps(told))
    with GraphHook(model, dirpath=folder, **QUICK):
        model(torch.ones(2, 4))
    assert {path.name for path in folder.iterdir()} == {
        "graph.json",
        "graph.txt",
        "report.json",
        *kept,
    }
    assert outside.read_text() == "mine"


def test_files_are_not_strewn_among_the_users_own(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("mine")
    model = Net()
    for _ in range(2):
        with GraphHook(model, dirpath=tmp_path, **QUICK) as hook:
            model(torch.ones(2, 4))
        assert hook.report.folder == str(tmp_path / "model_graph")
        assert {path.name for path in tmp_path.iterdir()} == {"train.py", "model_graph"}


@pytest.mark.parametrize("name", ["events.out.tfevents.1", ".gitignore", "checkpoints/last.ckpt"])
def test_a_trackers_files_and_folders_are_no_reason_for_another_folder(
    name: str, tmp_path: Path
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("not ours")
    model = Net()
    with GraphHook(model, dirpath=tmp_path, **QUICK) as hook:
        model(torch.ones(2, 4))
    assert hook.report.folder == str(tmp_path)


def test_two_hooks_with_one_dirpath_at_once_have_a_folder_each(tmp_path: Path) -> None:
    first, second = Net(3), Net(5)
    options = QUICK | {"dirpath": tmp_path / "graphs"}
    with GraphHook(first, **options) as one, GraphHook(second, **options) as two:
        first(torch.ones(2, 4))
        second(torch.ones(2, 4))
    assert _parameters(Path(one.report.folder)) == 15
    assert _parameters(Path(two.report.folder)) == 25
    assert two.report.folder == str(tmp_path / "graphs_2")


def test_a_dirpath_where_no_folder_can_be_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    wrong = {"a\0b": "NUL", str(tmp_path / "file"): "it is a file", str(tmp_path / "link"): "link"}
    for dirpath, expected in wrong.items():
        with pytest.raises(OptionError, match=expected):
            GraphHook(Net(), dirpath=dirpath, **QUICK)


_GONE = """
import os, sys, tempfile
import torch
import torch._dynamo  # it cannot be imported any more where the working directory is gone
from torch import nn
from modelviz_callbacks import GraphHook
from modelviz_callbacks.errors import OptionError
folder = tempfile.mkdtemp()
os.chdir(folder)
os.rmdir(folder)
model = nn.Linear(4, 2)
options = dict(onnx=False, formats=["text"], background=False, tensorboard=False, mlflow=False)
try:
    GraphHook(model, dirpath="graphs", **options)
except OptionError as error:
    print("refused:", "the working directory is gone" in str(error))
with GraphHook(model, **options) as hook:
    model(torch.ones(2, 4))
print(os.path.exists(os.path.join(hook.report.folder, "graph.txt")), hook.report.folder)
"""


@pytest.mark.process
def test_in_a_working_directory_that_is_gone_the_files_are_where_it_says(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _GONE],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    lines = done.stdout.splitlines()
    assert lines[0] == "refused: True", done.stderr
    assert lines[-1] == f"True {tmp_path / 'model_graph' / 'Linear'}"


def test_a_class_with_a_name_longer_than_file_systems_take_has_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for last in "甲乙":
        model = type("网" * 200 + last, (Net,), {})()
        with GraphHook(model, **QUICK) as hook:
            model(torch.ones(2, 4))
        assert hook.report.refused == []
        assert (Path(hook.report.folder) / "graph.txt").is_file()
    assert len(list((tmp_path / "model_graph").iterdir())) == 2


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("aux", "aux_"),
        ("CON", "CON_"),
        ("nul.model", "nul_.model"),
        ("com1", "com1_"),
        ("..lpt9.", "lpt9_"),
        ("auxiliary", "auxiliary"),
        ("console", "console"),
        ("x.aux", "x.aux"),
        ("com", "com"),
        ("n" * 99 + ".head", "n" * 99),
    ],
)
def test_no_file_is_called_what_windows_takes_for_a_device_or_shortens(
    name: str, file: str
) -> None:
    assert file_name(name) == file


def test_networks_whose_names_make_one_file_name_have_files_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [
        "a b",
        "a_b",
        "A_B",
        "a_b_2",
        "网" * 200 + "甲",
        "网" * 200 + "乙",
        "x",
        "x.model",
        "…",
    ]
    networks = [
        SimpleNamespace(module=None, call=None, name=name, recorded_inputs=lambda: None)
        for name in names
    ]
    options = Options(trained_onnx=True)
    maker = Maker(options, tmp_path, Report("gan", str(tmp_path)))
    home = "modelviz_callbacks.artifacts.onnx_files"
    view = SimpleNamespace(remarks=lambda _: [])
    monkeypatch.setattr(
        f"{home}.view_of",
        lambda unit, *_, **__: SimpleNamespace(**vars(view), data=f"view {unit.name}".encode()),
    )

    def trained(subject: Any, names: Any, path: Path) -> Any:
        path.write_text(f"trained {subject.program}")
        return SimpleNamespace(files=[path.name], remarks=[], warnings=[], max_difference=0.0)

    monkeypatch.setattr(f"{home}.onnx_source", lambda unit: unit.name)
    monkeypatch.setattr("modelviz_callbacks.writers.onnx.write_trained", trained)
    graph = ModelGraph("gan", "Gan")
    products: Any = SimpleNamespace(networks=networks, graph=graph, analysis=Analysis(graph))
    write_views(maker, products)
    write_trained_models(maker, products)
    assert maker.report.refused == []
    texts = sorted(path.read_text() for path in tmp_path.iterdir())
    assert texts == sorted(f"{kind} {name}" for kind in ("view", "trained") for name in names)
