"""Every layer of torch.nn, in training mode: generated from a table of arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tests.zoo.cases import Built, Case

# Sizes of the inputs by the number of spatial dimensions: batch of 2, 4 channels.
_SIZES = {0: (2, 4), 1: (2, 4, 6), 2: (2, 4, 6, 6), 3: (2, 4, 4, 4, 4)}

# Not layers: bases of others, containers without a forward, what needs several devices.
NOT_LAYERS = frozenset({"Module", "Container", "RNNBase", "RNNCellBase"})

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
Inputs = Callable[[], tuple[Any, ...]]


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


def layer(*args: Any, **kwargs: Any) -> Arguments:
    """Arguments of a layer's constructor."""
    return args, kwargs


def normal(*size: int) -> Inputs:
    """One input of normally distributed numbers."""
    return lambda: (torch.randn(size),)


def _labels(*size: int, classes: int = 4) -> torch.Tensor:
    return torch.randint(classes, size)


def _signs(*size: int) -> torch.Tensor:
    return torch.randint(2, size) * 2.0 - 1


def _pooled(dims: int) -> tuple[torch.Tensor, torch.Tensor]:
    pool = getattr(nn.functional, f"max_pool{dims}d")
    values, places = pool(torch.randn(_SIZES[dims]), 2, return_indices=True)
    return values, places


# Rows: class, name of the variant, constructor's arguments, inputs.
Row = tuple[str, str, Arguments, Inputs]


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
    return rows + [(f"Dropout{d}d", "", layer(), normal(*_SIZES[d])) for d in (1, 2, 3)]


def _convolutions() -> list[Row]:
    rows: list[Row] = []
    for d in (1, 2, 3):
        x = normal(*_SIZES[d])
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
        x = normal(*_SIZES[d])
        rows += [
            (f"MaxPool{d}d", "", layer(2), x),
            (f"MaxPool{d}d", "indices", layer(2, return_indices=True), x),
            (f"AvgPool{d}d", "", layer(2, padding=1), x),
            (f"LPPool{d}d", "", layer(2, 2), lambda size=_SIZES[d]: (torch.rand(size) + 0.1,)),
            (f"AdaptiveAvgPool{d}d", "", layer(2), x),
            (f"AdaptiveMaxPool{d}d", "", layer(2), x),
            (f"MaxUnpool{d}d", "", layer(2), lambda d=d: _pooled(d)),
        ]
    for d in (2, 3):
        rows.append((f"FractionalMaxPool{d}d", "", layer(2, output_size=2), normal(*_SIZES[d])))
    return rows


def _paddings() -> list[Row]:
    rows: list[Row] = []
    for d in (1, 2, 3):
        x = normal(*_SIZES[d])
        rows += [(f"{kind}Pad{d}d", "", layer(1), x) for kind in ("Zero", "Reflection", "Circular")]
        rows += [
            (f"ReplicationPad{d}d", "", layer(1), x),
            (f"ConstantPad{d}d", "", layer(1, 0.5), x),
        ]
    return rows


