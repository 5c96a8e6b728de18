"""Over the models that are hard to follow: a step that is looked into trains as any other."""

from __future__ import annotations

import pytest

from tests.zoo import hard_cases
from tests.zoo.cases import Case
from tests.zoo.inspected import assert_untouched_by_looking

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("case", hard_cases.CASES, ids=lambda case: case.name)
def test_a_step_that_is_looked_into_trains_as_any_other(case: Case) -> None:
    assert_untouched_by_looking(case)
