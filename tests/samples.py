"""Cases that are alike: one of them runs each time, the others with ``--all``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

_PARAM = type(pytest.param())


def one_and_the_rest_slow(cases: Iterable[Any]) -> list[Any]:
    """Values for ``parametrize``: all but the first are marked ``slow``.

    Args:
        cases: The one that shows most first; ``pytest.param`` where it has several values.
    """
    first, *rest = cases
    return [first, *map(_slow, rest)]


def _slow(case: Any) -> Any:
    if isinstance(case, _PARAM):
        return pytest.param(*case.values, marks=[*case.marks, pytest.mark.slow], id=case.id)
    return pytest.param(case, marks=pytest.mark.slow)
