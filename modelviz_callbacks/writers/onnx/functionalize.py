"""Which value a tensor has: in-place writes and views, told as values that are made once.

Tensors are meta tensors of one run; those that share a storage form one region. A tensor's
value is the one that it got when it was made, unless the region was written to through another
tensor since: then it is read from the region's memory, laid flat, with the writes put in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import torch

from modelviz_callbacks.writers.onnx.builder import GraphBuilder, Value, attributes
from modelviz_callbacks.writers.onnx.exporter_internals import storage_key

# Index tables up to this size are written into the file, larger ones are computed in it.
_SMALL = 256


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a tensor's elements lie in its storage, counted in elements.

    Complex numbers are pairs, there as in the file.

    Attributes:
        shape: Of the tensor.
        stride: Likewise.
        offset: Of its first element.
        dtype: Of its elements.
        is_turned: Whether the tensor shows the conjugates, or the negatives, of what lies there.
    """

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    dtype: torch.dtype
    is_turned: bool = False

    @staticmethod
    def of(tensor: torch.Tensor) -> Layout:
        """The layout of a strided tensor."""
        shape, stride, offset = tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset())
        is_turned = tensor.is_conj() or tensor.is_neg()
        if not tensor.is_complex():
            return Layout(shape, stride, offset, tensor.dtype, is_turned)
        steps = tuple([2 * step for step in stride])
        real = tensor.dtype.to_real()
        return Layout((*shape, 2), (*steps, 1), 2 * offset, real, is_turned)

    @property
    def end(self) -> int:
        """One more than the last place used."""
        if 0 in self.shape:
            return self.offset
        steps = zip(self.shape, self.stride, strict=True)
        return self.offset + sum((size - 1) * step for size, step in steps) + 1

    def overlaps(self, other: Layout) -> bool:
        """Whether they may have an element in common."""
        return self.offset < other.end and other.offset < self.end

    def covers(self, size: int) -> bool:
        """Whether every one of ``size`` places is used, once."""
        return self.offset == 0 and self.end == size and self.dense_order is not None

    @property
    def dense_order(self) -> list[int] | None:
        """The dimensions from outermost to innermost, if these fill their stretch of memory."""
        order = sorted(range(len(self.shape)), key=lambda d: (-self.stride[d], d))
        step = 1
        for dimension in reversed(order):
            if self.shape[dimension] != 1 and self.stride[dimension] != step:
                return None
            step *= self.shape[dimension]
        return order


@dataclass(slots=True)
class _Known:
    tensor: torch.Tensor  # kept, so that its id stays its own
    layout: Layout
    region: _Region
    value: Value
    seen: int


@dataclass(slots=True)
class _Region:
    size: int
    origin: tuple[Layout, Value]
    writes: list[tuple[Layout, Value]] = field(default_factory=list)
    flat: tuple[int, Value] | None = None


class Unreadable(Exception):
    """A tensor's memory was written to in a way that has no form in values."""


