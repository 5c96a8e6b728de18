"""What recording costs, beside the floor and beside its peers, in one run.

Four questions, each answered by a table:

1. On a model of thousands of tiny ops, where only overhead counts: microseconds an op over the
   plain forward, for the floor (an empty mode and empty hooks), for recording, and for all else
   that is done in the training process (arming, disarming, handing over to the worker).
2. How the cost and the memory grow from 1,000 to 100,000 ops, also where one tensor is written
   to again and again.
3. How much longer the first training step of a compute-bound model takes, and the one after.
4. What ``SummaryWriter.add_graph``, torchview, torchlens and torch.export take on the model of 1.

What is added to a plain forward is taken within each round, and the middle of all rounds is told:
the least times of two series come from different moments, and of a small difference they say little
(the floor's changed by a third from run to run). The peers' are the least of two runs. How 3. is
measured is in ``benchmarks/training_steps.py``. Run it with ``make bench``; ``--quick`` leaves the
largest sizes out, ``--system-memory`` the settings of `keep_memory`.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import tempfile
import time
import tracemalloc
import warnings
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as module_hooks
from torch.overrides import TorchFunctionMode

from benchmarks.measuring import end_worker, keep_memory, seconds
from benchmarks.training_steps import print_steps
from modelviz_callbacks.options import make_options
from modelviz_callbacks.run import Run
from modelviz_callbacks.tracing import Capture

OPS_A_LAYER = 3


class TinyOps(nn.Module):
    """A linear layer, a tanh and an addition on 2×4 numbers, again and again."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x)) + x
        return x


class Written(nn.Module):
    """A tensor and a buffer that are written to again and again."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.layers = layers
        self.register_buffer("total", torch.zeros(2, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = x + 1
        for _ in range(self.layers):
            h.add_(1).tanh_()
            self.total.add_(1)
        return h


class EmptyMode(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **kwargs) if kwargs else func(*args)


def floor(model: nn.Module, x: torch.Tensor) -> float:
    """One forward under an empty mode and empty global hooks."""
    before = module_hooks.register_module_forward_pre_hook(lambda *_: None)
    after = module_hooks.register_module_forward_hook(
        lambda *_: None, with_kwargs=True, always_call=True
    )
    try:
        with EmptyMode():
            return seconds(lambda: model(x))
    finally:
        before.remove()
        after.remove()
        module_hooks._global_forward_hooks_with_kwargs.pop(after.id, None)


def recorded(model: nn.Module, x: torch.Tensor) -> tuple[float, float, Capture, Any]:
    """Seconds of the forward and of arming and disarming around it, and what was recorded."""
    gc.collect()
    start = time.perf_counter()
    capture = Capture(model, keeps_state=False)  # as a hook does without `onnx_weights`
    capture.start((x,), {})
    try:
        began = time.perf_counter()
        result = model(x)
        ended = time.perf_counter()
    finally:
        capture.stop()
    return ended - began, began - start + time.perf_counter() - ended, capture, result


def handed_over(capture: Capture, result: Any) -> float:
    """Seconds of all that the training process does once the forward is recorded."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        training_run = Run(make_options(dirpath=folder, mlflow=False), "TinyOps")
        training_run.get_ready()
        took = seconds(lambda: training_run.captured(capture.finish(result)))
        end_worker()
    return took


def op_bound(
    layers: int, rounds: int, kind: Callable[[int], nn.Module] = TinyOps
) -> dict[str, float]:
    """Microseconds an op; those of the floor and of recording are what they add to the plain."""
    model, x, ops = kind(layers), torch.randn(2, 4), layers * OPS_A_LAYER
    found: dict[str, list[float]] = {"plain": [], "floor": [], "record": [], "after": []}
    for _ in range(rounds):
        plain = seconds(lambda: model(x))
        found["plain"].append(plain)
        found["floor"].append(floor(model, x) - plain)
        took, around, capture, result = recorded(model, x)
        found["record"].append(took - plain)
        found["after"].append(around + handed_over(capture, result))
    return {name: median(values) / ops * 1e6 for name, values in found.items()}


