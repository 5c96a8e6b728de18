"""Every layer of torch.nn, in training mode: generated from a table of arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tests.zoo.cases import Built, Case
from tests.zoo.layer_rows import (
    SIZES,
    Row,
    labels,
    layer,
    losses,
    normal,
    pooled,
    recurrent,
    transformers,
)

# Not layers: bases of others, containers without a forward, what needs several devices.
NOT_LAYERS = frozenset({"Module", "Container", "RNNBase", "RNNCellBase"})


class Around(nn.Module):
    """Gives a layer a trained parameter in front, so that gradients pass through it."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.9))
        self.layer = layer

    def forward(self, *args: Any) -> Any:
        first, *rest = args
        if isinstance(first, torch.Tensor) and first.is_floating_point():
            first = first * self.scale
        return self.layer(first, *rest)


def _activations() -> list[Row]:
    x = normal(3, 4)
    plain = [
        "ELU",
        "SELU",
        "CELU",
        "GELU",
        "Hardshrink",
        "Hardsigmoid",
        "Hardswish",
        "Hardtanh",
        "LeakyReLU",
        "LogSigmoid",
        "Mish",
        "PReLU",
        "ReLU",
        "ReLU6",
        "RReLU",
        "Sigmoid",
        "SiLU",
        "Softplus",
        "Softshrink",
        "Softsign",
        "Tanh",
        "Tanhshrink",
        "Identity",
        "Dropout",
        "AlphaDropout",
        "FeatureAlphaDropout",
    ]
    rows = [(name, "", layer(), x) for name in plain]
    rows += [(name, "", layer(dim=1), x) for name in ("Softmax", "LogSoftmax", "Softmin", "GLU")]
    rows += [
        ("GELU", "tanh", layer("tanh"), x),
        ("PReLU", "channels", layer(4), normal(2, 4, 3)),
        ("Softmax2d", "", layer(), normal(2, 4, 3, 3)),
        ("Threshold", "", layer(0.1, 20.0), x),
        ("Hardtanh", "inplace", layer(inplace=True), x),
        ("Dropout", "inplace", layer(0.3, inplace=True), x),
    ]
    return rows + [(f"Dropout{d}d", "", layer(), normal(*SIZES[d])) for d in (1, 2, 3)]


def _convolutions() -> list[Row]:
    rows: list[Row] = []
    for d in (1, 2, 3):
        x = normal(*SIZES[d])
        rows += [
            (f"Conv{d}d", "", layer(4, 3, 3, padding=1), x),
            (f"Conv{d}d", "groups", layer(4, 8, 2, stride=2, groups=2, bias=False), x),
            (f"Conv{d}d", "same", layer(4, 4, 3, padding="same", dilation=1), x),
            (f"Conv{d}d", "circular", layer(4, 3, 3, padding=1, padding_mode="circular"), x),
            (f"ConvTranspose{d}d", "", layer(4, 3, 2, stride=2), x),
            (f"LazyConv{d}d", "", layer(3, 3), x),
            (f"LazyConvTranspose{d}d", "", layer(3, 2), x),
        ]
    rows += [
        ("Unfold", "", layer(2, stride=2), normal(2, 4, 6, 6)),
        ("Fold", "", layer((4, 4), 2, stride=2), normal(2, 8, 4)),
    ]
    return rows


def _pools() -> list[Row]:
    rows: list[Row] = []
    for d in (1, 2, 3):
        x = normal(*SIZES[d])
        rows += [
            (f"MaxPool{d}d", "", layer(2), x),
            (f"MaxPool{d}d", "indices", layer(2, return_indices=True), x),
            (f"AvgPool{d}d", "", layer(2, padding=1), x),
            (f"LPPool{d}d", "", layer(2, 2), lambda size=SIZES[d]: (torch.rand(size) + 0.1,)),
            (f"AdaptiveAvgPool{d}d", "", layer(2), x),
            (f"AdaptiveMaxPool{d}d", "", layer(2), x),
            (f"MaxUnpool{d}d", "", layer(2), lambda d=d: pooled(d)),
        ]
    for d in (2, 3):
        rows.append((f"FractionalMaxPool{d}d", "", layer(2, output_size=2), normal(*SIZES[d])))
    return rows


def _paddings() -> list[Row]:
    rows: list[Row] = []
    for d in (1, 2, 3):
        x = normal(*SIZES[d])
        rows += [(f"{kind}Pad{d}d", "", layer(1), x) for kind in ("Zero", "Reflection", "Circular")]
        rows += [
            (f"ReplicationPad{d}d", "", layer(1), x),
            (f"ConstantPad{d}d", "", layer(1, 0.5), x),
        ]
    return rows


