"""Twenty models whose forwards hold memory in different ways, small enough for any machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F


class Model(NamedTuple):
    """A model and the inputs of one forward."""

    name: str
    make: Callable[[], nn.Module]
    inputs: Callable[[], tuple[torch.Tensor, ...]]


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


class Residual(nn.Module):
    """Two convolutions and a way around them, at half the size."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False)
        self.second = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(after) for _ in range(2))
        self.around = nn.Conv2d(before, after, 1, stride=2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = F.relu(self.norms[0](self.first(x)), inplace=True)
        hidden = self.norms[1](self.second(hidden))
        hidden += self.around(x)
        return F.relu(hidden, inplace=True)


class Skipping(nn.Module):
    """What is made on the way down is held until the way up."""

    def __init__(self) -> None:
        super().__init__()
        sizes = ((3, 16), (16, 32), (32, 64))
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in sizes)
        self.up = nn.ModuleList(nn.Conv2d(a + b, b, 3, padding=1) for b, a in sizes[:0:-1])
        self.head = nn.Conv2d(16, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        held = []
        for layer in self.down:
            x = F.gelu(layer(x))
            held.append(x)
            x = F.avg_pool2d(x, 2)
        x = held.pop()
        for layer in self.up:
            below = held.pop()
            x = F.interpolate(x, size=below.shape[-2:], mode="bilinear")
            x = F.gelu(layer(torch.cat([x, below], 1)))
        return self.head(x)


class Dense(nn.Module):
    """Each layer reads what all before it made, put together anew."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(64 + 32 * n, 32) for n in range(6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made = [x]
        for layer in self.layers:
            made.append(layer(torch.cat(made, -1)).relu())
        return torch.cat(made, -1)


class Autoencoder(nn.Module):
    """A sample in the middle, and the loss in the forward."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(64, 128), nn.Linear(32, 64)
        self.mean, self.spread = nn.Linear(128, 32), nn.Linear(128, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.into(x).tanh()
        mean, spread = self.mean(hidden), self.spread(hidden)
        again = self.out(mean + torch.randn_like(mean) * (spread / 2).exp())
        divergence = (1 + spread - mean.square() - spread.exp()).sum(-1)
        return F.mse_loss(again, x) - 0.5 * divergence.mean()


class Decoder(nn.Module):
    """Token by token, over what torch's own attention reads, with tied weights."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.places = nn.Embedding(200, 64), nn.Embedding(24, 64)
        self.norms = nn.ModuleList(nn.LayerNorm(64) for _ in range(4))
        self.qkv = nn.ModuleList(nn.Linear(64, 192) for _ in range(2))
        self.wide = nn.ModuleList(nn.Linear(64, 256) for _ in range(2))
        self.narrow = nn.ModuleList(nn.Linear(256, 64) for _ in range(2))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.table(tokens) + self.places(torch.arange(tokens.shape[1]))
        for n in range(2):
            q, k, v = self.qkv[n](self.norms[2 * n](x)).chunk(3, -1)
            q, k, v = (part.unflatten(-1, (4, 16)).transpose(1, 2) for part in (q, k, v))
            heads = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + heads.transpose(1, 2).flatten(2)
            x = x + self.narrow[n](F.gelu(self.wide[n](self.norms[2 * n + 1](x))))
        logits = F.linear(x, self.table.weight)
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


class Experts(nn.Module):
    """Each row goes to one of four networks, chosen by what is in it."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(64, 4)
        self.experts = nn.ModuleList(nn.Linear(64, 64) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.flatten(0, 1)
        weights, chosen = self.gate(rows).softmax(-1).max(-1)
        out = torch.zeros_like(rows)
        for number, expert in enumerate(self.experts):
            here = (chosen == number).nonzero().squeeze(-1)
            out = out.index_add(0, here, expert(rows[here]).relu() * weights[here, None])
        return out.view_as(x)


class Neighbours(nn.Module):
    """Messages along the edges of a graph, summed at its nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(128, 64) for _ in range(2))

    def forward(self, x: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        source, target = edges
        for layer in self.layers:
            messages = layer(torch.cat([x[source], x[target]], -1)).relu()
            x = x + torch.zeros_like(x).index_add_(0, target, messages)
        return x


class Frozen(nn.Module):
    """A part without gradients below one that learns."""

    def __init__(self) -> None:
        super().__init__()
        self.below = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 128), nn.GELU())
        self.head = nn.Sequential(nn.Linear(128, 32), nn.ReLU(), nn.Linear(32, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            features = self.below(x)
        return self.head(features)


class Waves(nn.Module):
    """Dilated convolutions of a sequence, with gates and a sum of all layers."""

    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Conv1d(64, 32, 1)
        self.layers = nn.ModuleList(
            nn.Conv1d(32, 64, 3, dilation=2**n, padding=2**n) for n in range(4)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x, total = self.into(x.transpose(1, 2)), 0
        for layer in self.layers:
            value, gate = layer(x).chunk(2, 1)
            x = x + value.tanh() * gate.sigmoid()
            total = total + x
        return total


class Mixing(nn.Module):
    """A Fourier transform in the place of attention."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.layer = nn.LayerNorm(64), nn.Linear(64, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(2):
            mixed = torch.fft.fft2(x, dim=(-2, -1)).real
            x = self.norm(x + mixed)
            x = x + torch.einsum("bsd,de->bse", x, self.layer.weight)
        return x


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


def _tokens() -> tuple[torch.Tensor, ...]:
    return (torch.randint(50, (8, 24)),)


def _graph() -> tuple[torch.Tensor, ...]:
    return torch.randn(96, 64), torch.randint(96, (2, 400))


def models() -> tuple[Model, ...]:
    """The models, of kinds that keep memory differently."""

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
        Model("cell step by step", Recurrent, _tokens),
        Model("GRU", lambda: nn.GRU(64, 48, batch_first=True), _words),
        Model("autocast", Half, _words),
        Model("residual", lambda: nn.Sequential(Residual(3, 32), Residual(32, 64)), _images),
        Model("skip connections", Skipping, _images),
        Model("dense connections", Dense, _words),
        Model("autoencoder with loss", Autoencoder, _words),
        Model("decoder with loss", Decoder, _tokens),
        Model("experts", Experts, _words),
        Model("graph network", Neighbours, _graph),
        Model("frozen below", Frozen, _words),
        Model("dilated convolutions", Waves, _words),
        Model("Fourier mixing", Mixing, _words),
    )
