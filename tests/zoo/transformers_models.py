"""Tiny models of the architectures of transformers, generated from the library's registries.

Which ones is written down in ``transformers_types.txt`` (a model type and its head a line), so
that coverage cannot shrink in silence.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from tests.zoo.cases import Built, Case
from tests.zoo.tiny_configs import tiny
from tests.zoo.transformers_inputs import inputs_for
from tests.zoo.transformers_overrides import CONFIGS, INPUTS, TASKS

_LISTED = Path(__file__).with_name("transformers_types.txt")


def listed() -> list[tuple[str, str]]:
    """The model types that the zoo covers, each with its head."""
    lines = _LISTED.read_text(encoding="utf-8").splitlines()
    return [(model_type, task) for model_type, task in (line.split() for line in lines)]


def model_class(model_type: str, task: str) -> Any:
    """The class that the library's registry names for a model type and a head."""
    import transformers
    from transformers.models.auto import modeling_auto

    found = getattr(modeling_auto, TASKS[task])[model_type]
    return getattr(transformers, found if isinstance(found, str) else found[0])


def forget_results(model: Any) -> None:
    """Empties the caches of a model's classes, which models of one process share.

    What another model has computed would be out of sight in this one's forward.
    """
    for cls in {cls for module in model.modules() for cls in type(module).__mro__}:
        for member in vars(cls).values():
            function = getattr(member, "__func__", member)
            for cell in getattr(function, "__closure__", None) or ():
                with contextlib.suppress(ValueError):  # an empty cell
                    getattr(cell.cell_contents, "cache_clear", lambda: None)()


def build(model_type: str, task: str) -> Built:
    """A tiny model of a type, in training mode, with inputs and labels."""
    import transformers

    transformers.logging.set_verbosity_error()
    cls = model_class(model_type, task)
    default = transformers.CONFIG_MAPPING[model_type]()
    model = cls(tiny(default, CONFIGS.get(model_type, dict)())).train()
    forget_results(model)
    return model, (), inputs_for(model, task, INPUTS.get(model_type, {}))


def _case(model_type: str, task: str) -> Case:
    origin = f"transformers, {TASKS[task]}[{model_type!r}]"
    return Case(model_type, "transformers", lambda: build(model_type, task), origin)


CASES = [_case(model_type, task) for model_type, task in listed()]
