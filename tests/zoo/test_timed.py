"""Over the models that are hard to follow: a timed step trains as if nobody watched."""

from __future__ import annotations

import pytest

from tests.zoo import hard_cases
from tests.zoo.cases import Case
from tests.zoo.timed import assert_untouched_by_timing

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("case", hard_cases.CASES, ids=lambda case: case.name)
def test_a_timed_step_trains_as_if_nobody_watched(case: Case) -> None:
    assert_untouched_by_timing(case)
