"""A fixed sample of `benchmarks.faults.random_models`."""

from __future__ import annotations

import pytest
import torch

from benchmarks.faults.random_models import faults_of


@pytest.mark.parametrize("seed", range(14))
def test_a_random_model_trains_to_the_same_bits_beside_a_hook(seed: int) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        outcome = faults_of(seed)
        assert outcome is not None
        assert outcome[0] == []
    finally:
        torch.set_num_threads(threads)
