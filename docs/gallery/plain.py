"""Small networks, graphs, and loops written out in Python."""

from __future__ import annotations

import random

import torch
import torch.nn.functional as F
from torch import nn

from docs.gallery.entry import Built, Entry
from docs.gallery.language import WORDS, gpt_config, words
from tests.zoo.plain_models import GraphTransformer


class Attention(nn.Module):
    """How well a state goes with each thing that was read, after Bahdanau."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.score = nn.Linear(width, 1)

    def forward(self, state: torch.Tensor, read: torch.Tensor) -> torch.Tensor:
        """The mean of what was read, weighted."""
        scores = self.score(torch.tanh(self.query(state)[:, None] + self.key(read)))
        found: torch.Tensor = (scores.softmax(1) * read).sum(1)
        return found


class Seq2Seq(nn.Module):
    """A GRU reads a sentence; a cell writes one, looking at all that was read at each step."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(WORDS, width), nn.Embedding(WORDS, width)
        self.encoder = nn.GRU(width, width, batch_first=True)
        self.attention, self.cell = Attention(width), nn.GRUCell(2 * width, width)
        self.output = nn.Linear(width, WORDS)

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Scores of each word at each place of the target."""
        read, last = self.encoder(self.source(source))
        state, found = last[0], []
        for t in range(target.shape[1]):
            context = self.attention(state, read)
            state = self.cell(torch.cat([self.target(target[:, t]), context], -1), state)
            found.append(self.output(state))
        return torch.stack(found, 1)


def gnn() -> Built:
    """A GCN on a graph of six nodes."""
    from torch_geometric.nn import GCNConv

    class Gcn(nn.Module):
        """Two convolutions on a graph, after Kipf and Welling."""

        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2 = GCNConv(8, 16), GCNConv(16, 3)

        def forward(self, x: torch.Tensor, edge_index: torch.Tensor) -> torch.Tensor:
            """Scores of three classes for each node."""
            x = F.dropout(self.conv1(x, edge_index).relu(), 0.5, self.training)
            made: torch.Tensor = self.conv2(x, edge_index)
            return made

    edges = torch.tensor([[0, 1, 2, 3, 4, 5, 0, 2, 4], [1, 2, 3, 4, 5, 0, 3, 5, 1]])
    return Gcn(), {"x": torch.randn(6, 8), "edge_index": edges}


class Repeating(nn.Module):
    """Three ops, 800 times."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8) / 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The state after 800 steps."""
        for _ in range(800):
            x = x + torch.tanh(x @ self.weight)
        return x


class Irregular(nn.Module):
    """2,000 ops in an order that no pattern explains, in functions that have names."""

    def __init__(self) -> None:
        super().__init__()
        self.start, self.end = nn.Linear(8, 8), nn.Linear(8, 2)

    def shift(self, x: torch.Tensor, other: torch.Tensor, kind: float) -> torch.Tensor:
        """Two to three ops."""
        return (x + kind * other).tanh() if kind > 0.5 else x.roll(1, -1) - other

    def gate(self, x: torch.Tensor, other: torch.Tensor, kind: float) -> torch.Tensor:
        """Two to three ops."""
        return x * torch.sigmoid(other) if kind > 0.3 else torch.exp(-(x**2)) + other

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores of two classes."""
        chance = random.Random(0)
        states = [self.start(x)]
        for _ in range(800):
            step = chance.choice([self.shift, self.gate])
            states.append(step(states[-1], chance.choice(states[-5:]), chance.random()))
        return self.end(states[-1])


class Writer(nn.Module):
    """A GPT-2 that writes some words with the library's own loop."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import GPT2LMHeadModel

        self.gpt = GPT2LMHeadModel(gpt_config(2)).eval()

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """The words given and 20 more."""
        mask = torch.ones_like(ids)
        found: torch.Tensor = self.gpt.generate(
            ids, attention_mask=mask, max_new_tokens=20, do_sample=False, pad_token_id=0
        )
        return found


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


def flow() -> Built:
    """A neural ODE, solved in four steps of Runge and Kutta."""
    from torchdiffeq import odeint

    class Field(nn.Sequential):
        """Where a state goes next; the time makes no difference."""

        def forward(self, time: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
            """The derivative of the state."""
            made: torch.Tensor = super().forward(state)
            return made

    class Flow(nn.Module):
        """A state that follows a learned field."""

        def __init__(self) -> None:
            super().__init__()
            self.field = Field(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 8))
            self.output = nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            """Scores of two classes."""
            states = odeint(self.field, x, torch.linspace(0, 1, 5), method="rk4")
            made: torch.Tensor = self.output(states[-1])
            return made

    return Flow(), {"x": torch.randn(2, 8)}


ENTRIES = (
    Entry(
        "mlp",
        "MLP",
        "layers one after the other",
        lambda: (
            nn.Sequential(
                nn.Flatten(),
                nn.Linear(784, 256),
                nn.ReLU(),
                nn.Linear(256, 64),
                nn.ReLU(),
                nn.Linear(64, 10),
            ),
            {"input": torch.rand(8, 1, 28, 28)},
        ),
    ),
    Entry(
        "gnn",
        "GNN (a GCN)",
        "nodes and edges through two graph convolutions",
        gnn,
    ),
    Entry(
        "graph_transformer",
        "graph transformer",
        "attention over all nodes, biased by how far apart they are",
        lambda: (
            GraphTransformer(),
            {
                "x": torch.randn(5, 8),
                "far": torch.randint(0, 4, (5, 5)),
                "degree": torch.tensor([1, 2, 2, 3, 1]),
            },
        ),
    ),
    Entry(
        "seq2seq",
        "attention seq2seq, 30 steps",
        "encoder; a cell that attends to all of it at each of 30 steps and hands on its state",
        lambda: (Seq2Seq(), {"source": words(), "target": words(30)}),
    ),
    Entry(
        "repeating",
        "2,400 ops that repeat",
        "one body, 800 times",
        lambda: (Repeating(), {"x": torch.randn(2, 8)}),
    ),
    Entry(
        "irregular",
        "2,000 ops without a pattern",
        "where nothing repeats: how much there is, and of what",
        lambda: (Irregular(), {"x": torch.randn(2, 8)}),
    ),
    Entry(
        "generate",
        "`generate()` of GPT-2",
        "a prompt at once, then word by word",
        lambda: (Writer(), {"ids": words()}),
    ),
    Entry(
        "cache",
        "a growing cache",
        "keys and values that grow by one at each step",
        lambda: (Cache(), {"x": torch.randn(2, 12, 16)}),
    ),
    Entry(
        "flow",
        "neural ODE, `odeint` with rk4",
        "a solver that asks the field four times a step",
        flow,
    ),
)