class Memory:
    """The tensors of one run."""

    def __init__(self, builder: GraphBuilder) -> None:
        """Knows none.

        Args:
            builder: Where ops are put that read and write through views.
        """
        self._builder = builder
        self._known: dict[int, _Known] = {}
        self._regions: dict[int, _Region] = {}

    def __contains__(self, tensor: torch.Tensor) -> bool:
        return id(tensor) in self._known

    def define(self, tensor: torch.Tensor, value: Value) -> None:
        """A new tensor, or one that has moved to other memory."""
        layout = Layout.of(tensor)
        storage = tensor.untyped_storage()
        key = storage_key(storage)
        if key not in self._regions:
            size = storage.nbytes() // layout.dtype.itemsize
            self._regions[key] = _Region(size, (layout, value))
        region = self._regions[key]
        if not region.writes and not region.origin[0].covers(region.size):
            region.origin = (layout, value)
        self._known[id(tensor)] = _Known(tensor, layout, region, value, len(region.writes))

    def resize(self, tensor: torch.Tensor, before: int) -> None:
        """A tensor has another size now: its memory is new, and begins as the old one did.

        Args:
            tensor: As it is now, contiguous.
            before: How many elements it had.
        """
        builder, parts = self._builder, 2 if tensor.is_complex() else 1
        size, before = parts * tensor.numel(), parts * before
        old = self._known[id(tensor)].value
        flat = self._reshaped(old, before)
        if size > before:
            zero = onnx.TensorProto(data_type=old.dtype, dims=[1])
            zero.raw_data = bytes(tensor.element_size() // parts)
            more = builder.inner("ConstantOfShape", old.dtype, (size - before,))
            sizes = self._numbers([size - before])
            builder.add("ConstantOfShape", (sizes,), (more,), attributes(value=zero))
            longer = builder.inner("Concat", old.dtype, (size,))
            builder.add("Concat", (flat, more), (longer,), attributes(axis=0))
            flat = longer
        elif size < before:
            places = self._table(np.arange(size, dtype=np.int64))
            shorter = builder.inner("Gather", old.dtype, (size,))
            builder.add("Gather", (flat, places), (shorter,), attributes(axis=0))
            flat = shorter
        shape = Layout.of(tensor).shape
        made = Value(old.dtype, shape, builder.name)
        builder.add("Reshape", (flat, self._numbers(shape)), (made,))
        self._regions.pop(storage_key(tensor.untyped_storage()), None)
        self.define(tensor, made)

    def write(self, tensor: torch.Tensor, value: Value) -> None:
        """A tensor was written to, and has this value now."""
        known = self._known[id(tensor)]
        layout = Layout.of(tensor)
        if layout != known.layout:
            self.define(tensor, value)  # its sizes were changed in place
            known = self._known[id(tensor)]
        known.region.writes.append((layout, value))
        known.value, known.seen = value, len(known.region.writes)

    def read(self, tensor: torch.Tensor) -> Value:
        """The value a tensor has now.

        Raises:
            Unreadable: See there.
        """
        known = self._known[id(tensor)]
        region = known.region
        pending = region.writes[known.seen :]
        pending = [write for write in pending if write[0].overlaps(known.layout)]
        if pending and pending[-1][0] == known.layout:
            known.value = pending[-1][1]
        elif pending:
            known.value = self._gather(region, known.layout)
        known.seen = len(region.writes)
        return known.value

    def last(self, tensor: torch.Tensor) -> Value:
        """The value a tensor had last, whatever was written since."""
        return self._known[id(tensor)].value

    def view(self, base: torch.Tensor, tensor: torch.Tensor) -> Value:
        """The value of a tensor that shows a part of another's memory.

        Args:
            base: A tensor that is known.
            tensor: One that shares its storage.

        Raises:
            Unreadable: See there.
        """
        return self._gather(self._known[id(base)].region, Layout.of(tensor))

    # --- memory laid flat

    def _gather(self, region: _Region, layout: Layout) -> Value:
        flat = self._flat(region, layout)
        builder = self._builder
        made = builder.inner("Gather", flat.dtype, layout.shape)
        builder.add("Gather", (flat, self._places(layout)), (made,), attributes(axis=0))
        return made

    def _flat(self, region: _Region, wanted: Layout) -> Value:
        kinds = {(layout.dtype, layout.is_turned) for layout, _ in (region.origin, *region.writes)}
        if kinds != {(wanted.dtype, False)} or wanted.is_turned:
            raise Unreadable("memory was written to, or is read, as another type")
        if region.flat is None:
            region.flat = 0, self._laid_flat(region, *region.origin)
        done, flat = region.flat
        for layout, value in region.writes[done:]:
            flat = self._laid_flat(region, layout, value, flat)
        region.flat = len(region.writes), flat
        return flat

    def _laid_flat(
        self, region: _Region, layout: Layout, value: Value, before: Value | None = None
    ) -> Value:
        """The region's memory with a tensor's value in it."""
        if layout.offset < 0 or layout.end > region.size:
            raise Unreadable("memory has another size now")
        builder = self._builder
        made = builder.inner("memory", value.dtype, (region.size,))
        order = layout.dense_order
        if layout.covers(region.size) and order is not None:
            if order != sorted(order):
                shape = tuple(layout.shape[d] for d in order)
                turned = builder.inner("Transpose", value.dtype, shape)
                builder.add("Transpose", (value,), (turned,), attributes(perm=order))
                value = turned
            builder.add("Reshape", (value, self._numbers([-1])), (made,))
            return made
        if before is None:
            zero = onnx.TensorProto(data_type=value.dtype, dims=[1])
            zero.raw_data = bytes(torch.empty((), dtype=layout.dtype).element_size())
            before = builder.inner("memory", value.dtype, (region.size,))
            size = self._numbers([region.size])
            builder.add("ConstantOfShape", (size,), (before,), attributes(value=zero))
        count = int(np.prod(layout.shape, dtype=np.int64))
        places = self._reshaped(self._places(layout), count)
        updates = self._reshaped(value, count)
        builder.add("ScatterElements", (before, places, updates), (made,), attributes(axis=0))
        return made

    def _reshaped(self, value: Value, count: int) -> Value:
        made = self._builder.inner("Reshape", value.dtype, (count,))
        self._builder.add("Reshape", (value, self._numbers([-1])), (made,))
        return made

    def _numbers(self, numbers: Sequence[int]) -> Value:
        return self._table(np.array(numbers, dtype=np.int64))

    def _table(self, table: np.ndarray) -> Value:
        return self._builder.constant(onnx.numpy_helper.from_array(table))

    def _places(self, layout: Layout) -> Value:
        """Where each element of a tensor lies, in the tensor's own shape."""
        total = np.prod(layout.shape, dtype=np.int64)
        if total <= _SMALL:
            table = np.full(layout.shape, layout.offset, dtype=np.int64)
            for axis, step in enumerate(layout.stride):
                along = [-1 if other == axis else 1 for other in range(len(layout.shape))]
                table = table + (np.arange(layout.shape[axis]) * step).reshape(along)
            return self._table(table.astype(np.int64))
        builder, rank = self._builder, len(layout.shape)
        found: Value | None = None
        for axis, (size, step) in enumerate(zip(layout.shape, layout.stride, strict=True)):
            steps = self._along(axis, size, step, layout.offset if axis == 0 else 0, rank)
            if found is None:
                found = steps
                continue
            shape = (*layout.shape[: axis + 1], *[1] * (rank - axis - 1))
            summed = builder.inner("Add", onnx.TensorProto.INT64, shape)
            builder.add("Add", (found, steps), (summed,))
            found = summed
        assert found is not None
        return found

    def _along(self, axis: int, size: int, step: int, start: int, rank: int) -> Value:
        """``start + step * i`` along one axis of ``rank``."""
        builder, kind = self._builder, onnx.TensorProto.INT64
        counted = builder.inner("Range", kind, (size,))
        ends = [self._table(np.array(number, dtype=np.int64)) for number in (0, size, 1)]
        builder.add("Range", ends, (counted,))
        scaled = builder.inner("Mul", kind, (size,))
        builder.add("Mul", (counted, self._numbers([step])), (scaled,))
        shifted = builder.inner("Add", kind, (size,))
        builder.add("Add", (scaled, self._numbers([start])), (shifted,))
        shape = tuple(size if other == axis else 1 for other in range(rank))
        turned = builder.inner("Reshape", kind, shape)
        builder.add("Reshape", (shifted, self._numbers(shape)), (turned,))
        return turned
