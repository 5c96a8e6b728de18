"""Networks whose graphs and pictures everybody knows, small enough to record in a moment."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from modelviz_callbacks import ModelGraph, trace
from modelviz_callbacks.tracing import Capture, to_graph
from modelviz_callbacks.tracing.capture.autograd_record import record_backward
from modelviz_callbacks.tracing.lowering.to_backward_graph import to_backward_graph


class ArticleCnn(nn.Module):
    """Two convolution blocks, two branches side by side, joined."""

    def __init__(self) -> None:
        super().__init__()
        self.cnn = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.mlp1 = nn.Sequential(nn.Linear(3136, 128), nn.ReLU())
        self.mlp2 = nn.Sequential(nn.Linear(3136, 128), nn.ReLU())
        self.fc = nn.Linear(256, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = self.cnn(x).flatten(1)
        return self.fc(torch.cat([self.mlp1(flat), self.mlp2(flat)], 1))


class Collecting(nn.Module):
    """A cell that runs step by step; what each step gives is stacked in the end."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.out = nn.GRUCell(4, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state, found = x.mean(1), []
        for t in range(x.shape[1]):
            state = self.cell(x[:, t], state)
            found.append(self.out(state))
        return torch.stack(found, 1)


class Block(nn.Module):
    """The basic block of a ResNet."""

    def __init__(self, inside: int, outside: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if inside != outside:
            conv = nn.Conv2d(inside, outside, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(outside))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        same = x if self.downsample is None else self.downsample(x)
        found = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(found + same)


class Bottleneck(nn.Module):
    """The block of the deeper ResNets: narrow in its middle."""

    def __init__(self, inside: int, width: int, stride: int = 1) -> None:
        super().__init__()
        outside = 4 * width
        self.conv1 = nn.Conv2d(inside, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outside, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outside)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if inside != outside:
            conv = nn.Conv2d(inside, outside, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(outside))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        same = x if self.downsample is None else self.downsample(x)
        found = self.relu(self.bn1(self.conv1(x)))
        found = self.bn3(self.conv3(self.relu(self.bn2(self.conv2(found)))))
        return self.relu(found + same)


class ResNet(nn.Module):
    """A ResNet with as many blocks as said in each of its four layers."""

    def __init__(self, *blocks: int, kind: type[Block | Bottleneck] = Block) -> None:
        super().__init__()
        wider = 4 if kind is Bottleneck else 1
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels = 64
        for number, count in enumerate(blocks):
            width = 64 << number
            stack = [kind(channels, width, 1 + (number > 0))]
            channels = wider * width
            stack += [kind(channels, width) for _ in range(count - 1)]
            self.add_module(f"layer{number + 1}", nn.Sequential(*stack))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, 10)
        self.layers = len(blocks)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for number in range(self.layers):
            x = self.get_submodule(f"layer{number + 1}")(x)
        return self.fc(torch.flatten(self.avgpool(x), 1))


class DoubleConv(nn.Sequential):
    """Two convolutions with norm and activation."""

    def __init__(self, inside: int, outside: int) -> None:
        steps: list[nn.Module] = []
        for width in (inside, outside):
            steps += [nn.Conv2d(width, outside, 3, padding=1), nn.BatchNorm2d(outside), nn.ReLU()]
        super().__init__(*steps)


class UNet(nn.Module):
    """Down and up again, with a skip connection on each level."""

    def __init__(self) -> None:
        super().__init__()
        widths = [16, 32, 64, 128]
        pairs = list(pairwise(widths))
        self.inc = DoubleConv(3, widths[0])
        self.downs = nn.ModuleList(DoubleConv(a, b) for a, b in pairs)
        self.pool = nn.MaxPool2d(2)
        self.ups = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, 2) for a, b in reversed(pairs))
        self.decoders = nn.ModuleList(DoubleConv(b, a) for a, b in reversed(pairs))
        self.out = nn.Conv2d(widths[0], 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.inc(x)
        skipped = []
        for down in self.downs:
            skipped.append(x)
            x = down(self.pool(x))
        for up, decoder in zip(self.ups, self.decoders, strict=True):
            x = decoder(torch.cat([skipped.pop(), up(x)], 1))
        return self.out(x)


class Gan(nn.Module):
    """The losses of a GAN: one discriminator, called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 784), nn.Tanh())
        self.discriminator = nn.Sequential(nn.Linear(784, 64), nn.LeakyReLU(0.2), nn.Linear(64, 1))

    def forward(self, real: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        real_score = self.discriminator(real.flatten(1))
        fake_score = self.discriminator(self.generator(noise))
        return F.softplus(-real_score).mean() + F.softplus(fake_score).mean()


class Stack(nn.Module):
    """Modules in a list, one after the other."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class Dilated(nn.Module):
    """Residual convolutions that differ in their dilation only."""

    def __init__(self, *dilations: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv1d(8, 8, 3, padding=dilation, dilation=dilation) for dilation in dilations
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for conv in self.convs:
            x = x + conv(x)
        return x


def mlp(width: int = 8) -> nn.Sequential:
    """A block that keeps the size of its input."""
    return nn.Sequential(nn.Linear(8, width), nn.GELU(), nn.Linear(width, 8))


def recorded(model: nn.Module, *inputs: torch.Tensor) -> ModelGraph:
    """The graph of one forward."""
    return trace(model, *inputs).graph


def backward_graph(model: nn.Module, *inputs: torch.Tensor) -> ModelGraph:
    """The graph of the backward pass after one forward."""
    capture = Capture(model)
    capture.start(inputs, {})
    try:
        result = model(*inputs)
    finally:
        capture.stop()
    recording = capture.finish(result)
    record = record_backward(recording)
    assert record is not None
    return to_backward_graph(record, recording, to_graph(recording))


@cache
def graph_of(name: str) -> ModelGraph:
    """The graph of a network by its name, recorded once."""
    torch.manual_seed(0)
    model, inputs = NETWORKS[name]()
    return recorded(model, *inputs)


def _bert() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        hidden_size=32,
        num_hidden_layers=12,
        num_attention_heads=4,
        intermediate_size=64,
        vocab_size=100,
    )
    return BertForSequenceClassification(config), (torch.ones(2, 8, dtype=torch.long),)


def _gpt() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        n_embd=32, n_layer=12, n_head=4, vocab_size=100, bos_token_id=0, eos_token_id=0
    )
    return GPT2LMHeadModel(config), (torch.ones(2, 8, dtype=torch.long),)


NETWORKS = {
    "article_cnn": lambda: (ArticleCnn(), (torch.zeros(64, 1, 28, 28),)),
    "resnet18": lambda: (ResNet(2, 2, 2, 2), (torch.zeros(2, 3, 64, 64),)),
    "resnet34": lambda: (ResNet(3, 4, 6, 3), (torch.zeros(2, 3, 64, 64),)),
    "resnet50": lambda: (
        ResNet(3, 4, 6, 3, kind=Bottleneck),
        (torch.zeros(2, 3, 64, 64),),
    ),
    "unet": lambda: (UNet(), (torch.zeros(2, 3, 32, 32),)),
    "gan": lambda: (Gan(), (torch.zeros(8, 1, 28, 28), torch.zeros(8, 16))),
    "bert": _bert,
    "gpt": _gpt,
}
