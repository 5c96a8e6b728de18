"""Hard cases of numbers: precision, random states, algorithms."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from tests.zoo.cases import Shelf

shelf = Shelf("numerics")
CASES = shelf.cases
_HERE = "written for the zoo"


class _WithLayer(nn.Module):
    """A linear layer that the cases below build on."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)


# --- precision and devices


@shelf.model("torch.amp: autocast to bfloat16 in a part of the forward")
class AutocastPart(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            h = self.fc(x)
            with torch.autocast("cpu", enabled=False):
                y = self.head(h.float())
            z = self.head(h).softmax(-1)
        return y + z, F.mse_loss(self.fc(x), x)


@shelf.builder("torch.amp: autocast to float16 around the whole forward")
def autocast_whole() -> Any:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(
                nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
            )

        @torch.autocast("cpu", dtype=torch.float16)
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.cross_entropy(self.body(x), torch.tensor([0, 2]))

    return Model(), (torch.randn(2, 1, 6, 6),), {}


@shelf.builder(f"{_HERE}: weights in bfloat16, sums in float32")
def half_precision_weights() -> Any:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4).bfloat16()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(x.bfloat16()).float().logsumexp(-1)

    return Model(), (torch.randn(3, 4),), {}


@shelf.model(f"{_HERE}: devices by context and by to()")
class MovesTensors(_WithLayer):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.device("cpu"):
            shift = torch.arange(4.0)
        sketch = torch.empty(3, 4, device="meta") * 2
        return self.fc(x.to("cpu", non_blocking=True)) + shift.to(x) + sketch.shape[0]


# --- random numbers


@shelf.model(f"{_HERE}: random numbers of every kind, in training")
class DrawsNumbers(_WithLayer):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        noise = torch.randn_like(x) + torch.rand(4) + torch.randint(0, 5, (3, 1))
        order = torch.randperm(3)
        coins = torch.bernoulli(torch.full((3, 4), 0.5)) + torch.empty(4).uniform_()
        picks = torch.multinomial(torch.ones(4), 2)
        return F.dropout(self.fc(x)[order] + noise * coins, 0.4) + picks.sum()


@shelf.builder(f"{_HERE}: random numbers from a generator of the model's own")
def draws_from_generator() -> Any:
    class Model(_WithLayer):
        def __init__(self) -> None:
            super().__init__()
            self.generator = torch.Generator().manual_seed(7)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            noise = torch.randn(x.shape, generator=self.generator)
            return self.fc(x) + noise + torch.empty(4).normal_(generator=self.generator)

    return Model(), (torch.randn(3, 4),), {}


@shelf.model(
    f"{_HERE}: the seed is set and the random state forked in the forward",
    replay="the forward sets the random state of the process",
)
class SetsSeed(_WithLayer):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(11)
            noise = torch.randn(3, 4)
        return self.fc(x) + noise + torch.rand(4)


@shelf.model("torch.distributions: a variational autoencoder")
class VariationalAutoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(4, 4), nn.Linear(2, 4)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        mean, spread = self.encoder(x).chunk(2, -1)
        posterior = torch.distributions.Normal(mean, F.softplus(spread))
        prior = torch.distributions.Normal(torch.zeros(2), torch.ones(2))
        kl = torch.distributions.kl_divergence(posterior, prior).sum(-1).mean()
        likelihood = torch.distributions.Bernoulli(logits=self.decoder(posterior.rsample()))
        return {"loss": kl - likelihood.log_prob((x > 0).float()).mean(), "kl": kl}


@shelf.model("torch.distributions: a mixture, a categorical policy, transformed samples")
class UsesDistributions(_WithLayer):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.fc(x)
        policy = torch.distributions.Categorical(logits=h)
        action = policy.sample()
        components = torch.distributions.Normal(h, torch.ones_like(h))
        mixture = torch.distributions.MixtureSameFamily(policy, components)
        positive = torch.distributions.TransformedDistribution(
            components, [torch.distributions.transforms.ExpTransform()]
        )
        scores = policy.log_prob(action) + mixture.log_prob(x[:, 0]) + policy.entropy()
        return scores + positive.rsample().mean()


@shelf.model(f"{_HERE}: Gumbel softmax, hard")
class GumbelSoftmax(_WithLayer):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.gumbel_softmax(self.fc(x), tau=0.7, hard=True) @ self.fc.weight


