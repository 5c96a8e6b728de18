"""FLOPs, times and memory of three models beside what other tools say of them.

ResNet-50, BERT-base and GPT-2 small, in the sizes of a line below, forward and backward on the CPU.
Beside ours: torchinfo (mult-adds, memory of outputs), torch.profiler with ``with_flops`` and with
the CPU allocator's count, and fvcore; each that is installed, for the versions see what is printed.
A tool that fails on a model has its error in the place of the figure.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from benchmarks.memory_accuracy import measure
from modelviz_callbacks import trace
from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.tracing.steps.step_timer import StepTimer
from modelviz_callbacks.tracing.steps.step_times import op_times

_GIGA, _MIB = 1e9, 2**20


class Model(NamedTuple):
    """A model, and what makes its input and a number of its output."""

    name: str
    make: Callable[[], nn.Module]
    make_input: Callable[[], torch.Tensor]


class LastState(nn.Module):
    """A transformer of which the first output is wanted."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.inner(tokens)[0]
        return found


class Bottleneck(nn.Module):
    """ResNet's block of three convolutions."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        after = 4 * width
        self.conv1, self.bn1 = nn.Conv2d(before, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, after, 1, bias=False), nn.BatchNorm2d(after)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or before != after:
            self.downsample = nn.Sequential(
                nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(x)) + shortcut)


def resnet50() -> nn.Module:
    """ResNet-50 as torchvision has it (25,557,032 parameters)."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)]
    layers += [nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    before = 64
    for width, count, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for number in range(count):
            layers.append(Bottleneck(before, width, stride if number == 0 else 1))
            before = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 1000))


def models() -> tuple[Model, ...]:
    """The three models."""
    from transformers import BertConfig, BertModel, GPT2Config, GPT2Model

    def bert() -> nn.Module:
        return LastState(BertModel(BertConfig(), add_pooling_layer=False))

    def gpt2() -> nn.Module:
        return LastState(GPT2Model(GPT2Config(use_cache=False)))

    def tokens() -> torch.Tensor:
        return torch.randint(0, 30_000, (1, 128))

    return (
        Model("ResNet-50, 1×3×224×224", resnet50, lambda: torch.randn(1, 3, 224, 224)),
        Model("BERT-base, 1×128 tokens", bert, tokens),
        Model("GPT-2 small, 1×128 tokens", gpt2, tokens),
    )


def _ours(model: nn.Module, x: torch.Tensor) -> dict[str, float]:
    graph = trace(model, x).graph
    total = Analysis(graph).costs.total
    model(x).sum().backward()  # what is set up at the first call
    timer = StepTimer(model)
    timer.start()
    result = model(x)
    timer.stop(result)
    result.sum().backward()
    times = op_times(timer.finish(), graph)
    return {
        "GFLOP": (total.flops or 0) / _GIGA,
        "forward ms": sum(times.times_us.values()) / 1000,
        "backward ms": sum(times.backward_us.values()) / 1000,
        "kept MiB": (total.kept_bytes or 0) / _MIB,
        "peak MiB": (total.peak_bytes or 0) / _MIB,
        "outputs MiB": total.made_bytes / _MIB,
    }


def _clock(model: nn.Module, x: torch.Tensor) -> dict[str, float]:
    start = time.perf_counter()
    result = model(x).sum()
    middle = time.perf_counter()
    result.backward()
    end = time.perf_counter()
    return {"forward ms": (middle - start) * 1000, "backward ms": (end - middle) * 1000}


def _profiler(model: nn.Module, x: torch.Tensor) -> dict[str, float]:
    with torch.profiler.profile(with_flops=True) as forward:
        result = model(x)
    with torch.profiler.profile() as backward:
        result.sum().backward()
    flops = sum(event.flops for event in forward.key_averages())
    memory = measure(model, lambda: (x.clone(),))
    return {
        "GFLOP": flops / _GIGA,
        "forward ms": sum(e.self_cpu_time_total for e in forward.key_averages()) / 1000,
        "backward ms": sum(e.self_cpu_time_total for e in backward.key_averages()) / 1000,
        "kept MiB": memory.kept / _MIB,
        "peak MiB": memory.peak / _MIB,
    }


def _torchinfo(model: nn.Module, x: torch.Tensor) -> dict[str, float]:
    summary = importlib.import_module("torchinfo").summary(
        model, input_data=x, verbose=0, mode="train"
    )
    # It counts a multiply-add as one, and doubles the outputs for the backward.
    return {
        "GFLOP": 2 * summary.total_mult_adds / _GIGA,
        "outputs MiB": summary.total_output_bytes / 2 / _MIB,
    }


def _fvcore(model: nn.Module, x: torch.Tensor) -> dict[str, float]:
    analysis = importlib.import_module("fvcore.nn").FlopCountAnalysis(model, x)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    return {"GFLOP": 2 * analysis.total() / _GIGA}  # it counts a multiply-add as one


_TOOLS: dict[str, Callable[[nn.Module, torch.Tensor], dict[str, float]]] = {
    "modelviz": _ours,
    "clock around plain calls": _clock,
    "torch.profiler": _profiler,
    "torchinfo": _torchinfo,
    "fvcore": _fvcore,
}
_COLUMNS = ("GFLOP", "forward ms", "backward ms", "kept MiB", "peak MiB", "outputs MiB")


def _version(tool: str) -> str:
    try:
        return f" {importlib.metadata.version(tool)}"
    except importlib.metadata.PackageNotFoundError:
        return ""


def _row(tool: str, model: nn.Module, x: torch.Tensor) -> str:
    try:
        found: dict[str, Any] = _TOOLS[tool](model, x)
    except Exception as error:
        return f"| {tool} | {type(error).__name__}: {error} |"
    cells = [f"{found[name]:.2f}" if name in found else "" for name in _COLUMNS]
    return f"| {tool}{_version(tool)} | " + " | ".join(cells) + " |"


def main() -> None:
    """Prints a table a model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    torch.set_num_threads(parser.parse_args().threads)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread(s)")
    for name, make, make_input in models():
        torch.manual_seed(0)
        model, x = make().train(), make_input()
        print(f"\n{name}\n\n| | {' | '.join(_COLUMNS)} |\n|---|{'---:|' * len(_COLUMNS)}")
        for tool in _TOOLS:
            print(_row(tool, model, x), flush=True)


if __name__ == "__main__":
    main()
