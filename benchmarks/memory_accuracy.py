"""How well the memory told of a forward agrees with what the allocator counts.

Twenty models are recorded, then run once more in training mode under torch.profiler's count of
the CPU allocator. Beside each other:

1. kept: bytes alive after the forward when only autograd's graph of it is held, beside the sum
   over the ops of what they keep for the backward;
2. peak: the most that was alive while it ran, beside the highest of the graph's curve;
3. of the same peak without what a kernel allocates and frees before it returns (a convolution's
   copies, what oneDNN's products work in), of which a graph tells what follows a rule.

Exit status 1 if the first differs by more than five per cent anywhere, or the peak lies by more
outside of what is between the last two.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from benchmarks.memory_models import models
from modelviz_callbacks import trace
from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.graph import ModelGraph

_MOST_OFF = 0.05

# Ops that do nothing but allocate for the one around them.
_ALLOCATE = ("aten::empty", "aten::empty_like", "aten::empty_strided", "aten::resize_")


class Measured(NamedTuple):
    """Bytes of a forward.

    Attributes:
        kept: What it keeps for its backward.
        peak: Most that it has allocated at once.
        made: Most without what kernels allocate for themselves.
    """

    kept: int
    peak: int
    made: int


def measure(model: nn.Module, make_inputs: Callable[[], tuple[torch.Tensor, ...]]) -> Measured:
    """What the allocator counts of one forward, its inputs included only where they are kept.

    Args:
        model: In training mode, on the CPU.
        make_inputs: Makes what it is called with.
    """
    model(*_seeded(make_inputs))  # what is set up at the first call is no part of any other
    with torch.profiler.profile(profile_memory=True) as profile:
        inputs = _seeded(make_inputs)
        given = sum(tensor.untyped_storage().nbytes() for tensor in inputs)
        result = model(*inputs)
        backward = [
            tensor.grad_fn for tensor in (result if isinstance(result, tuple) else [result])
        ]
        del inputs, result
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    del backward
    found = [event for event in events if event["name"] == "[memory]"]
    found.sort(key=lambda event: event["ts"])
    kept, peak = _most(found)
    own = _kernels_own(found, [event for event in events if event.get("cat") == "cpu_op"])
    _, made = _most([event for place, event in enumerate(found) if place not in own])
    return Measured(kept, peak - given, made - given)


def _seeded(make_inputs: Callable[[], tuple[torch.Tensor, ...]]) -> tuple[torch.Tensor, ...]:
    """The same inputs each time: shapes may depend on their values."""
    torch.manual_seed(1)
    return make_inputs()


def _most(found: list[dict[str, Any]]) -> tuple[int, int]:
    """The bytes at the end of some allocations, and the most on the way."""
    total, most = 0, 0
    for event in found:
        total += event["args"]["Bytes"]
        most = max(most, total)
    return total, most


def _kernels_own(found: list[dict[str, Any]], ops: list[dict[str, Any]]) -> set[int]:
    """Which allocations are freed before the op that made them returns, and where."""
    own, waiting = set[int](), dict[int, tuple[int, float]]()
    for place, event in enumerate(found):
        at, address = event["ts"], event["args"]["Addr"]
        if event["args"]["Bytes"] > 0:
            around = [op for op in ops if op["ts"] <= at <= op["ts"] + op["dur"]]
            around = [op for op in around if op["name"] not in _ALLOCATE]
            inner = min(around, key=lambda op: op["dur"], default=None)
            waiting[address] = place, 0.0 if inner is None else inner["ts"] + inner["dur"]
        elif address in waiting:
            began, end = waiting.pop(address)
            own |= {began, place} if at <= end else set()
    return own


def told(graph: ModelGraph) -> tuple[int, int]:
    """What a graph says is kept, and is the peak."""
    cost = Analysis(graph).costs.total
    return cost.kept_bytes or 0, cost.peak_bytes or 0


def main() -> int:
    """Prints the table."""
    worst, close, count = [0.0, 0.0], 0, 0
    titles = ("kept", "measured", "off", "peak", "measured", "off", "kernels'", "off")
    print(f"{'model':<24}" + "".join(f"{title:>12}" for title in titles))
    for name, make, inputs in models():
        torch.manual_seed(0)
        model = make().train()
        (kept, peak), real = told(trace(model, *_seeded(inputs)).graph), measure(model, inputs)
        off = [kept / real.kept - 1, peak / real.peak - 1, peak / real.made - 1]
        outside = max(-off[2], off[1], 0.0)  # of what kernels have, some is known
        worst = [max(worst[0], abs(off[0])), max(worst[1], outside)]
        close, count = close + (abs(off[1]) <= _MOST_OFF), count + 1
        print(
            f"{name:<24}{kept:>12,}{real.kept:>12,}{off[0]:>12.1%}{peak:>12,}"
            f"{real.peak:>12,}{off[1]:>12.1%}{real.peak - real.made:>12,}{off[2]:>12.1%}"
        )
    print(f"peak within 5 % on {close} of {count} models")
    print(f"largest difference of what is kept: {worst[0]:.2%}; of the peak from what lies between")
    print(f"the measured ones with and without what kernels make for themselves: {worst[1]:.2%}")
    return int(max(worst) > _MOST_OFF)


if __name__ == "__main__":
    sys.exit(main())
