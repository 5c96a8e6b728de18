"""Models and convolutions of torch_geometric on small graphs."""

from __future__ import annotations

from typing import Any

import torch
import torch_geometric.nn as geometric
from torch import nn
from torch_geometric.data import Batch, Data, HeteroData

from tests.zoo.cases import Built, Case, Shelf

_FEATURES, _NODES = 4, 6
_EDGES = torch.tensor([[0, 1, 2, 3, 4, 5, 0, 2, 4], [1, 2, 3, 4, 5, 0, 3, 5, 1]])

shelf = Shelf("torch_geometric")


class Network(nn.Module):
    """Two layers of one kind of convolution, and a head."""

    def __init__(self, first: nn.Module, width: int, takes_weights: bool = False) -> None:
        super().__init__()
        self.conv = first
        self.norm = geometric.BatchNorm(width)
        self.head = nn.Linear(width, 3)
        self.takes_weights = takes_weights

    def forward(
        self, x: torch.Tensor, edge_index: torch.Tensor, edge_weight: torch.Tensor
    ) -> torch.Tensor:
        more = (edge_weight,) if self.takes_weights else ()
        h = self.norm(self.conv(x, edge_index, *more)).relu()
        return nn.functional.cross_entropy(self.head(h), torch.arange(len(x)) % 3)


def _mlp(*sizes: int) -> nn.Module:
    return nn.Sequential(nn.Linear(sizes[0], sizes[1]), nn.ReLU(), nn.Linear(sizes[1], sizes[-1]))


# Name: how it is made, width of its result, whether it takes weights of the edges.
_CONVOLUTIONS: dict[str, tuple[Any, int, bool]] = {
    "GCNConv": (lambda: geometric.GCNConv(4, 5), 5, True),
    "SAGEConv": (lambda: geometric.SAGEConv(4, 5), 5, False),
    "SAGEConv_lstm": (lambda: geometric.SAGEConv(4, 5, aggr="max", project=True), 5, False),
    "GATConv": (lambda: geometric.GATConv(4, 5, heads=2, dropout=0.2), 10, False),
    "GATv2Conv": (lambda: geometric.GATv2Conv(4, 5, heads=2, concat=False), 5, False),
    "TransformerConv": (lambda: geometric.TransformerConv(4, 5, heads=2, beta=True), 10, False),
    "GINConv": (lambda: geometric.GINConv(_mlp(4, 6, 5), train_eps=True), 5, False),
    "ChebConv": (lambda: geometric.ChebConv(4, 5, K=3), 5, True),
    "GraphConv": (lambda: geometric.GraphConv(4, 5), 5, True),
    "TAGConv": (lambda: geometric.TAGConv(4, 5), 5, True),
    "ARMAConv": (lambda: geometric.ARMAConv(4, 5, num_stacks=2), 5, True),
    "SGConv": (lambda: geometric.SGConv(4, 5, K=2), 5, True),
    "APPNP": (lambda: geometric.APPNP(K=3, alpha=0.1, dropout=0.2), 4, True),
    "GatedGraphConv": (lambda: geometric.GatedGraphConv(5, 2), 5, True),
    "PNAConv": (
        lambda: geometric.PNAConv(
            4, 5, ["mean", "max", "std"], ["identity", "amplification"], torch.tensor([0, 3, 3])
        ),
        5,
        False,
    ),
    "EdgeConv": (lambda: geometric.EdgeConv(_mlp(8, 6, 5), aggr="max"), 5, False),
    "LEConv": (lambda: geometric.LEConv(4, 5), 5, True),
    "SuperGATConv": (lambda: geometric.SuperGATConv(4, 5, heads=2), 10, False),
    "ClusterGCNConv": (lambda: geometric.ClusterGCNConv(4, 5), 5, False),
    "FiLMConv": (lambda: geometric.FiLMConv(4, 5), 5, False),
    "GENConv": (lambda: geometric.GENConv(4, 5, learn_t=True), 5, False),
}


def _convolution_case(name: str) -> Case:
    make, width, takes_weights = _CONVOLUTIONS[name]

    def build() -> Built:
        model = Network(make(), width, takes_weights)
        return model, (torch.randn(_NODES, _FEATURES), _EDGES, torch.rand(_EDGES.shape[1])), {}

    origin = f"torch_geometric.nn.{name.partition('_')[0]}"
    return Case(name, "torch_geometric", build, origin)


