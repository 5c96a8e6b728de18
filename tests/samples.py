"""Cases that are alike: one of them runs each time, the others with ``--all``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def one_and_the_rest_slow(cases: Iterable[Any]) -> list[Any]:
    """Values for ``parametrize``: all but the first are marked ``slow``.

    Args:
        cases: The one that shows most first.
    """
    first, *rest = cases
    return [first, *(pytest.param(case, marks=pytest.mark.slow) for case in rest)]
