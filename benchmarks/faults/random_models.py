"""Random models train to the same bits with and without a hook.

A generator draws a model (branches, recurrence, attention, normalisation, dropout, shared and
checkpointed parts, ops in place), how it is trained (optimizer, autocast, averaged weights of two
kinds, modes of the user's own, several forwards a step, an early end), and how it is recorded. Each
is trained from the same seed with and without a hook; weights, buffers, averaged weights, losses
and the state of the random numbers must be equal to the bit, an exception must be the same, and a
recording must be there. Where trainings without one differ (checkpoints recompute an RReLU with
other numbers, now and then) a model shows nothing and is left out.

Run it with ``python -m benchmarks.faults.random_models [COUNT] [FIRST_SEED]``.
"""

from __future__ import annotations

import contextlib
import io
import random
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from modelviz_callbacks import GraphHook

COUNT = 540
# Plain trainings that are looked at before a difference is put down to the hook.
PLAIN_AGAIN = 20
WIDTH = 8
STEPS = 3


class Functions(TorchFunctionMode):
    """A mode of the user's that draws a random number now and then."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") == "relu":
            torch.rand(1)
        return func(*args, **(kwargs or {}))


class Ops(TorchDispatchMode):
    """A mode of the user's that only hands on."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class Residual(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.inner(x)


class Checkpointed(Residual):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return checkpoint(self.inner, x, use_reentrant=False)  # type: ignore[no-any-return]


class Branches(nn.Module):
    """One of two branches, chosen by the data; counts its calls in a buffer."""

    def __init__(self, left: nn.Module, right: nn.Module) -> None:
        super().__init__()
        self.left, self.right = left, right
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.left(x) if x.mean() > 0 else self.right(x)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRU(WIDTH, WIDTH, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.cell(x[:, None])[0][:, 0]  # type: ignore[no-any-return]


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(WIDTH, 2, dropout=0.1, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x[:, None], x[:, None], x[:, None])[0][:, 0]  # type: ignore[no-any-return]


class Noise(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        noisy = x + 0.1 * torch.randn_like(x) if self.training else x.clone()
        noisy[noisy > 2] = 2
        return noisy.mul_(0.9)


LEAVES: tuple[Callable[[], nn.Module], ...] = (
    lambda: nn.Linear(WIDTH, WIDTH),
    lambda: nn.BatchNorm1d(WIDTH),
    lambda: nn.LayerNorm(WIDTH),
    lambda: nn.Dropout(0.2),
    lambda: nn.ReLU(inplace=True),
    lambda: nn.utils.parametrizations.weight_norm(nn.Linear(WIDTH, WIDTH)),
    *(nn.Tanh, nn.RReLU, Recurrent, Attention, Noise),
)


def drawn(chance: random.Random, depth: int = 3) -> nn.Module:
    """A random model of vectors."""
    kind = chance.randrange(6) if depth else 0
    if kind <= 1:
        return chance.choice(LEAVES)()
    if kind == 2:
        return Residual(nn.Sequential(nn.Linear(WIDTH, WIDTH), drawn(chance, depth - 1)))
    if kind == 3:
        return Checkpointed(nn.Sequential(nn.Linear(WIDTH, WIDTH), drawn(chance, depth - 1)))
    if kind == 4:
        return Branches(drawn(chance, depth - 1), drawn(chance, depth - 1))
    parts = [drawn(chance, depth - 1) for _ in range(chance.randrange(2, 4))]
    return nn.Sequential(*parts, parts[0])  # one of them twice


def trained(seed: int, folder: Path | None) -> tuple[list[bytes], str]:
    """Trains the model of a seed.

    Args:
        seed: Says what is drawn.
        folder: Where a hook writes; ``None``: there is none.

    Returns:
        Everything that must be equal to the bit, and what the training was like.
    """
    chance = random.Random(seed)
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), drawn(chance), nn.Linear(WIDTH, 2))
    kind = chance.choice((torch.optim.SGD, torch.optim.AdamW, torch.optim.RMSprop))
    optimizer = kind(model.parameters(), lr=0.05)
    way = chance.choice(("plain", "plain", "amp", "swa", "ema", "function mode", "dispatch mode"))
    forwards = chance.choice((1, 1, 2))
    average = None
    if way in ("swa", "ema"):
        average = AveragedModel(
            model, multi_avg_fn=get_ema_multi_avg_fn() if way == "ema" else None
        )
    around: Any = contextlib.nullcontext()
    if way == "amp":
        around = torch.autocast("cpu", dtype=torch.bfloat16)
    elif way.endswith("mode"):
        around = Functions() if way == "function mode" else Ops()
    options = {"formats": ["text"], "onnx": False, "mlflow": False, "background": False}
    options["tensorboard"] = chance.random() < 0.2
    hook = None if folder is None else GraphHook(model, dirpath=folder, **options)
    losses = []
    error = ""
    try:
        for _ in range(STEPS):
            with around:
                x = torch.randn(4, WIDTH)
                loss = sum(model(x).float().square().mean() for _ in range(forwards))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
            if average is not None:
                average.update_parameters(model)
    except RuntimeError as caught:  # what was drawn may write where its backward reads
        error = str(caught)
    if hook is not None:
        hook.close()
    found = [*model.state_dict().values(), *losses, torch.get_rng_state()]
    if average is not None:
        found += average.state_dict().values()
    return [*(tensor.numpy().tobytes() for tensor in found), error.encode()], way


def faults_of(seed: int) -> tuple[list[str], str] | None:
    """What is not as it should be with the model of a seed, and how it was trained.

    Returns:
        ``None``: it trains to other bits by itself.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        warnings.catch_warnings(record=True) as caught,
        contextlib.redirect_stdout(io.StringIO()),
    ):
        warnings.simplefilter("always")
        expected, way = trained(seed, None)
        if trained(seed, None)[0] != expected:
            return None
        caught.clear()
        found, _ = trained(seed, Path(folder))
        faults = []
        if found != expected:
            if any(trained(seed, None)[0] != expected for _ in range(PLAIN_AGAIN)):
                return None
            faults.append("other bits")
        if not Path(folder, "graph.json").exists():
            faults.append("no graph")
        faults += [str(one.message) for one in caught if "modelviz" in type(one.message).__module__]
    return faults, way


def main(arguments: list[str]) -> int:
    """Tries so many models; the exit status says whether all was as it should be."""
    count, first = (*map(int, arguments), *(COUNT, 0)[len(arguments) :])
    torch.set_num_threads(1)
    ways: Counter[str] = Counter()
    bad = left_out = 0
    for seed in range(first, first + count):
        outcome = faults_of(seed)
        if outcome is None:
            left_out += 1
            continue
        faults, way = outcome
        ways[way] += 1
        bad += bool(faults)
        if faults:
            print(f"seed {seed} ({way}): {'; '.join(faults)}", flush=True)
    kinds = ", ".join(f"{number} {way}" for way, number in sorted(ways.items()))
    print(
        f"{ways.total()} random models ({kinds}); not as they should be: {bad}; "
        f"left out, since plain trainings differ: {left_out}"
    )
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
