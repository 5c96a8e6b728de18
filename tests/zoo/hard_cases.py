"""The hard cases: what trips other recorders up, by kind."""

from __future__ import annotations

from tests.zoo import hard_kinds, hard_memory, hard_modules, hard_torch, hard_values

CASES = [
    *hard_memory.CASES,
    *hard_values.CASES,
    *hard_modules.CASES,
    *hard_torch.CASES,
    *hard_kinds.CASES,
]
