"""Which lines of source the page shows, and whose."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from modelviz_callbacks import GraphHook, trace
from modelviz_callbacks.artifacts.source_code import lines_around
from modelviz_callbacks.tracing import SourceFile
from tests.writers.page_visit import content

MODEL = """\
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x):
        token = "hf_of_mine"
        x = self.layer(x)
        return x.relu()


# far away
"""


def load(path: Path, text: str = MODEL) -> Any:
    """The model in a file of its own."""
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Net()


@pytest.mark.process
def test_a_run_and_a_trace_show_the_lines_around_their_ops_without_credentials(
    tmp_path: Path,
) -> None:
    model = load(tmp_path / "of_a_user.py")
    few: dict[str, Any] = {"onnx": False, "mlflow": False, "tensorboard": False}
    for background in (False, True):
        folder = tmp_path / f"graphs_{background}"
        with GraphHook(model, dirpath=folder, formats=["html"], background=background, **few):
            model(torch.zeros(3, 4))
    trace(model, torch.zeros(3, 4)).save_html(tmp_path / "traced.html")
    pages = [*tmp_path.glob("graphs_*/index.html"), tmp_path / "traced.html"]
    assert len(pages) == 3
    for page in pages:
        ((first, *lines),) = json.loads(content(page.read_bytes()))["code"]["of_a_user.py"]
        assert first == 9
        assert lines[2] == '        token = "***"'
        assert lines[4] == "        return x.relu()"
        assert lines[-1] == "# far away"


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        (".py", MODEL.replace("import torch\n", "\n" * 40 + "import torch\n", 1)),  # edited since
        (".py", ""),
        (".txt", MODEL),
        (".py", "\0" + MODEL),
    ],
)
def test_of_a_file_that_is_not_what_was_run_nothing_is_shown(
    suffix: str, text: str, tmp_path: Path
) -> None:
    path = tmp_path / "of_a_user.py"
    graph = trace(load(path), torch.zeros(3, 4)).graph
    assert graph.ops[0].source is not None
    name = graph.ops[0].source.file
    given = {name: SourceFile(str(path), (("forward", 10),))}
    assert lines_around([graph], given)[name]
    other = path.with_suffix(suffix)
    other.write_text(text)
    found = lines_around([graph], {name: SourceFile(str(other), (("forward", 10),))})
    assert found == ({} if "\0" not in text else lines_around([graph], given))


def test_no_name_in_a_graph_leads_to_a_file(tmp_path: Path) -> None:
    graph = trace(load(tmp_path / "of_a_user.py"), torch.zeros(3, 4)).graph
    assert lines_around([graph], {}) == {}