def _basic_model_case(name: str) -> Case:
    def build() -> Built:
        model = getattr(geometric, name)(4, 6, 2, 3, dropout=0.2, norm="batch_norm", jk="cat")
        return model, (torch.randn(_NODES, _FEATURES), _EDGES), {}

    return Case(f"{name}_model", "torch_geometric", build, f"torch_geometric.nn.models.{name}")


def _two_graphs() -> Batch:
    return Batch.from_data_list(
        [Data(x=torch.randn(size, 4), edge_index=_EDGES[:, :3]) for size in (4, 5)]
    )


@shelf.builder("torch_geometric.data: a batch of graphs as the one argument, pooled")
def graph_classifier() -> Built:
    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = geometric.GCNConv(4, 6), nn.Linear(18, 2)

        def forward(self, data: Batch) -> torch.Tensor:
            h = self.conv(data.x, data.edge_index).relu()
            pools = (
                geometric.global_mean_pool,
                geometric.global_max_pool,
                geometric.global_add_pool,
            )
            return self.head(torch.cat([pool(h, data.batch) for pool in pools], -1))

    return Classifier(), (_two_graphs(),), {}


@shelf.builder("torch_geometric.nn: hierarchical pooling by top-k")
def top_k_pooling() -> Built:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.pool = geometric.GraphConv(4, 6), geometric.TopKPooling(6, ratio=0.5)

        def forward(self, x: torch.Tensor, edges: torch.Tensor, batch: torch.Tensor) -> Any:
            h = self.conv(x, edges).relu()
            h, edges, _, batch, *_ = self.pool(h, edges, None, batch)
            return geometric.global_mean_pool(h, batch), edges

    data = _two_graphs()
    return Pooled(), (data.x, data.edge_index, data.batch), {}


@shelf.builder("torch_geometric.nn: HeteroConv over two kinds of nodes")
def heterogeneous_graph() -> Built:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = geometric.HeteroConv(
                {
                    ("user", "likes", "item"): geometric.SAGEConv((4, 3), 5),
                    ("item", "liked_by", "user"): geometric.GATConv(
                        (3, 4), 5, add_self_loops=False
                    ),
                }
            )

        def forward(self, nodes: dict[str, torch.Tensor], edges: dict[Any, Any]) -> Any:
            return {name: h.relu() for name, h in self.conv(nodes, edges).items()}

    data = HeteroData()
    data["user"].x, data["item"].x = torch.randn(4, 4), torch.randn(3, 3)
    data["user", "likes", "item"].edge_index = torch.tensor([[0, 1, 3], [0, 2, 1]])
    data["item", "liked_by", "user"].edge_index = torch.tensor([[0, 2, 1], [0, 1, 3]])
    return Network(), (data.x_dict, data.edge_index_dict), {}


@shelf.builder("torch_geometric.nn.models: SchNet on a molecule, with its radius graph given")
def schnet() -> Built:
    class Energy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(10, 8)
            self.smear = geometric.models.schnet.GaussianSmearing(0.0, 5.0, 6)
            self.block = geometric.models.schnet.InteractionBlock(8, 6, 8, 5.0)

        def forward(self, kinds: torch.Tensor, places: torch.Tensor, edges: torch.Tensor) -> Any:
            distances = (places[edges[0]] - places[edges[1]]).norm(dim=-1)
            h = self.embed(kinds)
            return (h + self.block(h, edges, distances, self.smear(distances))).sum()

    return Energy(), (torch.randint(1, 9, (6,)), torch.randn(6, 3), _EDGES), {}


@shelf.builder("torch_geometric.nn.models: a variational graph autoencoder")
def variational_graph_autoencoder() -> Built:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mean, self.spread = geometric.GCNConv(4, 3), geometric.GCNConv(4, 3)

        def forward(self, x: torch.Tensor, edges: torch.Tensor) -> Any:
            return self.mean(x, edges), self.spread(x, edges)

    class Autoencoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = geometric.VGAE(Encoder())

        def forward(self, x: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
            z = self.model.encode(x, edges)
            return self.model.recon_loss(z, edges, edges.flip(0)) + self.model.kl_loss() / len(x)

    return Autoencoder(), (torch.randn(_NODES, 4), _EDGES), {}


CASES = [
    *(_convolution_case(name) for name in _CONVOLUTIONS),
    *(_basic_model_case(name) for name in ("GCN", "GraphSAGE", "GIN", "GAT", "EdgeCNN")),
    *shelf.cases,
]