@shelf.model(f"{_HERE}: Python's and numpy's random numbers choose the path")
class StochasticDepth(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        import random

        import numpy

        for layer in self.layers:
            if random.random() < 0.7 and numpy.random.rand() < 0.9:
                x = x + layer(x)
        return x * 2


# --- kinds of numbers and algorithms


@shelf.model("torch.fft: Fourier layer with complex parameters")
class FourierLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, dtype=torch.complex64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        spectrum = torch.fft.rfft(x, norm="ortho") * self.weight
        both = torch.fft.fft2(x.to(torch.complex64)).abs() + torch.fft.fftshift(x)
        return torch.fft.irfft(spectrum, n=4, norm="ortho") + both


@shelf.model(f"{_HERE}: complex numbers, conjugates and parts, a complex result")
class ComplexNumbers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4, dtype=torch.complex64)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        z = self.fc(torch.complex(x, x.flip(0)))
        y = (
            torch.view_as_real(z.conj().resolve_conj()).sum(-1)
            + z.imag
            + torch.angle(z)
            + z.H.real.t()
        )
        return y, torch.polar(y, x) * z.mH.t().conj()


@shelf.model("torch.linalg: decompositions and solvers")
class LinearAlgebra(_WithLayer):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.fc(x)
        gram = h @ h.t() + torch.eye(3) * 2
        factor = torch.linalg.cholesky(gram)
        solved = torch.linalg.solve(gram, h) + torch.cholesky_solve(h, factor)
        values, vectors = torch.linalg.eigh(gram)
        q, r = torch.linalg.qr(h.t())
        spectrum = torch.linalg.svdvals(h)
        total = torch.logdet(gram) + torch.linalg.norm(q @ r) + spectrum.sum() + values.sum()
        return solved + total + torch.linalg.inv(gram) @ vectors.abs() @ h + torch.trace(gram)


@shelf.model("torch: einsum and tensordot of many forms")
class Einsum(_WithLayer):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.fc(x)
        scores = torch.einsum("i d, j d -> i j", h, x)
        outer = torch.einsum("...i,...j->...ij", h, x)
        trace = torch.einsum("bii->b", outer)
        chained = torch.linalg.multi_dot([scores, h, torch.eye(4)])
        return chained + trace[:, None] + torch.tensordot(outer, x, dims=([0, 1], [0, 1])).sum()


@shelf.model(f"{_HERE}: patches by unfold, reshape and permute, as einops writes them")
class Patches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        image = x.repeat(1, 4).reshape(1, 3, 4, 4)
        patches = image.unfold(2, 2, 2).unfold(3, 2, 2)
        patches = patches.permute(0, 2, 3, 1, 4, 5).flatten(1, 2).flatten(2)
        patches = patches.unflatten(-1, (3, 4)).mean(2)
        tokens = self.embed(patches).transpose(1, 2).contiguous().view(1, 6, 2, 2)
        return F.fold(F.unfold(tokens, 2), (2, 2), 2).squeeze(0).movedim(0, -1).swapaxes(0, 1)


@shelf.model(f"{_HERE}: gather, scatter, sort, cumulative sums, searches")
class IndexAlgorithms(_WithLayer):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.fc(x)
        values, order = h.sort(dim=1, descending=True)
        top = torch.gather(h, 1, order[:, :2])
        sums = torch.zeros(2, 4).scatter_add(0, (x[:, :1] > 0).long().expand(-1, 4), h)
        places = torch.bucketize(x, torch.linspace(-1, 1, 5))
        placed = torch.searchsorted(torch.linspace(-1, 1, 5), x)
        taken = h.take_along_dim(order, 1) + h.index_select(1, torch.tensor([3, 2, 1, 0]))
        running = values.cumsum(0).logcumsumexp(1) + h.cummax(0).values
        counts = torch.bincount(places.flatten(), minlength=8)[:4] + placed.sum()
        return (
            taken + running + top.sum() + sums.prod() + counts + h.median() + h.kthvalue(2)[0].sum()
        )


@shelf.model(f"{_HERE}: attention by hand and by scaled_dot_product_attention, with masks")
class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(4, 12)
        self.attention = nn.MultiheadAttention(4, 2, dropout=0.1, batch_first=True)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        q, k, v = self.qkv(x[None]).chunk(3, -1)
        fused = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=0.1)
        mask = torch.triu(torch.ones(3, 3, dtype=torch.bool), 1)
        by_hand = (q @ k.mT / math.sqrt(4)).masked_fill(mask, -math.inf).softmax(-1) @ v
        mixed, weights = self.attention(fused, by_hand, v, attn_mask=mask, need_weights=True)
        return mixed, weights
