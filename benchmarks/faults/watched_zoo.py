"""Is a training step the same to the bit that is looked into, timed, or recorded once more?

Over the models of the tests' zoo: a plain step beside one under ``inspect_step``, under
``profile_step``, and recorded as ``watch_changes`` does it. All that can be seen after it is
compared: results, weights, gradients, optimizer states, random numbers, hooks, flags.

Run it with ``python -m benchmarks.faults.watched_zoo [--every N] [--first K]``: each N-th model
from the K-th on. The exit status is 1 if one trained otherwise.
"""

from __future__ import annotations

import argparse
import sys
import warnings

import torch

from tests.zoo.inspected import assert_untouched_by_looking
from tests.zoo.test_zoo import ALL
from tests.zoo.timed import assert_untouched_by_timing
from tests.zoo.untouched import assert_untouched

_WAYS = {
    "inspect_step": assert_untouched_by_looking,
    "profile_step": assert_untouched_by_timing,
    "watch_changes": assert_untouched,
}


def main() -> int:
    """Prints what differs, and how many models were tried."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--first", type=int, default=0)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    failed = tried = 0
    cases = ALL[given.first :: given.every]
    for case in cases:
        for way, untouched in _WAYS.items():
            try:
                untouched(case)
            except Exception as error:
                failed += 1
                what = str(error).splitlines()[0] if str(error) else type(error).__name__
                print(f"{way}: {case.family}-{case.name}: {what}", flush=True)
        tried += 1
        if tried % 25 == 0:
            print(f"{tried} of {len(cases)} models, {failed} differ", flush=True)
    print(f"{tried} models in {len(_WAYS)} ways: {failed} differ")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
