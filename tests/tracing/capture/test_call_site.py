"""Every op names the line of the code of the model's author that it comes from."""

from __future__ import annotations

import functools
import importlib.util
import inspect
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import GPT2Config, GPT2Model

import modelviz_callbacks
from modelviz_callbacks import trace
from modelviz_callbacks.graph import Source
from modelviz_callbacks.tracing.capture.call_site import FrameKind, classify_file

X = torch.ones(2, 4)

# A model as somebody may write it anywhere.
ELSEWHERE = """
import torch

class Elsewhere(torch.nn.Module):
    def forward(self, x):
        return torch.tanh(x)
"""


def sources(model: nn.Module, *args: Any) -> dict[str, Source | None]:
    """Where the ops come from, by what they are called."""
    return {node.op: node.source for node in trace(model, *args).graph.ops}


def line_of(function: Any, text: str) -> int:
    lines, first = inspect.getsourcelines(function)
    return first + next(number for number, line in enumerate(lines) if text in line)


class Own(nn.Module):
    """Ops of its own, one in a layer of torch, and one handed through functools."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(4, 3), nn.GELU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.layer(x)
        return self.finish(torch.tanh(h))

    def finish(self, h: torch.Tensor) -> torch.Tensor:
        half = functools.partial(torch.mul, other=0.5)
        return half(h)


def test_an_op_of_the_models_own_names_its_line_and_function() -> None:
    source = sources(Own(), X)["tanh"]
    assert source is not None
    assert source.file == "tests/tracing/capture/test_call_site.py"
    assert source.function == "forward"
    assert source.line == line_of(Own.forward, "torch.tanh(h)")


def test_an_op_of_a_layer_names_the_line_that_calls_the_layer() -> None:
    found = sources(Own(), X)
    for op in ("linear", "gelu"):
        source = found[op]
        assert source is not None
        assert (source.line, source.function) == (line_of(Own.forward, "self.layer(x)"), "forward")


class Twice(nn.Module):
    """Layers of torch within layers of torch, with a hook of the author's, called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Sequential(nn.Linear(4, 4)), nn.Tanh())
        self.block[1].register_forward_pre_hook(self.shifted)

    def shifted(self, module: nn.Module, args: Any) -> torch.Tensor:
        return args[0] + 1  # type: ignore[no-any-return]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.block(x)
        return self.block(first)  # type: ignore[no-any-return]


def test_an_op_of_a_layer_within_layers_names_the_line_of_that_call_and_a_hooks_op_its_own() -> (
    None
):
    ops = trace(Twice(), X).graph.ops
    first = line_of(Twice.forward, "self.block(x)")
    own = line_of(Twice.shifted, "args[0] + 1")
    assert [(node.op, node.source.line if node.source else None) for node in ops] == [
        *(("linear", first), ("add", own), ("tanh", first)),
        *(("linear", first + 1), ("add", own), ("tanh", first + 1)),
    ]


def test_no_file_of_this_package_is_taken_for_the_users_code() -> None:
    ours = list(Path(modelviz_callbacks.__file__).parent.rglob("*.py"))
    assert len(ours) > 50
    assert [path for path in ours if classify_file(str(path)) is FrameKind.USER] == []


def test_what_only_passes_a_call_on_is_not_meant() -> None:
    source = sources(Own(), X)["mul"]
    assert source is not None
    assert (source.line, source.function) == (line_of(Own.finish, "half(h)"), "finish")


def test_a_model_of_a_package_is_named_from_the_package_on() -> None:
    config = GPT2Config(vocab_size=32, n_positions=8, n_embd=8, n_layer=1, n_head=2)
    ops = trace(GPT2Model(config), torch.zeros(1, 4, dtype=torch.long)).graph.ops
    files = {node.source.file for node in ops if node.source}
    assert "transformers/models/gpt2/modeling_gpt2.py" in files
    assert all(file.startswith("transformers/") for file in files)


def typed(filename: str) -> nn.Module:
    """The model above, as if typed where Python says ``filename``."""
    names: dict[str, Any] = {"__name__": "typed"}
    exec(compile(ELSEWHERE, filename, "exec"), names)
    made: nn.Module = names["Elsewhere"]()
    return made


def test_a_file_elsewhere_has_only_its_name(tmp_path: Path) -> None:
    path = tmp_path / "elsewhere.py"
    path.write_text(ELSEWHERE)
    spec = importlib.util.spec_from_file_location("elsewhere", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert sources(module.Elsewhere(), X)["tanh"] == Source("elsewhere.py", 6, "forward")


def test_a_notebooks_cell_is_called_so() -> None:
    # As ipykernel names them, by its process and a number for the text of the cell.
    model = typed("/tmp/ipykernel_3805/3867692329.py")
    assert sources(model, X)["tanh"] == Source("notebook cell", 6, "forward")


def test_what_was_typed_at_a_prompt_has_no_line() -> None:
    assert sources(typed("<stdin>"), X)["tanh"] is None
