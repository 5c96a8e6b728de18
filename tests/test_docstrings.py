"""Every public name says with an example how it is used, and each example runs."""

from __future__ import annotations

import doctest
import functools
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import modelviz_callbacks
from tests.lightning_modules import Classifier, data

# These train, with the files made as users have them made.
_TRAINING = ("GraphHook", "GraphLogger")


def documented() -> Iterator[tuple[str, Any]]:
    """Every public name, and every method and property that users call."""
    for name in modelviz_callbacks.__all__:
        thing = getattr(modelviz_callbacks, name)
        yield name, thing
        for member in vars(thing) if inspect.isclass(thing) else ():
            value = inspect.getattr_static(thing, member)
            is_event = any(hasattr(base, member) for base in thing.__mro__[1:])
            is_field = not (callable(value) or hasattr(value, "__get__"))
            if not member.startswith("_") and not is_event and not is_field:
                yield f"{name}.{member}", getattr(value, "__func__", value)


def example(thing: Any) -> str:
    """The docstring from its example on."""
    return (inspect.getdoc(thing) or "").partition("Example:\n")[2]


CASES = [
    pytest.param(thing, id=name, marks=[pytest.mark.process] if name.startswith(_TRAINING) else [])
    for name, thing in documented()
]


def test_every_public_name_has_an_example() -> None:
    assert [name for name, thing in documented() if ">>> " not in example(thing)] == []


def test_no_public_name_is_left_out() -> None:
    names = {name for name, _ in documented()}
    assert names >= {"trace", "GraphHook.close", "GraphLogger.report", "Trace.save_svg"}
    assert names >= {"ModelGraph.load", "ModelGraph.by_name", "Trace.graph", "Trace.program"}
    assert not any(name.startswith("GraphLogger.on_") for name in names)


@pytest.mark.filterwarnings("ignore:::lightning")
@pytest.mark.parametrize("thing", CASES)
def test_the_example_runs_and_gives_what_it_says(
    thing: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    features, labels = torch.ones(4, 8), torch.zeros(4, dtype=torch.long)
    names = {name: getattr(modelviz_callbacks, name) for name in modelviz_callbacks.__all__}
    names |= {
        "nn": nn,
        "torch": torch,
        "model": nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2)),
        "features": features,
        "criterion": nn.CrossEntropyLoss(),
    }
    if "loader" in example(thing):
        names["loader"] = DataLoader(TensorDataset(features, labels), batch_size=2)
    if "lightning_module" in example(thing):
        names |= {"lightning_module": Classifier(), "loader": data(), "Trainer": quiet_trainer()}
    ran = doctest.DocTestParser().get_doctest(example(thing), names, "example", None, None)
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    outcome = runner.run(ran, out=said.append, clear_globs=False)
    assert outcome.attempted
    assert not outcome.failed, "".join(said)


def quiet_trainer() -> Any:
    """Lightning's trainer for one step, without its own output."""
    return functools.partial(
        pl.Trainer,
        max_steps=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
