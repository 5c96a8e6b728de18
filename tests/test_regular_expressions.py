"""Every regular expression of the package is linear: names and errors are anybody's text."""

from __future__ import annotations

import importlib
import re
import time
from collections.abc import Iterator

import pytest

from tests.test_architecture import PACKAGE, modules

PIECES = [
    "a",
    "1",
    "_1",
    "1_a",
    "×1",
    "1×",
    ":",
    ":1",
    "/",
    "x1",
    "loss",
    "_",
    "=",
    "password",
    "'",
    '"',
    "(Caused by A('",
    "(artifact:",
    "(artifact:a",
    "://",
    "@",
    "<- ",
    "note: ",
    "\n",
    " ",
    "@@A",
    ".",
    "-",
    "é",
]
ENDS = ["", "!", "a", "1", ")", "\n"]


def expressions() -> Iterator[tuple[str, re.Pattern[str]]]:
    for name in modules():
        module = importlib.import_module(f"{PACKAGE}.{name}".rstrip("."))
        for key, value in vars(module).items():
            if isinstance(value, re.Pattern) and isinstance(value.pattern, str):
                yield f"{name}.{key}", value


def cost(pattern: re.Pattern[str], text: str) -> float:
    began = time.process_time()
    for _ in pattern.finditer(text):
        pass
    pattern.match(text)
    pattern.fullmatch(text)
    return time.process_time() - began


@pytest.mark.alike
@pytest.mark.parametrize("piece", PIECES)
def test_every_expression_takes_time_in_proportion_to_its_text(piece: str) -> None:
    for name, pattern in expressions():
        for end in ENDS:
            small, large = (piece * (size // len(piece)) + end for size in (2_000, 16_000))
            # Linear is 8, quadratic 64; what is below 10 ms is noise.
            if cost(pattern, large) > 24 * cost(pattern, small) + 0.01:
                # Once more: another program may have had the processor's caches.
                assert cost(pattern, large) <= 24 * cost(pattern, small) + 0.01, (name, end)


@pytest.mark.slow
def test_a_quadratic_expression_is_found() -> None:
    pattern = re.compile(r"\d+\Z")
    small, large = (("1" * size) + "a" for size in (2_000, 16_000))

    assert cost(pattern, large) > 24 * cost(pattern, small) + 0.01


def test_the_expressions_are_found() -> None:
    assert len({name for name, _ in expressions()}) >= 20
