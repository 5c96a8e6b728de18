"""An architecture held by a file: the fixture, what it says, and ``modelviz check``."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from modelviz_callbacks import ModelGraph, trace
from modelviz_callbacks.architecture import assert_same_architecture as compare
from modelviz_callbacks.cli import main
from modelviz_callbacks.cli.check import amount
from modelviz_callbacks.errors import OptionError

FACTORY = """
import torch
from torch import nn


def make(width=16, layers=2):
    parts = [nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 3)]
    return nn.Sequential(*parts[: layers * 2 - 1])


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(50, 4)

    def forward(self, ids, scale):
        return self.table(ids) * scale


class Fails(nn.Module):
    def forward(self, x):
        raise ValueError("no such luck")
"""


def net(width: int = 16) -> nn.Module:
    return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 3))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "nets.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_fixture_passes_on_the_same_architecture(
    assert_same_architecture: Callable[..., None], tmp_path: Path
) -> None:
    trace(net(), torch.ones(3, 4)).graph.save(tmp_path / "net.json")
    assert_same_architecture(net(), tmp_path / "net.json", torch.ones(5, 4))


def test_another_width_fails_with_what_changed_and_what_to_do(tmp_path: Path) -> None:
    trace(net(), torch.ones(3, 4)).graph.save(tmp_path / "net.json")
    with pytest.raises(AssertionError, match=r"Linear\(4 -> 16\) became Linear\(4 -> 8\)") as said:
        compare(net(8), tmp_path / "net.json", torch.ones(3, 4))
    assert "--update-architecture" in str(said.value)


def test_without_inputs_they_are_made_from_the_file_and_random_numbers_stay(
    here: Path, tmp_path: Path
) -> None:
    sys.path.insert(0, str(here))
    try:
        words = __import__("nets").Words()
    finally:
        sys.path.remove(str(here))
        del sys.modules["nets"]
    trace(words, torch.zeros(2, 5, dtype=torch.int64), torch.ones(4)).graph.save(tmp_path / "w")
    before = torch.random.get_rng_state()
    compare(words, tmp_path / "w")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_inputs_that_cannot_be_made_are_asked_for(tmp_path: Path) -> None:
    class Takes(nn.Module):
        def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
            return batch["a"] + batch["b"]

    batch = {"a": torch.ones(2), "b": torch.ones(2)}
    trace(Takes(), batch).graph.save(tmp_path / "graph.json")
    with pytest.raises(OptionError, match="pass the model's inputs"):
        compare(Takes(), tmp_path / "graph.json")
    compare(Takes(), tmp_path / "graph.json", batch)


def test_a_file_that_is_not_there_is_no_success(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="There is no"):
        compare(net(), tmp_path / "none.json", torch.ones(3, 4))


def test_an_update_writes_the_file(tmp_path: Path) -> None:
    path = tmp_path / "graphs/net.json"
    compare(net(), path, torch.ones(3, 4), update=True)
    assert ModelGraph.load(path).parameter_count == 4 * 16 + 16 + 16 * 3 + 3


@pytest.mark.slow
@pytest.mark.process
def test_pytest_has_the_fixture_and_the_option_wherever_the_package_is(here: Path) -> None:
    (here / "test_net.py").write_text(
        "import torch\nfrom nets import make\n\n"
        "def test_net(assert_same_architecture):\n"
        "    assert_same_architecture(make(), 'net.json', torch.ones(3, 4))\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_net.py"]
    first = subprocess.run(command, capture_output=True, text=True, check=False)
    assert first.returncode == 1
    assert "There is no net.json" in first.stdout
    for extra in (["--update-architecture"], []):
        done = subprocess.run([*command, *extra], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_check_ends_with_1_and_the_differences_where_the_architecture_changed(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["check", "nets.py:make", "--input", "3x4", "--against", "graphs/net.json"]
    assert main([*common, "--update"]) == 0
    assert main(common) == 0
    capsys.readouterr()
    assert main([*common, "--factory-kwarg", "width=8"]) == 1
    assert "~ 0: Linear(4 -> 16) became Linear(4 -> 8)" in capsys.readouterr().out


def test_check_holds_limits_of_parameters_and_flops(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["check", "nets.py:make", "--input", "3x4"]
    flops = 2 * 3 * (4 * 16 + 16 * 3)
    assert main([*common, "--max-parameters", "131", "--max-flops", "1K"]) == 0
    assert main([*common, "--max-parameters", "130", "--max-flops", str(flops - 1)]) == 1
    told = capsys.readouterr().out
    assert "131 parameters: more than the limit of 130" in told
    assert f"{flops} FLOPs: more than the limit of {flops - 1}" in told


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nets.py:make", "--input", "3x4"], "nothing to check"),
        (["nets.py:make", "--update", "--max-flops", "1"], "--update writes the file"),
        (["nets.py:Fails", "--input", "3", "--max-flops", "1"], "raised ValueError: no such luck"),
        (["nets.py:make", "--input", "3x4", "--against", "none.json"], "no file or folder"),
    ],
)
def test_what_cannot_be_checked_is_said_with_status_2(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert main(["check", *arguments]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "number"),
    [("25M", 25_000_000), ("4.1G", 4_100_000_000), ("1e3", 1000), ("1_000", 1000), ("7k", 7000)],
)
def test_amounts_have_units_of_thousands(text: str, number: int) -> None:
    assert amount(text) == number
