"""Statistics of many tensors, computed where they are and read with one transfer a device.

What is kept of a tensor until then are some scalars on its device. Nothing here waits for a
device, draws a random number, or is seen by a function mode, autograd or autocast.
"""

from __future__ import annotations

import math
import struct
from collections import defaultdict
from collections.abc import Iterable, Sequence
from weakref import ref

import torch

from modelviz_callbacks.tracing.capture.torch_internals import (
    count_dispatch_modes,
    functorch,
    no_torch_function,
    version_of,
)
from modelviz_callbacks.tracing.steps.inspected_step import TensorHealth

# Results are of these kinds, or counts.
_FLOATS = (torch.float32, torch.float64)
# Places of two counts among a tensor's results.
_NANS, _INFS = 5, 6
_NO_DISPATCH = torch.Tensor.__torch_dispatch__


class Looked:
    """One tensor that was looked at; a number of the results.

    Attributes:
        dtype: ``float32``.
        shape: Its shape.
        elements: How many there are.
        stored: How many of them are stored; the others are zero.
        first: Number of the first of its results; -1: it could not be looked at.
    """

    __slots__ = ("dtype", "elements", "first", "shape", "stored")

    def __init__(self, tensor: torch.Tensor) -> None:
        """Nothing is computed yet.

        Args:
            tensor: Any.
        """
        self.dtype = str(tensor.dtype).removeprefix("torch.")
        # A nested tensor has no one shape; to ask for a symbolic size would fix it.
        sizes = () if tensor.is_nested else tensor.shape
        self.shape = tuple(size if type(size) is int else 0 for size in sizes)
        self.elements = self.stored = math.prod(self.shape)
        self.first = -1


class TensorStatistics:
    """Collects statistics; `read` gives them all."""

    def __init__(self) -> None:
        """Nothing was looked at yet."""
        self._results: list[torch.Tensor] = []
        self._known: dict[int, tuple[ref[torch.Tensor], int, Looked]] = {}

    def look(self, tensor: torch.Tensor) -> tuple[Looked, bool] | None:
        """Looks at a tensor, or knows it again if it is the same object, unchanged.

        Args:
            tensor: Any.

        Returns:
            What `health` takes, and whether it was known; ``None`` of a tensor without elements.

        Raises:
            RuntimeError: What torch raises.
        """
        known = self._known.get(id(tensor))
        version = _version(tensor)
        if known is not None and known[0]() is tensor and known[1] == version >= 0:
            return known[2], True
        with no_torch_function(), torch.no_grad():
            if is_readable(tensor) and not tensor.numel():
                return None
            looked = self._looked(tensor)
        self._known[id(tensor)] = (ref(tensor), version, looked)
        return looked, False

    def _looked(self, tensor: torch.Tensor) -> Looked:
        if not is_readable(tensor):
            return Looked(tensor)
        looked = Looked(tensor)
        values = tensor.detach()
        if values.layout is torch.sparse_coo:
            values = values.coalesce().values()
            looked.stored = values.numel()
        if not looked.stored:
            values = values.new_zeros(1)  # all of it is zero
            looked.stored = 1
        values = _as_floats(values)
        least, most = values.aminmax()
        looked.first = len(self._results)
        # On the CPU torch's `var_mean` takes five times as long as these two.
        self._results += [least, most, values.mean(), values.std(correction=0)]
        self._results.append(torch.count_nonzero(values))
        if values.device.type == "cpu" and bool(least.isfinite() & most.isfinite()):
            self._results += [torch.zeros_like(self._results[-1])] * 2
        else:
            self._results += [
                torch.count_nonzero(values.isnan()),
                torch.count_nonzero(values.isinf()),
            ]
        return looked

    def norm(self, tensor: torch.Tensor) -> int:
        """Computes a norm.

        Args:
            tensor: A readable one.

        Returns:
            Its number among the results.
        """
        with no_torch_function(), torch.no_grad():
            self._results.append(torch.linalg.vector_norm(_as_floats(tensor.detach())))
        return len(self._results) - 1

    def change_norm(self, before: torch.Tensor, after: torch.Tensor) -> int:
        """Computes the norm of a difference; else as `norm`.

        Args:
            before: A readable tensor.
            after: One of the same shape and dtype.
        """
        with no_torch_function(), torch.no_grad():
            before, after = before.detach(), after.detach()
            if not before.is_complex():
                before, after = _as_floats(before), _as_floats(after)
            return self.norm(after - before)

    def has_not_finite(self, all_looked: Iterable[Looked]) -> bool:
        """Whether some tensors have an element that is NaN or infinite; waits for the device.

        Args:
            all_looked: What `look` gave.
        """
        counts = [
            self._results[one.first + place]
            for one in all_looked
            if one.first >= 0
            for place in (_NANS, _INFS)
        ]
        with no_torch_function(), torch.no_grad():
            on_one = [count.to(counts[0].device) for count in counts]
            return bool(torch.stack(on_one).any()) if on_one else False

    def read(self) -> Results:
        """Transfers what was computed: one tensor from each device.

        Raises:
            RuntimeError: What torch raises.
        """
        places = defaultdict[torch.device, defaultdict[torch.dtype, list[int]]](
            lambda: defaultdict(list)
        )
        for number, result in enumerate(self._results):
            places[result.device][result.dtype].append(number)
        found: list[float] = [0.0] * len(self._results)
        with no_torch_function(), torch.no_grad():
            for by_dtype in places.values():
                stacks = [
                    _as_bits(torch.stack([self._results[number] for number in numbers]))
                    for numbers in by_dtype.values()
                ]
                bits = iter(torch.cat(stacks).cpu().tolist())
                for dtype, numbers in by_dtype.items():
                    for number in numbers:
                        found[number] = _from_bits(next(bits), dtype)
        self._results = []
        self._known = {}
        return Results(found)


