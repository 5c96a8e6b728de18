"""Rows of the table of layers: how they are written, and those of sequences and losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

# Sizes of the inputs by the number of spatial dimensions: batch of 2, 4 channels.
SIZES = {0: (2, 4), 1: (2, 4, 6), 2: (2, 4, 6, 6), 3: (2, 4, 4, 4, 4)}

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
Inputs = Callable[[], tuple[Any, ...]]


def layer(*args: Any, **kwargs: Any) -> Arguments:
    """Arguments of a layer's constructor."""
    return args, kwargs


def normal(*size: int) -> Inputs:
    """One input of normally distributed numbers."""
    return lambda: (torch.randn(size),)


def labels(*size: int, classes: int = 4) -> torch.Tensor:
    return torch.randint(classes, size)


def _signs(*size: int) -> torch.Tensor:
    return torch.randint(2, size) * 2.0 - 1


def pooled(dims: int) -> tuple[torch.Tensor, torch.Tensor]:
    pool = getattr(nn.functional, f"max_pool{dims}d")
    values, places = pool(torch.randn(SIZES[dims]), 2, return_indices=True)
    return values, places


# Rows: class, name of the variant, constructor's arguments, inputs.
Row = tuple[str, str, Arguments, Inputs]


def recurrent() -> list[Row]:
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


def transformers() -> list[Row]:
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


def losses() -> list[Row]:
    two = lambda: (torch.randn(3, 4), torch.randn(3, 4))  # noqa: E731
    rows: list[Row] = [
        (name, "", layer(), two) for name in ("MSELoss", "L1Loss", "SmoothL1Loss", "HuberLoss")
    ]
    rows += [
        ("MSELoss", "none", layer(reduction="none"), two),
        ("CrossEntropyLoss", "", layer(), lambda: (torch.randn(3, 4), labels(3))),
        (
            "CrossEntropyLoss",
            "weighted",
            layer(weight=torch.rand(4), label_smoothing=0.1, ignore_index=0),
            lambda: (torch.randn(3, 4, 2), labels(3, 2)),
        ),
        ("NLLLoss", "", layer(), lambda: (torch.randn(3, 4), labels(3))),
        ("NLLLoss2d", "", layer(), lambda: (torch.randn(2, 4, 3, 3), labels(2, 3, 3))),
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
        ("MultiMarginLoss", "", layer(), lambda: (torch.randn(3, 4), labels(3))),
        ("MultiLabelMarginLoss", "", layer(), lambda: (torch.randn(3, 4), labels(3, 4))),
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
            lambda: (torch.randn(5, 4), labels(5, classes=10)),
        ),
        (
            "LinearCrossEntropyLoss",
            "",
            layer(4, 5),
            lambda: (torch.randn(3, 4), labels(3, classes=5)),
        ),
    ]
    return rows
