"""The hard cases: what trips other recorders up, by kind."""

from __future__ import annotations

from tests.zoo import (
    hard_autograd,
    hard_code,
    hard_memory,
    hard_modules,
    hard_numerics,
    hard_reads,
    hard_structures,
    hard_tensors,
    hard_values,
)

CASES = [
    *hard_memory.CASES,
    *hard_values.CASES,
    *hard_reads.CASES,
    *hard_modules.CASES,
    *hard_structures.CASES,
    *hard_autograd.CASES,
    *hard_numerics.CASES,
    *hard_code.CASES,
    *hard_tensors.CASES,
]