class Results:
    """What `TensorStatistics` computed, on the host."""

    def __init__(self, found: Sequence[float]) -> None:
        """Nothing is looked up yet.

        Args:
            found: The numbers.
        """
        self._found = found

    def norm(self, number: int | None) -> float | None:
        """A norm by its number."""
        return None if number is None else float(self._found[number])

    def health(self, looked: Looked | None) -> TensorHealth | None:
        """What a tensor's elements are like; ``None``: it could not be looked at."""
        if looked is None or looked.first < 0:
            return None
        least, most, mean, std, nonzero, nans, infs = self._found[looked.first : looked.first + 7]
        part = looked.stored / looked.elements
        if part < 1:  # what a sparse tensor does not store is zero
            least, most = min(least, 0.0), max(most, 0.0)
            squares = part * (std * std + mean * mean)
            mean *= part
            std = math.sqrt(max(0.0, squares - mean * mean))
        return TensorHealth(
            looked.elements,
            least,
            most,
            mean,
            std,
            looked.elements - int(nonzero),
            int(nans),
            int(infs),
        )


def is_readable(tensor: torch.Tensor) -> bool:
    """Whether a tensor's elements can be read here, without anybody's code and on one device."""
    return (
        not tensor.is_meta
        and not tensor.is_nested
        and not tensor.is_quantized
        and tensor.layout in (torch.strided, torch.sparse_coo)
        # A tensor made of others (a sharded one): to read it might ask other processes.
        and type(tensor).__torch_dispatch__ is _NO_DISPATCH
        and not (functorch is not None and functorch.is_functorch_wrapped_tensor(tensor))
    )


def is_watched() -> bool:
    """Whether what is computed in this thread now would be seen, or batched, by somebody else."""
    under_transforms = functorch is not None and bool(functorch.get_dynamic_layer_stack_depth())
    return under_transforms or count_dispatch_modes() > 0


def is_captured() -> bool:
    """Whether what is computed now would become a part of a CUDA graph."""
    is_used = torch.cuda.is_available() and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return is_used and torch.cuda.is_current_stream_capturing()


def _version(tensor: torch.Tensor) -> int:
    try:
        return version_of(tensor)
    except RuntimeError:  # made in inference mode
        return -1


def _as_floats(tensor: torch.Tensor) -> torch.Tensor:
    """As what sums are exact enough in: half precision as ``float32``, magnitudes of complex."""
    if tensor.is_complex():
        tensor = (tensor.to(torch.complex64) if tensor.dtype is torch.complex32 else tensor).abs()
    if tensor.dtype in _FLOATS:
        return tensor
    if tensor.is_floating_point() or tensor.device.type == "mps":
        return tensor.to(torch.float32)
    return tensor.to(torch.float64)


def _as_bits(values: torch.Tensor) -> torch.Tensor:
    """Whole numbers with the bits of others, which every device can have beside counts."""
    if values.dtype is torch.float32:
        return values.view(torch.int32).to(torch.int64)
    return values.view(torch.int64)


def _from_bits(bits: int, dtype: torch.dtype) -> float:
    if dtype not in _FLOATS:
        return bits
    code, kind = ("<i", "<f") if dtype is torch.float32 else ("<q", "<d")
    return float(struct.unpack(kind, struct.pack(code, bits))[0])
