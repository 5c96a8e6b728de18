"""What optimizers keep for parameters is known of every run, after their first steps."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.optimizer import _global_optimizer_post_hooks

from modelviz_callbacks import GraphHook
from tests.waiting import wait_for
from tests.writers.page_visit import content

FEW: dict[str, Any] = {"formats": ["html", "text", "csv"], "onnx": False, "mlflow": False}
# Two moments and a count for each parameter that is trained.
FIRST, LAST = 2 * 4 * (64 * 128 + 128) + 2 * 4, 2 * 4 * 128 * 8 + 4


def two_layers() -> nn.Module:
    model = nn.Sequential(nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, 8))
    model[2].bias.requires_grad_(False)
    return model


def trained(model: nn.Module) -> list[nn.Parameter]:
    return [one for one in model.parameters() if one.requires_grad]


def step(model: nn.Module, *optimizers: torch.optim.Optimizer) -> None:
    for optimizer in optimizers:
        optimizer.zero_grad()
    model(torch.ones(4, 64)).sum().backward()
    for optimizer in optimizers:
        optimizer.step()


def sizes(folder: Path) -> dict[str, str]:
    with (folder / "graph.csv").open(newline="") as file:
        return {row["name"]: row["optimizer_bytes"] for row in csv.DictReader(file)}


def test_what_the_optimizer_keeps_is_known_after_its_first_step(
    way: dict[str, Any], tmp_path: Path
) -> None:
    model = two_layers()
    optimizer = torch.optim.Adam(trained(model))
    before = len(_global_optimizer_post_hooks)
    with GraphHook(model, dirpath=tmp_path, **way, **FEW) as hook:
        step(model, optimizer)
        assert len(_global_optimizer_post_hooks) == before
        step(model, optimizer)
    assert sizes(tmp_path) == {"0_Linear": str(FIRST), "1_Tanh": "0", "2_Linear": str(LAST)}
    assert hook.report.figures["optimizer_bytes"] == FIRST + LAST
    assert '"optimizer":{"scopes":' in content((tmp_path / "index.html").read_bytes())
    assert "optimizer" in (tmp_path / "graph.txt").read_text()


@pytest.mark.process
def test_files_that_are_made_before_the_optimizers_first_step_are_made_once_more(
    tmp_path: Path,
) -> None:
    model = two_layers()
    optimizer = torch.optim.Adam(trained(model))
    with GraphHook(model, dirpath=tmp_path, **FEW) as hook:
        model(torch.ones(4, 64)).sum().backward()
        wait_for(lambda: (tmp_path / "report.json").exists())
        assert set(sizes(tmp_path).values()) == {""}
        optimizer.step()
    assert sizes(tmp_path)["0_Linear"] == str(FIRST)
    assert hook.report.figures["optimizer_bytes"] == FIRST + LAST
    assert not hook.report.refused


def test_each_of_several_optimizers_is_read_once_and_the_hook_is_gone_after_the_last(
    tmp_path: Path,
) -> None:
    model = two_layers()
    ours = [
        torch.optim.Adam(model[0].parameters()),
        torch.optim.SGD([model[2].weight], lr=0.1, momentum=0.9),
    ]
    other, before = nn.Linear(2, 2), len(_global_optimizer_post_hooks)
    with GraphHook(model, dirpath=tmp_path, background=False, **FEW):
        step(model, ours[0])
        torch.optim.Adam(other.parameters()).step()
        assert len(_global_optimizer_post_hooks) == before + 1
        step(model, *ours)
        assert len(_global_optimizer_post_hooks) == before
    assert sizes(tmp_path) == {"0_Linear": str(FIRST), "1_Tanh": "0", "2_Linear": str(4 * 128 * 8)}


def test_parameters_that_no_optimizer_steps_are_not_waited_for_without_end(tmp_path: Path) -> None:
    model = two_layers()
    optimizer = torch.optim.Adam([model[2].weight])
    before = len(_global_optimizer_post_hooks)
    with GraphHook(model, dirpath=tmp_path, background=False, **FEW):
        step(model, optimizer)
        for _ in range(20):
            optimizer.step()
        assert len(_global_optimizer_post_hooks) == before
    assert sizes(tmp_path)["2_Linear"] == str(LAST)


def test_an_optimizer_that_keeps_nothing_is_not_told_of(tmp_path: Path) -> None:
    model = two_layers()
    optimizer = torch.optim.SGD(trained(model), lr=0.1)
    with GraphHook(model, dirpath=tmp_path, background=False, **FEW) as hook:
        step(model, optimizer)
    assert "optimizer_bytes" not in hook.report.figures
    assert set(sizes(tmp_path).values()) == {""}


def test_the_compiled_step_of_an_optimizer_is_compiled_once(tmp_path: Path) -> None:
    model, compiled = two_layers(), list[Any]()
    optimizer = torch.optim.Adam(trained(model))

    def backend(module: Any, _: Any) -> Any:
        compiled.append(module)
        return module

    run = torch.compile(optimizer.step, backend=backend)
    with GraphHook(model, dirpath=tmp_path, background=False, **FEW) as hook:
        for _ in range(3):
            model(torch.ones(4, 64)).sum().backward()
            run()
    model(torch.ones(4, 64)).sum().backward()
    run()
    assert len(compiled) == 1
    assert not hook.report.refused
    torch.compiler.reset()
