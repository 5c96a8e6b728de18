"""Inputs that an exported file is tried on beside the model."""

from __future__ import annotations

import torch

Tensors = tuple[torch.Tensor, ...]


def batch_size(examples: Tensors) -> int | None:
    """The size that the first dimension of the first input has, if it has one."""
    return examples[0].shape[0] if examples and examples[0].ndim else None


class Probes:
    """Inputs of several batch sizes, made from one batch."""

    def __init__(self, examples: Tensors, recorded: Tensors | None) -> None:
        """Keeps the batch.

        Args:
            examples: Tensors of the right shapes and dtypes.
            recorded: The real inputs, if they were kept.
        """
        self._recorded = recorded
        self._examples = examples if recorded is None else recorded

    def of_size(self, size: int) -> Tensors:
        """Inputs with another batch size.

        Rows of the real inputs are repeated or left out, in their order: indices stay in range,
        lengths sorted, probabilities such. Without real inputs, they are drawn from a generator
        of our own.
        """
        batch = batch_size(self._examples)
        if self._recorded is None:
            generator = torch.Generator().manual_seed(size)
            return tuple(_random_like(t, batch, size, generator) for t in self._examples)
        if batch is None or batch == size or not batch:
            return tuple(tensor.clone() for tensor in self._recorded)
        first = [0] * max(0, size - batch)
        rows = torch.tensor([*first, *range(size - len(first))])
        return tuple(
            tensor.index_select(0, rows.to(tensor.device))
            if tensor.ndim and tensor.shape[0] == batch
            else tensor.clone()
            for tensor in self._recorded
        )


def _random_like(
    tensor: torch.Tensor, batch: int | None, size: int, generator: torch.Generator
) -> torch.Tensor:
    shape = list(tensor.shape)
    if shape and shape[0] == batch:
        shape[0] = size
    if tensor.is_floating_point() or tensor.is_complex():
        drawn = torch.randn(shape, dtype=tensor.dtype, generator=generator)
    else:
        # Zero and one are valid as flags, as classes and as indices into nearly any table.
        drawn = torch.randint(0, 2, shape, generator=generator).to(tensor.dtype)
    return drawn.to(tensor.device)
