"""Fake quantisation as pairs of QuantizeLinear and DequantizeLinear.

See `modelviz_callbacks.writers.onnx.replacements.table`. ONNX quantises to whole bytes: a narrower
range is cut out of these in between.
"""

from __future__ import annotations

from typing import Any

import torch

# The arguments of ``torch.fused_moving_avg_obs_fake_quant`` after the tensor itself.
_FUSED = (
    "observer_on",
    "fake_quant_on",
    "running_min",
    "running_max",
    "scale",
    "zero_point",
    "averaging_const",
    "quant_min",
    "quant_max",
    "ch_axis",
    "per_row_fake_quant",
    "symmetric_quant",
)

# Ranges of a byte, and the types that have them.
_BYTES = ((0, 255, torch.uint8), (-128, 127, torch.int8))


def fake_quantize_per_tensor(
    input: torch.Tensor, scale: Any, zero_point: Any, quant_min: int, quant_max: int
) -> torch.Tensor:
    """What ``torch.fake_quantize_per_tensor_affine`` gives.

    Raises:
        NotImplementedError: The range is none of a byte's.
    """
    scale, zero_point = torch.as_tensor(scale), torch.as_tensor(zero_point)
    given = scale.reshape(()), zero_point.reshape(())
    return _pair(input, *given, {}, (quant_min, quant_max))


def fake_quantize_per_channel(
    input: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor,
    axis: int,
    quant_min: int,
    quant_max: int,
) -> torch.Tensor:
    """What ``torch.fake_quantize_per_channel_affine`` gives.

    Raises:
        NotImplementedError: The range is none of a byte's.
    """
    attributes = {"axis": axis % input.dim()}
    return _pair(input, scale, zero_point, attributes, (quant_min, quant_max))


def fused_fake_quantize(input: torch.Tensor, *others: Any, **named: Any) -> torch.Tensor:
    """What ``torch.fused_moving_avg_obs_fake_quant`` gives once nothing is observed any more."""
    given = {**dict(zip(_FUSED, others, strict=False)), **named}
    scale, zero_point = given["scale"], given["zero_point"]
    ends = given["quant_min"], given["quant_max"]
    if given.get("per_row_fake_quant", False):
        return fake_quantize_per_channel(input, scale, zero_point, given["ch_axis"], *ends)
    return fake_quantize_per_tensor(input, scale, zero_point, *ends)


def _pair(
    input: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor,
    attributes: dict[str, Any],
    ends: tuple[int, int],
) -> torch.Tensor:
    least, most = ends
    dtype = next((kind for low, high, kind in _BYTES if low <= least and most <= high), None)
    if dtype is None:
        raise NotImplementedError(f"fake quantisation to {least} … {most}")
    shape = tuple(input.shape)
    scale, zero_point = scale.to(torch.float32), zero_point.to(dtype)
    quantised = torch.onnx.ops.symbolic(
        "QuantizeLinear",
        (input.to(torch.float32), scale, zero_point),
        attributes,
        dtype=dtype,
        shape=shape,
    )
    if (least, most, dtype) not in _BYTES:
        quantised = quantised.clamp(least, most)
    found = torch.onnx.ops.symbolic(
        "DequantizeLinear",
        (quantised, scale, zero_point),
        attributes,
        dtype=torch.float32,
        shape=shape,
    )
    return found.to(input.dtype)
