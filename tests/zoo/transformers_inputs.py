"""Inputs and labels for any transformers model, by the names of its forward's parameters."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch

BATCH = 2
LENGTH = 8


def inputs_for(model: torch.nn.Module, task: str, overrides: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments for a training forward.

    Args:
        model: The model; its configuration has the sizes.
        task: Which head it has, a key of `LABELS`; others get no labels.
        overrides: Keyword arguments to use instead; ``None`` leaves one out.

    Returns:
        Tensors by the names of the forward's parameters.
    """
    known = inspect.signature(model.forward).parameters
    found: dict[str, Any] = {}
    for name, make in _INPUTS.items():
        if name in known:
            found[name] = make(model.config)
    if "input_ids" not in found:
        found.pop("attention_mask", None)
    if "labels" in known and task in LABELS:
        found["labels"] = LABELS[task](model.config, found)
    for name, value in overrides.items():
        found[name] = value(model.config) if callable(value) else value
    found = {name: value for name, value in found.items() if value is not None}
    if "decoder_input_ids" in found and "labels" in found and "decoder_input_ids" not in overrides:
        del found["decoder_input_ids"]
    return found


def sizes(config: Any, *names: str, default: Any = None) -> Any:
    """The first of several fields that a configuration, or one inside it, has."""
    inside = [value for value in vars(config).values() if hasattr(value, "model_type")]
    for one in (
        config,
        *inside,
        *(deep for c in inside for deep in vars(c).values() if hasattr(deep, "model_type")),
    ):
        for name in names:
            value = getattr(one, name, None)
            if value is not None:
                return value
    return default


def token_ids(config: Any) -> torch.Tensor:
    """Ids of ordinary tokens: none that means something special to a model."""
    return torch.randint(10, 60, (BATCH, LENGTH))


def pixels(config: Any) -> torch.Tensor:
    """A batch of images."""
    size = sizes(config, "image_size", default=32)
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    return torch.randn(
        BATCH, sizes(config, "num_channels", "in_channels", "in_chans", default=3), height, width
    )


def spectrogram(config: Any) -> torch.Tensor:
    """A batch of log-mel features, time last."""
    bins = sizes(config, "num_mel_bins", "feature_size", "input_feat_per_channel", default=16)
    return torch.randn(BATCH, bins, 2 * sizes(config, "max_source_positions", default=32))


def _mask(config: Any) -> torch.Tensor:
    mask = torch.ones(BATCH, LENGTH, dtype=torch.long)
    mask[1, -2:] = 0
    return mask


_INPUTS: dict[str, Callable[[Any], Any]] = {
    "input_ids": token_ids,
    "attention_mask": _mask,
    "decoder_input_ids": token_ids,
    "pixel_values": pixels,
    "input_values": lambda config: torch.randn(BATCH, 1600),
    "input_features": spectrogram,
}


def _token_labels(config: Any, inputs: dict[str, Any]) -> torch.Tensor:
    return torch.randint(10, 60, (BATCH, LENGTH))


def _class_labels(config: Any, inputs: dict[str, Any]) -> torch.Tensor:
    return torch.randint(config.num_labels, (BATCH,))


def _pixel_labels(config: Any, inputs: dict[str, Any]) -> torch.Tensor:
    return torch.randint(config.num_labels, (BATCH, *inputs["pixel_values"].shape[-2:]))


def _ctc_labels(config: Any, inputs: dict[str, Any]) -> torch.Tensor:
    return torch.randint(5, 30, (BATCH, 2))


LABELS: dict[str, Callable[[Any, dict[str, Any]], torch.Tensor]] = {
    "causal-lm": _token_labels,
    "masked-lm": _token_labels,
    "seq2seq-lm": _token_labels,
    "speech-seq2seq": _token_labels,
    "image-text-to-text": lambda config, inputs: inputs["input_ids"].clone(),
    "sequence-classification": _class_labels,
    "token-classification": lambda config, inputs: torch.randint(
        config.num_labels, (BATCH, LENGTH)
    ),
    "image-classification": _class_labels,
    "video-classification": _class_labels,
    "audio-classification": _class_labels,
    "ctc": _ctc_labels,
    "semantic-segmentation": _pixel_labels,
}