def _norms() -> list[Row]:
    rows: list[Row] = []
    for d in (1, 2, 3):
        x = normal(*SIZES[d])
        rows += [
            (f"BatchNorm{d}d", "", layer(4), x),
            (f"BatchNorm{d}d", "cumulative", layer(4, momentum=None), x),
            (f"BatchNorm{d}d", "stateless", layer(4, affine=False, track_running_stats=False), x),
            (f"InstanceNorm{d}d", "", layer(4, affine=True), x),
            (f"InstanceNorm{d}d", "tracked", layer(4, track_running_stats=True), x),
            (f"LazyBatchNorm{d}d", "", layer(), x),
            (f"LazyInstanceNorm{d}d", "", layer(affine=True), x),
        ]
    image = normal(*SIZES[2])
    return [
        *rows,
        ("SyncBatchNorm", "", layer(4), image),
        ("GroupNorm", "", layer(2, 4), image),
        ("LayerNorm", "", layer((6, 6)), image),
        ("LayerNorm", "plain", layer(6, elementwise_affine=False), image),
        ("RMSNorm", "", layer(6), image),
        ("LocalResponseNorm", "", layer(2), image),
        ("CrossMapLRN2d", "", layer(2), image),
    ]


def _linears_and_embeddings() -> list[Row]:
    return [
        ("Linear", "", layer(4, 3), normal(2, 5, 4)),
        ("Linear", "without_bias", layer(4, 3, bias=False), normal(4)),
        ("LazyLinear", "", layer(3), normal(2, 4)),
        ("Bilinear", "", layer(4, 3, 2), lambda: (torch.randn(2, 4), torch.randn(2, 3))),
        ("Flatten", "", layer(), normal(2, 3, 4)),
        ("Unflatten", "", layer(1, (2, 2)), normal(2, 4)),
        ("Embedding", "", layer(7, 4, padding_idx=0), lambda: (labels(2, 3, classes=7),)),
        ("Embedding", "max_norm", layer(7, 4, max_norm=0.5), lambda: (labels(2, 3, classes=7),)),
        (
            "Embedding",
            "by_frequency",
            layer(7, 4, scale_grad_by_freq=True),
            lambda: (labels(2, 3, classes=7),),
        ),
        ("EmbeddingBag", "mean", layer(7, 4), lambda: (labels(2, 3, classes=7),)),
        ("EmbeddingBag", "max", layer(7, 4, mode="max"), lambda: (labels(2, 3, classes=7),)),
        (
            "EmbeddingBag",
            "offsets",
            layer(7, 4, mode="sum", include_last_offset=True),
            lambda: (labels(6, classes=7), torch.tensor([0, 2, 6]), torch.rand(6)),
        ),
        ("CosineSimilarity", "", layer(), lambda: (torch.randn(3, 4), torch.randn(3, 4))),
        ("PairwiseDistance", "", layer(), lambda: (torch.randn(3, 4), torch.randn(3, 4))),
        ("PixelShuffle", "", layer(2), normal(2, 4, 3, 3)),
        ("PixelUnshuffle", "", layer(2), normal(2, 4, 4, 4)),
        ("ChannelShuffle", "", layer(2), normal(2, 4, 3, 3)),
        ("Upsample", "", layer(scale_factor=2), normal(2, 4, 3)),
        ("Upsample", "bicubic", layer(size=(5, 5), mode="bicubic"), normal(2, 4, 3, 3)),
        ("Upsample", "trilinear", layer(size=4, mode="trilinear"), normal(1, 2, 3, 3, 3)),
        ("UpsamplingBilinear2d", "", layer(scale_factor=2), normal(2, 4, 3, 3)),
        ("UpsamplingNearest2d", "", layer(scale_factor=2), normal(2, 4, 3, 3)),
    ]


class _Holder(nn.Module):
    """Runs what a container without a forward holds."""

    def __init__(self, held: Any) -> None:
        super().__init__()
        self.held = held

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values = self.held.values() if hasattr(self.held, "values") else self.held
        for value in values:
            x = value(x) if isinstance(value, nn.Module) else x * value
        return x


def _containers() -> dict[str, Callable[[], nn.Module]]:
    return {
        "Sequential": lambda: nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.ReLU())),
        "ModuleList": lambda: _Holder(nn.ModuleList([nn.Linear(4, 4), nn.Tanh()])),
        "ModuleDict": lambda: _Holder(nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Tanh()})),
        "ParameterList": lambda: _Holder(nn.ParameterList([torch.randn(4), torch.randn(4)])),
        "ParameterDict": lambda: _Holder(nn.ParameterDict({"a": torch.randn(4)})),
        "DataParallel": lambda: nn.DataParallel(nn.Linear(4, 4)),
    }


def _layer_case(row: Row) -> Case:
    name, variant, (args, kwargs), inputs = row

    def build() -> Built:
        # Arguments that are modules or tensors are shared by all builds: copy them.
        import copy

        made = getattr(nn, name)(*copy.deepcopy(args), **copy.deepcopy(kwargs))
        return Around(made), inputs(), {}

    return Case(f"{name}_{variant}" if variant else name, "torch.nn", build, f"torch.nn.{name}")


def _container_case(name: str, make: Callable[[], nn.Module]) -> Case:
    return Case(
        name, "torch.nn", lambda: (Around(make()), (torch.randn(3, 4),), {}), f"torch.nn.{name}"
    )


CASES = [
    _layer_case(row)
    for rows in (
        _activations,
        _convolutions,
        _pools,
        _paddings,
        _norms,
        _linears_and_embeddings,
        recurrent,
        transformers,
        losses,
    )
    for row in rows()
] + [_container_case(name, make) for name, make in _containers().items()]
