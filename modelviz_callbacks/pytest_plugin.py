"""A fixture for tests that hold an architecture; pytest finds it once the package is installed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

_OPTION = "--update-architecture"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the option that renews the files."""
    parser.getgroup("modelviz").addoption(
        _OPTION,
        action="store_true",
        help="write the graphs that assert_same_architecture compares with anew",
    )


@pytest.fixture
def assert_same_architecture(request: pytest.FixtureRequest) -> Callable[..., None]:
    """``assert_same_architecture(model, path, *inputs)`` fails where the architecture changed.

    See `modelviz_callbacks.architecture.assert_same_architecture`, which this calls; it says what
    it takes and raises.
    """
    # Whoever does not ask for the fixture does not wait for torch.
    from modelviz_callbacks.architecture import assert_same_architecture as compare

    return partial(compare, update=request.config.getoption(_OPTION))
