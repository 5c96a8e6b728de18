"""Models whose loss is not finite by one fault: is it the op to blame that is named?

Each model of ``nonfinite_models``, and of ``gradient_models`` whose loss is finite and whose
gradients are not, is traced on a batch on which all is well; then the harm is done
and `Trace.find_nonfinite` asked. It is counted how often the right op, input or weight is named,
and how often a wrong one is named as certain, which must never be. In models that only look as if
nothing must be found.

Run it with ``python -m benchmarks.faults.nonfinite [--all]``; half a minute. With ``--all`` it says
what was found in each.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch

from benchmarks.faults import gradient_models
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
    if case.kind not in ("op", "gradient"):
        return found.name == case.named
    name = found.op.rpartition(".")[2].strip("_")
    return (name, found.module) == (case.named, case.module)


def main(arguments: Sequence[str]) -> int:
    """Runs all cases; the exit status is 1 if a wrong one is named as certain."""
    right = certain = wrong = 0
    cases = [*CASES, *gradient_models.CASES]
    for case in cases:
        found = found_in(case)
        is_good = is_right(case, found)
        right += is_good
        certain += is_good and found is not None and found.is_certain
        is_lie = not is_good and found is not None and found.is_certain
        wrong += is_lie
        if not is_good or "--all" in arguments:
            print(f"{'right' if is_good else 'WRONG'} {case.name}: {found}")
    print(f"{right} of {len(cases)} named rightly, {certain} of them as certain")
    for case in gradient_models.HARMLESS:
        found = found_in(case)
        wrong += found is not None
        if found is not None or "--all" in arguments:
            print(f"{'right' if found is None else 'WRONG'} {case.name}: {found}")
    print(f"{wrong} wrong ones named as certain, or found where there is nothing to be found")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
