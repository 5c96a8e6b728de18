"""What a case of the zoo is, and how one is declared and built."""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy
import torch

Built = tuple[torch.nn.Module, tuple[Any, ...], dict[str, Any]]
_Made = TypeVar("_Made", bound=Callable[..., Any])


@dataclass(frozen=True)
class Case:
    """One model with arguments for its forward.

    Attributes:
        name: Unique in the zoo.
        family: ``transformers``, ``torch_geometric``, ``torch.nn`` or a kind of hard case.
        build: Makes the model, in training mode, with its arguments; use `make`.
        origin: Where the case is from.
        replay: ``"exact"``, or why running the recorded program again is impossible by nature.
    """

    name: str
    family: str
    build: Callable[[], Built]
    origin: str
    replay: str = "exact"

    def make(self) -> Built:
        """Builds the case; the same to the bit each time."""
        if "torch._dynamo" in sys.modules:
            # What was compiled for another build of the case must not be used for this one.
            torch._dynamo.reset()
        seed_everything(0)
        return self.build()


def seed_everything(seed: int) -> None:
    """Puts torch's, Python's and numpy's random states at a known point."""
    torch.manual_seed(seed)
    random.seed(seed)
    numpy.random.seed(seed)


def one_matrix() -> tuple[Any, ...]:
    """The arguments of most hand-written cases."""
    return (torch.randn(3, 4),)


class Shelf:
    """Collects the hand-written cases of one file.

    A module class that takes no arguments becomes a case by ``@shelf.model(...)``, a function
    that builds model, arguments and keyword arguments by ``@shelf.builder(...)``.
    """

    def __init__(self, family: str) -> None:
        self.family = family
        self.cases: list[Case] = []

    def model(
        self,
        origin: str,
        args: Callable[[], tuple[Any, ...]] = one_matrix,
        kwargs: Callable[[], dict[str, Any]] = dict,
        replay: str = "exact",
    ) -> Callable[[type[torch.nn.Module]], type[torch.nn.Module]]:
        def register(cls: type[torch.nn.Module]) -> type[torch.nn.Module]:
            def build() -> Built:
                return cls(), args(), kwargs()

            self._add(cls.__name__, build, origin, replay)
            return cls

        return register

    def builder(self, origin: str, replay: str = "exact") -> Callable[[_Made], _Made]:
        def register(build: _Made) -> _Made:
            self._add(build.__name__, build, origin, replay)
            return build

        return register

    def _add(self, name: str, build: Callable[[], Built], origin: str, replay: str) -> None:
        words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
        self.cases.append(Case(words, self.family, build, origin, replay))
