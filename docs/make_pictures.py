"""Makes the pictures of models in docs/pictures.md: what a user gets, without any option.

The models are the tests' own networks, those of transformers with few and narrow layers, and a
translation model with attention written out as a loop. ``python docs/make_pictures.py [folder]``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

HOME = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(HOME))

from modelviz_callbacks import trace  # noqa: E402
from tests.networks import NETWORKS  # noqa: E402

LENGTH, WORDS = 12, 100


class Translation(nn.Module):
    """A GRU reads a sentence; a cell writes one, looking at all that was read at each step."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.encoder = nn.Embedding(WORDS, 16), nn.GRU(16, 16, batch_first=True)
        self.cell, self.output = nn.GRUCell(32, 16), nn.Linear(16, WORDS)

    def attend(self, state: torch.Tensor, read: torch.Tensor) -> torch.Tensor:
        """The mean of what was read, weighted by how well it goes with the state."""
        scores = torch.einsum("bd,bsd->bs", state, read)
        return torch.einsum("bs,bsd->bd", scores.softmax(-1), read)

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Scores of each word at each place of the target."""
        read, last = self.encoder(self.embedding(source))
        state, found = last[0], []
        for t in range(target.shape[1]):
            seen = torch.cat([self.embedding(target[:, t]), self.attend(state, read)], -1)
            state = self.cell(seen, state)
            found.append(self.output(state))
        return torch.stack(found, 1)


def words() -> torch.Tensor:
    """Two sentences, as numbers of words."""
    return torch.randint(0, WORDS, (2, LENGTH))


def llama() -> tuple[nn.Module, dict[str, Any]]:
    """Llama, with rotary positions and grouped heads."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=WORDS,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return LlamaForCausalLM(config), {"input_ids": words(), "labels": words()}


def mixtral() -> tuple[nn.Module, dict[str, Any]]:
    """Mixtral: four experts, of which a router takes two for each word."""
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        vocab_size=WORDS,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
    )
    return MixtralForCausalLM(config), {"input_ids": words(), "labels": words()}


def translation() -> tuple[nn.Module, dict[str, Any]]:
    """The loop of `Translation`."""
    return Translation(), {"source": words(), "target": words()}


class Writer(nn.Module):
    """A GPT-2 that writes some words with the library's own loop."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import GPT2Config, GPT2LMHeadModel

        sizes = {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 64}
        self.gpt = GPT2LMHeadModel(GPT2Config(vocab_size=WORDS, **sizes)).eval()

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """The words given and 20 more."""
        mask = torch.ones_like(ids)
        found: torch.Tensor = self.gpt.generate(
            ids, attention_mask=mask, max_new_tokens=20, do_sample=False, pad_token_id=0
        )
        return found


class Flow(nn.Module):
    """A state that follows a learned field, in four steps of Runge and Kutta."""

    def __init__(self) -> None:
        super().__init__()
        self.field = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 8))
        self.output = nn.Linear(8, 2)

    def solve(self, state: torch.Tensor, steps: int = 4) -> torch.Tensor:
        """The state after some steps."""
        for _ in range(steps):
            first = self.field(state)
            second = self.field(state + first / (2 * steps))
            state = state + second / steps
        return state

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores of two classes."""
        return self.output(self.solve(x))


class Cache(nn.Module):
    """Attention step by step, over keys and values that grow by one each time."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(16, 16) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What each place sees of those up to it."""
        keys = values = torch.zeros(len(x), 0, 16)
        found = []
        for t in range(x.shape[1]):
            now = x[:, t : t + 1]
            keys = torch.cat([keys, self.key(now)], 1)
            values = torch.cat([values, self.value(now)], 1)
            scores = self.query(now) @ keys.transpose(1, 2)
            found.append(scores.softmax(-1) @ values)
        return torch.cat(found, 1)


# Of these the backward pass is shown, too.
BACKWARD = ("article_cnn", "gan", "resnet18", "bert")
MODELS: dict[str, Callable[[], tuple[nn.Module, dict[str, Any]]]] = {
    "llama": llama,
    "mixtral": mixtral,
    "translation": translation,
    "generate": lambda: (Writer(), {"ids": words()}),
    "flow": lambda: (Flow(), {"x": torch.randn(2, 8)}),
    "cache": lambda: (Cache(), {"x": torch.randn(2, LENGTH, 16)}),
}


def main() -> None:
    """Draws each model."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else HOME / "docs/images"
    for name, make in MODELS.items():
        torch.manual_seed(0)
        model, given = make()
        trace(model, **given).save_svg(folder / f"{name}.svg")
    for name, build in NETWORKS.items():
        torch.manual_seed(0)
        network, args = build()
        found = trace(network, *args)
        found.save_svg(folder / f"{name}.svg")
        if name in BACKWARD:
            found.save_backward_svg(folder / f"{name}_backward.svg")


if __name__ == "__main__":
    main()
