"""Architectures of the literature in plain torch, written for the zoo."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from tests.zoo.cases import Shelf

shelf = Shelf("plain")
CASES = shelf.cases
_HERE = "written for the zoo"


def _sequence() -> tuple[Any, ...]:
    return (torch.randn(2, 6, 8),)


def _places() -> tuple[Any, ...]:
    return (torch.rand(6, 2),)


@shelf.model(f"{_HERE}: selective state spaces, scanned step by step (Mamba)", _sequence)
class Mamba(nn.Module):
    def __init__(self, width: int = 8, inner: int = 12, states: int = 4, rank: int = 2) -> None:
        super().__init__()
        self.rank, self.states = rank, states
        self.norm, self.project = nn.RMSNorm(width), nn.Linear(width, 2 * inner, bias=False)
        self.mix = nn.Conv1d(inner, inner, 3, groups=inner, padding=2)
        self.select = nn.Linear(inner, rank + 2 * states, bias=False)
        self.step = nn.Linear(rank, inner)
        self.decay = nn.Parameter(torch.arange(1.0, states + 1).log().repeat(inner, 1))
        self.skip, self.out = nn.Parameter(torch.ones(inner)), nn.Linear(inner, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner, gate = self.project(self.norm(x)).chunk(2, dim=-1)
        inner = F.silu(self.mix(inner.mT)[..., : x.shape[1]].mT)
        step, into, outof = self.select(inner).split([self.rank, self.states, self.states], -1)
        step = F.softplus(self.step(step))
        keep = torch.exp(step[..., None] * -self.decay.exp())
        new = (step * inner)[..., None] * into[:, :, None]
        state, seen = torch.zeros_like(keep[:, 0]), []
        for t in range(x.shape[1]):
            state = keep[:, t] * state + new[:, t]
            seen.append((state * outof[:, t, None]).sum(-1))
        made = torch.stack(seen, 1) + inner * self.skip
        return x + self.out(made * F.silu(gate))


@shelf.model(f"{_HERE}: splines on the edges (Kolmogorov-Arnold network)")
class KolmogorovArnold(nn.Module):
    class Layer(nn.Module):
        grid: torch.Tensor

        def __init__(self, given: int, made: int, pieces: int = 4, order: int = 3) -> None:
            super().__init__()
            knots = torch.arange(-order, pieces + order + 1) * (2 / pieces) - 1
            self.register_buffer("grid", knots.expand(given, -1).contiguous())
            self.base = nn.Parameter(torch.randn(made, given) * 0.1)
            self.spline = nn.Parameter(torch.randn(made, given, pieces + order) * 0.1)
            self.order = order

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x_, grid = x[..., None], self.grid
            basis = ((x_ >= grid[:, :-1]) & (x_ < grid[:, 1:])).to(x.dtype)
            for k in range(1, self.order + 1):
                rise = (x_ - grid[:, : -k - 1]) / (grid[:, k:-1] - grid[:, : -k - 1])
                fall = (grid[:, k + 1 :] - x_) / (grid[:, k + 1 :] - grid[:, 1:-k])
                basis = rise * basis[..., :-1] + fall * basis[..., 1:]
            return F.linear(F.silu(x), self.base) + torch.einsum("nik,oik->no", basis, self.spline)

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(self.Layer(4, 5), self.Layer(5, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.layers(x.tanh())
        return made


class SpectralConvolution(nn.Module):
    """Multiplies the lowest frequencies by complex weights."""

    def __init__(self, channels: int, modes: int) -> None:
        super().__init__()
        self.modes = modes
        self.low = nn.Parameter(torch.randn(channels, channels, modes, modes, dtype=torch.cfloat))
        self.high = nn.Parameter(torch.randn(channels, channels, modes, modes, dtype=torch.cfloat))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        spectrum = torch.fft.rfft2(x)
        made = torch.zeros_like(spectrum)
        m = self.modes
        made[..., :m, :m] = torch.einsum("bixy,ioxy->boxy", spectrum[..., :m, :m], self.low)
        made[..., -m:, :m] = torch.einsum("bixy,ioxy->boxy", spectrum[..., -m:, :m], self.high)
        return torch.fft.irfft2(made, s=x.shape[-2:])


@shelf.model(f"{_HERE}: a Fourier neural operator", lambda: (torch.randn(2, 1, 8, 8),))
class FourierOperator(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.lift, self.lower = nn.Conv2d(3, width, 1), nn.Conv2d(width, 1, 1)
        self.spectral = nn.ModuleList(SpectralConvolution(width, 3) for _ in range(2))
        self.local = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        place = torch.linspace(0, 1, x.shape[-1], device=x.device)
        grid = torch.stack(torch.meshgrid(place, place, indexing="ij")).expand(len(x), -1, -1, -1)
        h = self.lift(torch.cat([x, grid], 1))
        for spectral, local in zip(self.spectral, self.local, strict=True):
            h = F.gelu(spectral(h) + local(h))
        made: torch.Tensor = self.lower(h)
        return made


@shelf.model(
    f"{_HERE}: a transformer whose attention is biased by distances in a graph",
    lambda: (torch.randn(5, 8), torch.randint(0, 4, (5, 5)), torch.tensor([1, 2, 2, 3, 1])),
)
class GraphTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.degree, self.distance = nn.Embedding(5, 8), nn.Embedding(4, 2)
        self.project, self.out = nn.Linear(8, 24), nn.Linear(8, 8)
        self.first, self.second = nn.LayerNorm(8), nn.LayerNorm(8)
        self.feed = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
        self.head = nn.Linear(8, 1)

    def forward(self, x: torch.Tensor, far: torch.Tensor, degree: torch.Tensor) -> torch.Tensor:
        x = x + self.degree(degree)
        q, k, v = self.project(self.first(x)).view(-1, 3, 2, 4).permute(1, 2, 0, 3)
        scores = q @ k.mT / math.sqrt(4) + self.distance(far).permute(2, 0, 1)
        x = x + self.out((scores.softmax(-1) @ v).transpose(0, 1).flatten(1))
        x = x + self.feed(self.second(x))
        made: torch.Tensor = self.head(x.mean(0))
        return made


@shelf.model(f"{_HERE}: linear attention with a decay, as a recurrence (RetNet, RWKV)", _sequence)
class Retention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.project, self.out = nn.Linear(8, 24, bias=False), nn.Linear(8, 8, bias=False)
        self.norm, self.decay = nn.GroupNorm(2, 8), nn.Parameter(torch.tensor([2.0, 3.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.project(x).view(*x.shape[:2], 3, 2, 4).unbind(2)
        state, made = x.new_zeros(len(x), 2, 4, 4), []
        for t in range(x.shape[1]):
            state = state * self.decay.sigmoid()[:, None, None] + torch.einsum(
                "bhd,bhe->bhde", k[:, t], v[:, t]
            )
            made.append(torch.einsum("bhd,bhde->bhe", q[:, t], state))
        y = torch.stack(made, 1).flatten(2)
        return self.out(self.norm(y.mT).mT)  # type: ignore[no-any-return]


@shelf.model(f"{_HERE}: a long convolution by Fourier transforms (S4, Hyena)", _sequence)
class LongConvolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(8, 16)
        self.filter = nn.Sequential(nn.Linear(1, 6), nn.GELU(), nn.Linear(6, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, value = self.gate(x).chunk(2, -1)
        length = x.shape[1]
        kernel = self.filter(torch.linspace(0, 1, length)[:, None])
        spectrum = torch.fft.rfft(value, 2 * length, dim=1) * torch.fft.rfft(
            kernel, 2 * length, dim=0
        )
        return gate.sigmoid() * torch.fft.irfft(spectrum, 2 * length, dim=1)[:, :length]


@shelf.model(
    f"{_HERE}: messages that turn with the molecule (E(n)-equivariant network)",
    lambda: (torch.randn(5, 4), torch.randn(5, 3)),
)
class EquivariantNetwork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.edge = nn.Sequential(nn.Linear(9, 8), nn.SiLU(), nn.Linear(8, 6), nn.SiLU())
        self.move = nn.Linear(6, 1, bias=False)
        self.node = nn.Sequential(nn.Linear(10, 8), nn.SiLU(), nn.Linear(8, 4))

    def forward(self, h: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        i, j = torch.triu_indices(len(h), len(h), 1)
        i, j = torch.cat([i, j]), torch.cat([j, i])
        apart = x[i] - x[j]
        message = self.edge(torch.cat([h[i], h[j], apart.square().sum(-1, keepdim=True)], -1))
        x = x.index_add(0, i, apart * self.move(message) / len(h))
        gathered = h.new_zeros(len(h), 6).index_add(0, i, message)
        return h + self.node(torch.cat([h, gathered], -1)), x


@shelf.model(f"{_HERE}: latents that attend to a long input (Perceiver)", _sequence)
class Perceiver(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(3, 8))
        self.cross = nn.MultiheadAttention(8, 2, batch_first=True)
        self.inner = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        latents = self.latents.expand(len(x), -1, -1)
        for _ in range(2):  # the same weights twice
            latents = latents + self.cross(latents, x, x, need_weights=False)[0]
            latents = self.inner(latents)
        return latents.mean(1)


@shelf.model(f"{_HERE}: patches and channels mixed in turn (MLP-Mixer)", _sequence)
class Mixer(nn.Module):
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.LayerNorm(8), nn.LayerNorm(8)
            self.tokens = nn.Sequential(nn.Linear(6, 12), nn.GELU(), nn.Linear(12, 6))
            self.channels = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x + self.tokens(self.one(x).mT).mT
            return x + self.channels(self.two(x))  # type: ignore[no-any-return]

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*[self.Block() for _ in range(3)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(x).mean(1)  # type: ignore[no-any-return]


@shelf.model(
    f"{_HERE}: a branch for the function and a trunk for the place (DeepONet)",
    lambda: (torch.randn(3, 10), torch.rand(7, 1)),
)
class DeepOperator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Linear(10, 8), nn.Tanh(), nn.Linear(8, 6))
        self.trunk = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 6))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, function: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        return torch.einsum("bk,pk->bp", self.branch(function), self.trunk(place)) + self.bias


@shelf.model(f"{_HERE}: the residual of a differential equation in the loss", _places)
class PhysicsInformed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, place: torch.Tensor) -> torch.Tensor:
        place = place.detach().requires_grad_()
        u = self.net(place)
        (slope,) = torch.autograd.grad(u.sum(), place, create_graph=True)
        (bend,) = torch.autograd.grad(slope[:, 0].sum(), place, create_graph=True)
        return (slope[:, 1] - 0.1 * bend[:, 0]).square().mean()


@shelf.model(f"{_HERE}: sines of sines (SIREN), over encoded places (NeRF)", _places)
class RadianceField(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(18, 8), nn.Linear(26, 8)
        self.density, self.colour = nn.Linear(8, 1), nn.Linear(8, 3)

    def forward(self, place: torch.Tensor) -> torch.Tensor:
        scaled = place[..., None] * 2.0 ** torch.arange(4)
        coded = torch.cat([place, scaled.sin().flatten(1), scaled.cos().flatten(1)], -1)
        h = torch.sin(30 * self.first(coded))
        h = torch.sin(self.second(torch.cat([h, coded], -1)))
        alpha = 1 - torch.exp(-self.density(h).relu())
        light = torch.cumprod(torch.cat([torch.ones(1, 1), 1 - alpha[:-1] + 1e-10]), 0)
        return (light * alpha * self.colour(h).sigmoid()).sum(0)


@shelf.model(f"{_HERE}: affine couplings that run both ways (RealNVP, Glow)")
class NormalizingFlow(nn.Module):
    class Coupling(nn.Module):
        mask: torch.Tensor

        def __init__(self, flip: bool) -> None:
            super().__init__()
            mask = torch.arange(4) % 2
            self.register_buffer("mask", (1 - mask if flip else mask).float())
            self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8))

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            scale, shift = self.net(x * self.mask).chunk(2, -1)
            scale = scale.tanh() * (1 - self.mask)
            return x * scale.exp() + shift * (1 - self.mask), scale.sum(-1)

    def __init__(self) -> None:
        super().__init__()
        self.steps = nn.ModuleList(self.Coupling(bool(n % 2)) for n in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        total = x.new_zeros(len(x))
        for step in self.steps:
            x, change = step(x)
            total = total + change
        prior = torch.distributions.Normal(x.new_zeros(4), x.new_ones(4))
        return -(prior.log_prob(x).sum(-1) + total).mean()  # type: ignore[no-any-return]


@shelf.model(f"{_HERE}: the nearest of learned codes, straight through (VQ-VAE)")
class VectorQuantiser(nn.Module):
    counts: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(4, 3), nn.Linear(3, 4)
        self.codes = nn.Embedding(6, 3)
        self.register_buffer("counts", torch.zeros(6))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        z = self.encode(x)
        index = torch.cdist(z, self.codes.weight).argmin(-1)
        self.counts += torch.bincount(index, minlength=6)
        code = self.codes(index)
        loss = F.mse_loss(code, z.detach()) + 0.25 * F.mse_loss(z, code.detach())
        return self.decode(z + (code - z).detach()), loss


@shelf.model(f"{_HERE}: slots that compete for the input, refined by a GRU", _sequence)
class SlotAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mean, self.spread = nn.Parameter(torch.randn(1, 1, 8)), nn.Parameter(torch.ones(8))
        self.query, self.key, self.value = (nn.Linear(8, 8, bias=False) for _ in range(3))
        self.update, self.norm = nn.GRUCell(8, 8), nn.LayerNorm(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        slots = self.mean + self.spread.abs() * torch.randn(len(x), 3, 8)
        key, value = self.key(x), self.value(x)
        for _ in range(3):
            scores = torch.einsum("bnd,bsd->bns", key, self.query(self.norm(slots))) / math.sqrt(8)
            weights = scores.softmax(-1) + 1e-8
            weights = weights / weights.sum(1, keepdim=True)
            new = torch.einsum("bns,bnd->bsd", weights, value)
            slots = self.update(new.reshape(-1, 8), slots.reshape(-1, 8)).view_as(slots)
        return slots


@shelf.model(f"{_HERE}: capsules that agree by routing", lambda: (torch.randn(2, 5, 4),))
class Capsules(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 3, 6, 4) * 0.3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        votes = torch.einsum("nkij,bnj->bnki", self.weight, x)
        logits = x.new_zeros(votes.shape[:3])
        for _ in range(3):
            pose = (logits.softmax(-1)[..., None] * votes).sum(1)
            length = pose.norm(dim=-1, keepdim=True)
            pose = length / (1 + length.square()) * pose
            logits = logits + torch.einsum("bnki,bki->bnk", votes, pose)
        return pose.norm(dim=-1)


@shelf.model(f"{_HERE}: points without an order (PointNet)", lambda: (torch.randn(2, 9, 3),))
class PointNetwork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.turn = nn.Sequential(nn.Linear(3, 8), nn.ReLU())
        self.matrix = nn.Linear(8, 9)
        self.points = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 12))
        self.head = nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        turned = self.matrix(self.turn(x).amax(1)).view(-1, 3, 3) + torch.eye(3)
        return self.head(self.points(x @ turned).amax(1)).log_softmax(-1)  # type: ignore[no-any-return]


@shelf.model(f"{_HERE}: gated dilated causal convolutions (WaveNet)", lambda: (
    torch.randn(2, 4, 16),))  # fmt: skip
class Wave(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        sizes = (1, 2, 4)
        self.gated = nn.ModuleList(nn.Conv1d(4, 8, 2, dilation=size) for size in sizes)
        self.keep = nn.ModuleList(nn.Conv1d(4, 4, 1) for _ in sizes)
        self.skip = nn.ModuleList(nn.Conv1d(4, 6, 1) for _ in sizes)
        self.out = nn.Conv1d(6, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        total: Any = 0
        for gated, keep, skip in zip(self.gated, self.keep, self.skip, strict=True):
            content, gate = gated(F.pad(x, (gated.dilation[0], 0))).chunk(2, 1)
            h = content.tanh() * gate.sigmoid()
            total = total + skip(h)
            x = x + keep(h)
        return self.out(total.relu())  # type: ignore[no-any-return]


@shelf.model(f"{_HERE}: experts of which a token takes two", _sequence)
class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.route = nn.Linear(8, 4, bias=False)
        self.up = nn.Parameter(torch.randn(4, 8, 12) * 0.2)
        self.down = nn.Parameter(torch.randn(4, 12, 8) * 0.2)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        weights, chosen = self.route(x).softmax(-1).topk(2, -1)
        share = torch.zeros(*x.shape[:2], 4).scatter(-1, chosen, weights)
        made = torch.einsum("bsd,edf->besf", x, self.up).relu()
        made = torch.einsum("besf,efd->besd", made, self.down)
        y = torch.einsum("besd,bse->bsd", made, share)
        return y, share.mean((0, 1)).square().sum() * 4


@shelf.model(f"{_HERE}: the patterns nearest to a query (modern Hopfield network)")
class Hopfield(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patterns = nn.Parameter(torch.randn(5, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(3):
            x = (2 * x @ self.patterns.T).softmax(-1) @ self.patterns
        return x


@shelf.model(f"{_HERE}: a mixture of densities as the output")
class MixtureDensity(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 8), nn.Linear(8, 9)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits, mean, spread = self.head(self.body(x).tanh()).chunk(3, -1)
        mixture = torch.distributions.MixtureSameFamily(
            torch.distributions.Categorical(logits=logits),
            torch.distributions.Normal(mean, F.softplus(spread) + 1e-3),
        )
        return -mixture.log_prob(x[:, 0]).mean()  # type: ignore[no-any-return,no-untyped-call]