def peers(layers: int) -> dict[str, float]:
    """Microseconds an op of the other tools, on the same kind of model."""
    ops, x = layers * OPS_A_LAYER, torch.randn(2, 4)
    found = {}
    for name, run in (
        ("add_graph", _add_graph),
        ("torchview", _torchview),
        ("torchlens", _torchlens),
        ("torch.export", _export),
    ):
        model = TinyOps(layers)
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run(TinyOps(2), x)  # what it imports and sets up once
            found[name] = min(seconds(lambda: run(model, x)) for _ in range(2)) / ops * 1e6  # noqa: B023
    return found


def _add_graph(model: nn.Module, x: torch.Tensor) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with tempfile.TemporaryDirectory() as folder, SummaryWriter(folder) as writer:
        writer.add_graph(model, x)


def _torchview(model: nn.Module, x: torch.Tensor) -> None:
    from torchview import draw_graph

    draw_graph(model, input_data=x, mode="train", device="cpu")


def _torchlens(model: nn.Module, x: torch.Tensor) -> None:
    import torchlens

    trace = getattr(torchlens, "log_forward_pass", None) or torchlens.trace
    trace(model, x)


def _export(model: nn.Module, x: torch.Tensor) -> None:
    torch.export.export(model, (x,), strict=False)


def memory(layers: int, kind: Callable[[int], nn.Module]) -> tuple[float, float]:
    """Python memory a recorded op takes, in bytes, and the plain forward's share of it."""
    model, x = kind(layers), torch.randn(2, 4)
    model(x)
    gc.collect()
    tracemalloc.start()
    result = model(x)
    plain = tracemalloc.get_traced_memory()[1]
    del result
    gc.collect()
    tracemalloc.reset_peak()
    start = tracemalloc.get_traced_memory()[0]
    _, _, capture, result = recorded(model, x)
    peak = tracemalloc.get_traced_memory()[1] - start
    tracemalloc.stop()
    del capture, result
    ops = layers * OPS_A_LAYER
    return (peak - plain) / ops, plain / ops


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="leave the largest sizes out")
    parser.add_argument("--system-memory", action="store_true", help="let memory be given back")
    given = parser.parse_args()
    quick = given.quick
    if not given.system_memory:
        keep_memory()
    all_threads = torch.get_num_threads()
    torch.set_num_threads(1)

    print("Microseconds an op on 3,000 tiny ops")
    ours = op_bound(1000, 5 if quick else 40)
    print(f"  plain forward            {ours['plain']:9.2f}")
    print(f"  floor, over plain        {ours['floor']:9.2f}")
    print(
        f"  recording, over plain    {ours['record']:9.2f}"
        f"   {ours['record'] / ours['floor']:.1f} × the floor"
    )
    print(f"  else in this process     {ours['after']:9.2f}")
    print("Growth: microseconds an op (recording over plain, all else) and bytes an op")
    for kind in (TinyOps, Written):
        for layers in (333, 3_333) if quick else (333, 3_333, 33_333):
            grown = op_bound(layers, 5 if layers < 10_000 else 2, kind)
            used, _ = memory(layers, kind)
            print(
                f"  {kind.__name__:8s} {layers * OPS_A_LAYER:7,d} ops   "
                f"{grown['record']:7.2f} {grown['after']:8.2f} {used:9.0f}"
            )

    print_steps(all_threads, 4 if quick else 40)
    torch.set_num_threads(1)

    # Last: torchlens puts wrappers around torch's functions, which stay.
    layers = 100 if quick else 1000
    print(f"Peers on {layers * OPS_A_LAYER:,d} tiny ops, microseconds an op")
    total = ours["record"] + ours["after"]
    for name, cost in peers(layers).items():
        print(
            f"  {name:24s} {cost:9.2f}   {cost / ours['record']:.0f} × recording, "
            f"{cost / total:.0f} × all of ours"
        )


if __name__ == "__main__":
    main()
