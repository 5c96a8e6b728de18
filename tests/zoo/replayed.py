"""Second property: the recorded program gives the model's own result again, to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from modelviz_callbacks import Trace, trace
from tests.zoo.cases import Case, seed_everything
from tests.zoo.leaves import difference, frozen, parts
from tests.zoo.switches import switches


def assert_replays(case: Case) -> None:
    """Records the case, runs the program on equal arguments, compares the results."""
    model, args, kwargs = case.make()
    generators = list(generators_in((model, args, kwargs)))
    states = [generator.get_state() for generator in generators]
    seed_everything(2)
    recorded = trace(model, *args, **kwargs)
    wanted = frozen(recorded.outputs)
    for generator, state in zip(generators, states, strict=True):
        generator.set_state(state)
    # The forward may have written to its arguments: take equal ones.
    _, args, kwargs = case.make()
    assert_result_again(recorded, args, kwargs, wanted)


def assert_result_again(
    recorded: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], wanted: Any
) -> None:
    """Replays under the random state of the recording.

    Args:
        recorded: The recording.
        args: Arguments equal to the recorded ones.
        kwargs: Likewise.
        wanted: The model's own result, `frozen`.
    """
    seed_everything(2)
    before = switches()
    found = difference(wanted, frozen(recorded.replay(*args, **kwargs)))
    assert not found, f"the replay gives another result: {found}"
    found = difference(before, switches())
    assert not found, f"the replay left something behind: {found}"


def generators_in(value: Any, seen: set[int] | None = None) -> Iterator[torch.Generator]:
    """The random generators among arguments and attributes."""
    seen = set() if seen is None else seen
    if isinstance(value, torch.Generator):
        yield value
        return
    inside = parts(value)
    if inside is None or id(value) in seen:
        return
    seen.add(id(value))
    for _, item in inside:
        yield from generators_in(item, seen)
