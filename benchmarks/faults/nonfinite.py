"""Models whose loss is not finite by one fault: is it the op to blame that is named?

Each model of ``nonfinite_models`` is traced on a batch on which all is well; then the harm is done
and `Trace.find_nonfinite` asked. It is counted how often the right op, input or weight is named,
and how often a wrong one is named as certain, which must never be.

Run it with ``python -m benchmarks.faults.nonfinite [--all]``; half a minute. With ``--all`` it says
what was found in each.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch

from benchmarks.faults.nonfinite_models import CASES, Case
from modelviz_callbacks import trace
from modelviz_callbacks.tracing import Nonfinite


def found_in(case: Case) -> Nonfinite | None:
    """What is found in a model.

    Raises:
        ValueError: It has the fault on the batch that is recorded, too.
    """
    torch.manual_seed(0)
    model, batch, spoil = case.make()
    recorded = trace(model, *batch)
    if recorded.find_nonfinite(*batch) is not None:
        raise ValueError(f"{case.name}: it is not finite on the recorded batch either")
    return recorded.find_nonfinite(*spoil())


def is_right(case: Case, found: Nonfinite | None) -> bool:
    """Whether it is what is to blame."""
    if found is None or found.kind != case.kind:
        return False
    if case.kind != "op":
        return found.name == case.named
    name = found.op.rpartition(".")[2].strip("_")
    return (name, found.module) == (case.named, case.module)


def main(arguments: Sequence[str]) -> int:
    """Runs all cases; the exit status is 1 if a wrong one is named as certain."""
    right = certain = wrong = 0
    for case in CASES:
        found = found_in(case)
        is_good = is_right(case, found)
        right += is_good
        certain += is_good and found is not None and found.is_certain
        is_lie = not is_good and found is not None and found.is_certain
        wrong += is_lie
        if not is_good or "--all" in arguments:
            print(f"{'right' if is_good else 'WRONG'} {case.name}: {found}")
    print(f"{right} of {len(CASES)} named rightly, {certain} of them as certain")
    print(f"{wrong} wrong ones named as certain")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