def _norms() -> list[Row]:
    rows: list[Row] = []
    for d in (1, 2, 3):
        x = normal(*_SIZES[d])
        rows += [
            (f"BatchNorm{d}d", "", layer(4), x),
            (f"BatchNorm{d}d", "cumulative", layer(4, momentum=None), x),
            (f"BatchNorm{d}d", "stateless", layer(4, affine=False, track_running_stats=False), x),
            (f"InstanceNorm{d}d", "", layer(4, affine=True), x),
            (f"InstanceNorm{d}d", "tracked", layer(4, track_running_stats=True), x),
            (f"LazyBatchNorm{d}d", "", layer(), x),
            (f"LazyInstanceNorm{d}d", "", layer(affine=True), x),
        ]
    image = normal(*_SIZES[2])
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
        ("Embedding", "", layer(7, 4, padding_idx=0), lambda: (_labels(2, 3, classes=7),)),
        ("Embedding", "max_norm", layer(7, 4, max_norm=0.5), lambda: (_labels(2, 3, classes=7),)),
        (
            "Embedding",
            "by_frequency",
            layer(7, 4, scale_grad_by_freq=True),
            lambda: (_labels(2, 3, classes=7),),
        ),
        ("EmbeddingBag", "mean", layer(7, 4), lambda: (_labels(2, 3, classes=7),)),
        ("EmbeddingBag", "max", layer(7, 4, mode="max"), lambda: (_labels(2, 3, classes=7),)),
        (
            "EmbeddingBag",
            "offsets",
            layer(7, 4, mode="sum", include_last_offset=True),
            lambda: (_labels(6, classes=7), torch.tensor([0, 2, 6]), torch.rand(6)),
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


def _recurrent() -> list[Row]:
    rows: list[Row] = []
    x = normal(5, 2, 4)
    for name in ("RNN", "LSTM", "GRU"):
        rows += [
            (name, "", layer(4, 3), x),
            (name, "deep", layer(4, 3, 2, bidirectional=True, dropout=0.3, batch_first=True), x),
            (f"{name}Cell", "", layer(4, 3), normal(2, 4)),
        ]
    return [
        *rows,
        ("RNN", "relu", layer(4, 3, nonlinearity="relu"), normal(5, 4)),
        ("GRU", "given_state", layer(4, 3), lambda: (torch.randn(5, 2, 4), torch.randn(1, 2, 3))),
        (
            "LSTM",
            "projected",
            layer(4, 3, proj_size=2),
            lambda: (torch.randn(5, 2, 4), (torch.zeros(1, 2, 2), torch.ones(1, 2, 3))),
        ),
    ]


def _transformers() -> list[Row]:
    x = normal(5, 2, 4)
    both = lambda: (torch.randn(5, 2, 4), torch.randn(3, 2, 4))  # noqa: E731
    small = {"d_model": 4, "nhead": 2, "dim_feedforward": 8}
    three = lambda: tuple(torch.randn(5, 2, 4) for _ in range(3))  # noqa: E731
    return [
        ("MultiheadAttention", "", layer(4, 2, dropout=0.1), three),
        ("MultiheadAttention", "bias_kv", layer(4, 2, add_bias_kv=True, add_zero_attn=True), three),
        (
            "MultiheadAttention",
            "other_sizes",
            layer(4, 2, kdim=3, vdim=5, batch_first=True),
            lambda: (torch.randn(2, 5, 4), torch.randn(2, 6, 3), torch.randn(2, 6, 5)),
        ),
        ("TransformerEncoderLayer", "", layer(**small), x),
        ("TransformerEncoderLayer", "pre_norm", layer(**small, norm_first=True, bias=False), x),
        ("TransformerDecoderLayer", "", layer(**small), both),
        ("TransformerEncoder", "", layer(nn.TransformerEncoderLayer(**small), 2), x),
        ("TransformerDecoder", "", layer(nn.TransformerDecoderLayer(**small), 2), both),
        (
            "Transformer",
            "",
            layer(4, 2, num_encoder_layers=1, num_decoder_layers=1, dim_feedforward=8),
            both,
        ),
    ]


def _losses() -> list[Row]:
    two = lambda: (torch.randn(3, 4), torch.randn(3, 4))  # noqa: E731
    rows: list[Row] = [
        (name, "", layer(), two) for name in ("MSELoss", "L1Loss", "SmoothL1Loss", "HuberLoss")
    ]
    rows += [
        ("MSELoss", "none", layer(reduction="none"), two),
        ("CrossEntropyLoss", "", layer(), lambda: (torch.randn(3, 4), _labels(3))),
        (
            "CrossEntropyLoss",
            "weighted",
            layer(weight=torch.rand(4), label_smoothing=0.1, ignore_index=0),
            lambda: (torch.randn(3, 4, 2), _labels(3, 2)),
        ),
        ("NLLLoss", "", layer(), lambda: (torch.randn(3, 4), _labels(3))),
        ("NLLLoss2d", "", layer(), lambda: (torch.randn(2, 4, 3, 3), _labels(2, 3, 3))),
        ("BCELoss", "", layer(), lambda: (torch.rand(3, 4), torch.rand(3, 4))),
        (
            "BCEWithLogitsLoss",
            "",
            layer(pos_weight=torch.rand(4)),
            lambda: (torch.randn(3, 4), torch.rand(3, 4)),
        ),
        ("KLDivLoss", "", layer(reduction="batchmean"), two),
        ("PoissonNLLLoss", "", layer(), lambda: (torch.randn(3, 4), torch.rand(3, 4))),
        (
            "GaussianNLLLoss",
            "",
            layer(),
            lambda: (torch.randn(3, 4), torch.randn(3, 4), torch.rand(3, 4) + 0.1),
        ),
        (
            "CTCLoss",
            "",
            layer(),
            lambda: (
                torch.randn(8, 2, 5).log_softmax(-1),
                torch.randint(1, 5, (2, 3)),
                torch.tensor([8, 7]),
                torch.tensor([3, 2]),
            ),
        ),
        ("HingeEmbeddingLoss", "", layer(), lambda: (torch.randn(3, 4), _signs(3, 4))),
        ("SoftMarginLoss", "", layer(), lambda: (torch.randn(3, 4), _signs(3, 4).long())),
        (
            "MarginRankingLoss",
            "",
            layer(),
            lambda: (torch.randn(3), torch.randn(3), _signs(3)),
        ),
        (
            "CosineEmbeddingLoss",
            "",
            layer(),
            lambda: (torch.randn(3, 4), torch.randn(3, 4), _signs(3)),
        ),
        ("MultiMarginLoss", "", layer(), lambda: (torch.randn(3, 4), _labels(3))),
        ("MultiLabelMarginLoss", "", layer(), lambda: (torch.randn(3, 4), _labels(3, 4))),
        (
            "MultiLabelSoftMarginLoss",
            "",
            layer(),
            lambda: (torch.randn(3, 4), torch.randint(2, (3, 4)).float()),
        ),
        (
            "TripletMarginLoss",
            "",
            layer(swap=True),
            lambda: tuple(torch.randn(3, 4) for _ in range(3)),
        ),
        (
            "TripletMarginWithDistanceLoss",
            "",
            layer(distance_function=nn.PairwiseDistance()),
            lambda: tuple(torch.randn(3, 4) for _ in range(3)),
        ),
        (
            "AdaptiveLogSoftmaxWithLoss",
            "",
            layer(4, 10, [3, 6]),
            lambda: (torch.randn(5, 4), _labels(5, classes=10)),
        ),
        (
            "LinearCrossEntropyLoss",
            "",
            layer(4, 5),
            lambda: (torch.randn(3, 4), _labels(3, classes=5)),
        ),
    ]
    return rows


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
        _recurrent,
        _transformers,
        _losses,
    )
    for row in rows()
] + [_container_case(name, make) for name, make in _containers().items()]
