"""Meta tensors that stand for a model's tensors while a program runs without data.

Most stand for plain arrays: they have the shape, strides and dtype of the tensor, and share
memory where the tensors do. The others stand for what is no array of numbers (sparse, nested and
quantised tensors, results nobody knows): they only carry a value from one node to the next.
"""

from __future__ import annotations

import torch

from modelviz_callbacks.graph import TensorSpec
from modelviz_callbacks.writers.onnx.exporter_internals import storage_key
from modelviz_callbacks.writers.onnx.functionalize import Layout

META = torch.device("meta")


def is_array(tensor: torch.Tensor) -> bool:
    """Whether a tensor is a plain array of numbers: strided, and of a dtype that computes."""
    return not (tensor.layout != torch.strided or tensor.is_nested or tensor.is_quantized)


def has_own_values(tensor: torch.Tensor) -> bool:
    """Whether the elements of a tensor lie in its own memory, so that they can be read there.

    Those of a subclass that computes for itself (``__torch_dispatch__``) may lie anywhere: what
    it says of its memory must not be trusted, reading there can end the process.
    """
    computes_itself = type(tensor).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__
    return not computes_itself and is_array(tensor) and not tensor.is_meta


class StandIns:
    """The stand-ins of one run."""

    def __init__(self) -> None:
        """There are none yet."""
        self._storages: dict[tuple[int, torch.dtype], torch.Tensor] = {}
        self._carriers: dict[int, torch.Tensor] = {}

    def is_carrier(self, tensor: torch.Tensor) -> bool:
        """Whether a stand-in only carries a value: nothing can be computed with it."""
        return id(tensor) in self._carriers

    def for_tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        """The stand-in of a tensor; those of tensors that share memory share it, too."""
        if not is_array(tensor):
            return self._carrier(_sizes(tensor), tensor.dtype)
        if type(tensor).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
            return torch.empty(tuple(tensor.shape), dtype=tensor.dtype, device=META)
        storage = tensor.untyped_storage()
        key = storage_key(storage), tensor.dtype
        if key not in self._storages:
            end = Layout.of(tensor).end // (2 if tensor.is_complex() else 1)
            size = max(end, storage.nbytes() // max(1, tensor.element_size()))
            self._storages[key] = torch.empty(size, dtype=tensor.dtype, device=META)
        place = (tuple(tensor.shape), tensor.stride(), tensor.storage_offset())
        return self._storages[key].as_strided(*place)

    def for_example(self, example: torch.Tensor, spec: TensorSpec | None) -> torch.Tensor:
        """The stand-in of an input.

        Args:
            example: A tensor like it; a plain one may stand for one that is not.
            spec: What the graph says of it.
        """
        if spec is not None and not _is_plain(spec):
            return self.for_spec(spec)
        if not is_array(example):
            return self._carrier(_sizes(example), example.dtype)
        return torch.empty_strided(
            example.shape, example.stride(), dtype=example.dtype, device=META
        )

    def for_spec(self, spec: TensorSpec | None) -> torch.Tensor:
        """The stand-in of a tensor of which only a description is left; ``None``: not even that."""
        dtype = None if spec is None else getattr(torch, spec.dtype, None)
        if spec is None or not isinstance(dtype, torch.dtype):
            return self._carrier(None, torch.float32)
        if not _is_plain(spec):
            return self._carrier(spec.shape, dtype)
        return torch.empty(spec.shape or (), dtype=dtype, device=META)

    def _carrier(self, shape: tuple[int, ...] | None, dtype: torch.dtype) -> torch.Tensor:
        # A quantised one as bytes: no kernel without data makes another.
        plain = torch.uint8 if str(dtype).startswith("torch.q") else dtype
        made = torch.empty(shape or (), dtype=plain, device=META)
        self._carriers[id(made)] = made
        return made


def _is_plain(spec: TensorSpec) -> bool:
    return spec.layout == "strided" and spec.shape is not None and not spec.dtype.startswith("q")


def _sizes(tensor: torch.Tensor) -> tuple[int, ...] | None:
    try:
        return tuple([int(size) for size in tensor.shape])
    except (RuntimeError, NotImplementedError, TypeError, AttributeError):
        return None  # of a nested tensor
