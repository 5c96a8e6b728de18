"""How well the memory told of a forward agrees with what the allocator counts.

Ten models are recorded, then run once more in training mode under torch.profiler's count of the
CPU allocator. Beside each other:

1. kept: bytes alive after the forward when only autograd's graph of it is held, beside the sum
   over the ops of what they keep for the backward;
2. peak: the most that was alive while it ran, beside the highest of the graph's curve. The
   allocator also counts a kernel's own buffers (a convolution's unfolded input) and tensors that
   only a variable of the author's keeps, which the graph leaves out.

Exit status 1 if one of the first differs by more than five per cent.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from modelviz_callbacks import trace
from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.graph import ModelGraph

_MOST_OFF = 0.05


class Model(NamedTuple):
    """A model and the inputs of one forward."""

    name: str
    make: Callable[[], nn.Module]
    inputs: Callable[[], tuple[torch.Tensor, ...]]


class Measured(NamedTuple):
    """Bytes that a forward keeps for its backward, and most that it has allocated."""

    kept: int
    peak: int


class Gated(nn.Module):
    """Views, a split, an in-place op and a residual connection."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(64, 256), nn.Linear(128, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = self.into(x).chunk(2, dim=-1)
        return x + self.out(left * torch.sigmoid(right)).relu_()


class Attention(nn.Module):
    """Attention as it is written by hand, its heads views of one projection."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(64, 192), nn.Linear(64, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, 4, 16).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-1, -2) / 4).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).flatten(2))


class Recurrent(nn.Module):
    """A cell called step by step on what is looked up in a table."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.cell, self.out = (
            nn.Embedding(50, 32),
            nn.GRUCell(32, 48),
            nn.Linear(48, 50),
        )

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        state = torch.zeros(tokens.shape[0], 48)
        states = []
        for step in self.table(tokens).unbind(1):
            state = self.cell(step, state)
            states.append(state)
        return self.out(torch.stack(states, 1))


class Half(nn.Module):
    """Autocast to bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            hidden = self.layers(x)
        return hidden.float().pow(2).mean()


def _convolutions(inplace: bool) -> nn.Module:
    layers: list[nn.Module] = []
    for before, after in ((3, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after)]
        layers += [nn.ReLU(inplace=inplace), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.2), nn.Linear(64 * 16, 10))


def _images() -> tuple[torch.Tensor, ...]:
    return (torch.randn(8, 3, 32, 32),)


def _words() -> tuple[torch.Tensor, ...]:
    return (torch.randn(8, 24, 64),)


def models() -> tuple[Model, ...]:
    """The ten models, of kinds that keep memory differently."""

    def encoder() -> nn.Module:
        layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
        return nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)

    def perceptron() -> nn.Module:
        return nn.Sequential(nn.Linear(64, 128), nn.Tanh(), nn.LayerNorm(128), nn.Linear(128, 8))

    def upsampling() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2), nn.GroupNorm(2, 8), nn.SiLU(), nn.ConvTranspose2d(8, 3, 4)
        )

    return (
        Model("perceptron", perceptron, _words),
        Model("convolutions", lambda: _convolutions(False), _images),
        Model("convolutions, in place", lambda: _convolutions(True), _images),
        Model("upsampling", upsampling, _images),
        Model("encoder", encoder, _words),
        Model("attention by hand", Attention, _words),
        Model("gated, with views", Gated, _words),
        Model("cell step by step", Recurrent, lambda: (torch.randint(50, (8, 24)),)),
        Model("GRU", lambda: nn.GRU(64, 48, batch_first=True), _words),
        Model("autocast", Half, _words),
    )


def measure(model: nn.Module, make_inputs: Callable[[], tuple[torch.Tensor, ...]]) -> Measured:
    """What the allocator counts of one forward, its inputs included only where they are kept.

    Args:
        model: In training mode, on the CPU.
        make_inputs: Makes what it is called with.
    """
    model(*make_inputs())  # what is set up at the first call is no part of any other
    with torch.profiler.profile(profile_memory=True) as profile:
        inputs = make_inputs()
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
    total, most = 0, 0
    for event in sorted(found, key=lambda event: event["ts"]):
        total += event["args"]["Bytes"]
        most = max(most, total)
    return Measured(total, most - given)


def told(graph: ModelGraph) -> Measured:
    """What a graph says of the same."""
    cost = Analysis(graph).costs.total
    return Measured(cost.kept_bytes or 0, cost.peak_bytes or 0)


def main() -> int:
    """Prints the table."""
    worst, close = 0.0, 0
    print(
        f"{'model':<24}{'kept':>12}{'measured':>12}{'off':>8}{'peak':>12}{'measured':>12}{'off':>8}"
    )
    for name, make, inputs in models():
        torch.manual_seed(0)
        model = make().train()
        ours, real = told(trace(model, *inputs()).graph), measure(model, inputs)
        kept_off = ours.kept / real.kept - 1
        peak_off = ours.peak / real.peak - 1
        worst, close = max(worst, abs(kept_off)), close + (abs(peak_off) <= _MOST_OFF)
        print(
            f"{name:<24}{ours.kept:>12,}{real.kept:>12,}{kept_off:>8.1%}"
            f"{ours.peak:>12,}{real.peak:>12,}{peak_off:>8.1%}"
        )
    print(f"largest difference of what is kept: {worst:.2%}; peak within 5 % on {close} models")
    return int(worst > _MOST_OFF)


if __name__ == "__main__":
    sys.exit(main())
