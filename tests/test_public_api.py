"""The public names and their signatures, held by a golden file.

To change the public surface on purpose: ``python -m tests.test_public_api`` writes the file.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import modelviz_callbacks
from modelviz_callbacks.options import Options

# File of modelviz_callbacks.integrations -> the class in it that users name.
TRAINERS = {
    "fabric": "GraphCallback",
    "fastai": "GraphCallback",
    "ignite": "GraphHandler",
    "mmengine": "ModelGraphHook",
    "skorch": "GraphCallback",
    "stable_baselines3": "GraphCallback",
    "transformers": "GraphCallback",
    "ultralytics": "GraphCallback",
}

GOLDEN = Path(__file__).parent / "public_api.txt"


def public_names() -> list[str]:
    return sorted(modelviz_callbacks.__all__)


def lines_of(name: str, thing: Any) -> Iterator[str]:
    """One line for a function or field, one for each public member of a class."""
    if not inspect.isclass(thing):
        yield f"{name}{inspect.signature(thing)}"
        return
    yield f"{name}{inspect.signature(thing)}"
    for member in sorted(vars(thing)):
        value = inspect.getattr_static(thing, member)
        if member.startswith("_"):
            continue
        if isinstance(value, property) or hasattr(value, "func"):
            yield f"{name}.{member}: property"
        elif isinstance(value, (staticmethod, classmethod)) or inspect.isfunction(value):
            yield f"{name}.{member}{inspect.signature(getattr(thing, member))}"


def surface() -> str:
    """The whole public surface as text."""
    lines = [
        line
        for name in public_names()
        for line in lines_of(name, getattr(modelviz_callbacks, name))
    ]
    for trainer, name in TRAINERS.items():
        module = importlib.import_module(f"modelviz_callbacks.integrations.{trainer}")
        lines += [f"{trainer}: {line}" for line in lines_of(name, getattr(module, name))]
    lines += [
        f"option {field.name}: {field.type} = {field.default!r}"
        for field in dataclasses.fields(Options)
    ]
    errors = importlib.import_module("modelviz_callbacks.errors")
    lines += [
        f"error {name}({', '.join(base.__name__ for base in thing.__bases__)})"
        for name, thing in sorted(vars(errors).items())
        if inspect.isclass(thing)
    ]
    return "\n".join(lines) + "\n"


def test_the_public_surface_is_the_golden_one() -> None:
    assert surface() == GOLDEN.read_text(encoding="utf-8")


def test_all_is_what_can_be_reached() -> None:
    reached = {
        name
        for name in dir(modelviz_callbacks)
        if not name.startswith("_")
        and not inspect.ismodule(getattr(modelviz_callbacks, name))
        and name not in ("annotations", "importlib", "TYPE_CHECKING", "Any")
    }
    assert reached == set(modelviz_callbacks.__all__)


def test_every_trainers_file_is_in_the_golden_file() -> None:
    folder = Path(modelviz_callbacks.__file__).parent / "integrations"
    assert {path.stem for path in folder.glob("[a-z]*.py")} == set(TRAINERS)


def test_another_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="GraphLoger"):
        _ = modelviz_callbacks.GraphLoger


def test_everything_public_is_documented() -> None:
    missing = []
    for name in public_names():
        thing = getattr(modelviz_callbacks, name)
        missing += [] if thing.__doc__ else [name]
        if inspect.isclass(thing):
            missing += [
                f"{name}.{member}"
                for member, value in vars(thing).items()
                if not member.startswith("_") and callable(value) and not value.__doc__
            ]
    assert missing == []


def test_callback_hook_and_options_have_the_same_options_and_defaults() -> None:
    from modelviz_callbacks import GraphLogger
    from modelviz_callbacks.options import OptionFields

    fields = {field.name: field.default for field in dataclasses.fields(Options)}
    parameters = dict(inspect.signature(GraphLogger).parameters)
    assert parameters.pop("stage").default == "train"  # a hook watches one model's forward
    assert {name: parameter.default for name, parameter in parameters.items()} == fields
    assert set(OptionFields.__annotations__) == set(fields)


def test_every_error_is_the_librarys_own() -> None:
    errors = importlib.import_module("modelviz_callbacks.errors")
    for thing in vars(errors).values():
        if inspect.isclass(thing):
            assert issubclass(thing, errors.ModelvizError)


if __name__ == "__main__":
    GOLDEN.write_text(surface(), encoding="utf-8")
