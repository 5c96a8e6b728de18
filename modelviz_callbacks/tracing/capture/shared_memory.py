"""Memory of tensors that numpy, or whoever else was handed it, may write to out of torch's sight.

``x.numpy()`` shows the memory of ``x``, and so does ``torch.from_numpy(array)`` the array's. As
long as somebody may hold such an array, what lies there is compared before each op. A write is put
on the tape as a copy of what was written: a replay on the recorded inputs gives the recorded
result, and one on others says that values were read.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol

import torch

from modelviz_callbacks.tracing.capture.tape import Origin, TensorRecord, record_of
from modelviz_callbacks.tracing.capture.torch_internals import no_torch_function, storage_address

# So much memory is watched at a time, and so much compared in all.
_MOST_WATCHED_BYTES = 2**28
_MOST_COMPARED_BYTES = 2**31

_data = vars(torch.Tensor.__base__)["data"].__get__
_WHOLE_NUMBERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class _Owner(Protocol):
    """What is needed of the recorder."""

    paused: bool
    tape: list[Any]

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...]) -> Any: ...

    def known(self, tensor: torch.Tensor) -> TensorRecord | None: ...

    def introduce(self, tensor: torch.Tensor, record: TensorRecord) -> None: ...

    def watch(self, is_wanted: bool) -> None: ...


class _Area(NamedTuple):
    """What somebody was handed.

    Attributes:
        tensor: Lies there.
        is_held: Whether somebody may still write.
        before: What lay there last.
    """

    tensor: torch.Tensor
    is_held: Callable[[], bool]
    before: torch.Tensor


class SharedMemory:
    """Watches what was handed out while one recorder is at work.

    Attributes:
        is_too_much: Whether something that could still be written to is watched no longer.
    """

    def __init__(self, recorder: _Owner, made_from: Callable[[torch.Tensor], Origin]) -> None:
        """Nothing was handed out.

        Args:
            recorder: Is told of writes.
            made_from: Says where what was written came from.
        """
        self._recorder, self._made_from = recorder, made_from
        self._areas: list[_Area] = []
        self._bytes = self._compared = 0
        self._is_busy = self._is_missed = self.is_too_much = False

    def hand_out(self, tensor: torch.Tensor | None, taken: Any) -> None:
        """Watches the memory of a tensor that an array shows.

        Args:
            tensor: The tensor.
            taken: The array; a capsule for another library, which may be there until the end; or
                something that only tells values.
        """
        shown = getattr(taken, "__array_interface__", None)
        is_capsule = type(taken).__name__ == "PyCapsule"
        if tensor is None or not (shown or is_capsule) or not _is_watchable(tensor):
            return
        if shown is None:
            self._watch(tensor, lambda: True)
        elif shown["data"][0] == tensor.data_ptr():  # else it is a copy
            ref = weakref.ref(taken)
            self._watch(tensor, lambda: ref() is not None)

    def take_in(self, tensor: torch.Tensor) -> torch.Tensor | None:
        """Watches memory that is not torch's own.

        Args:
            tensor: Lies on it.

        Returns:
            A copy of what lies there now; ``None`` where it cannot be told.
        """
        if not _is_watchable(tensor):
            return None
        return self._watch(tensor, lambda: True)

    def settle(self) -> None:
        """Looks whether something was written since the last time."""
        if self._is_busy or not self._areas:
            return
        if self._recorder.paused:
            self._is_missed = True  # what runs then is no part of what is recorded
            return
        self._is_busy = True
        try:
            with no_torch_function():
                self._compare()
        finally:
            self._is_busy = self._is_missed = False

    def let_go(self) -> None:
        """Looks for the last time."""
        self.settle()
        self._areas = []
        self._recorder.watch(False)

    def skip(self, writes: Iterable[TensorRecord]) -> None:
        """Takes note that a recorded op has written.

        Args:
            writes: The new versions of what it wrote to.
        """
        if not self._areas or self._is_busy:
            return
        storages = {record.storage for record in writes}
        with no_torch_function():
            self._areas = [
                area._replace(before=_copied(area.tensor))
                if storage_address(area.tensor) in storages
                else area
                for area in self._areas
            ]

    def _watch(self, tensor: torch.Tensor, is_held: Callable[[], bool]) -> torch.Tensor | None:
        self._bytes += tensor.nbytes
        if self._bytes > _MOST_WATCHED_BYTES:
            self.is_too_much = True
            return None
        with no_torch_function():
            before = _copied(tensor)
        self._areas.append(_Area(tensor, is_held, before))
        self._recorder.watch(True)
        return before

    def _compare(self) -> None:
        kept = []
        for area in self._areas:
            is_held = area.is_held()
            self._compared += area.tensor.nbytes
            if not _is_equal(area.tensor, area.before):
                if not self._is_missed:
                    self._tell(area)
                area = area._replace(before=_copied(area.tensor))
            if is_held and self._compared < _MOST_COMPARED_BYTES:
                kept.append(area)
            elif is_held:
                self.is_too_much = True
        self._areas = kept
        if not kept:
            self._recorder.watch(False)

    def _tell(self, area: _Area) -> None:
        """Lets the write happen again, where the recorder sees it."""
        recorder = self._recorder
        written = _copied(area.tensor)
        record = record_of(written, len(recorder.tape))
        record.origin = self._made_from(written)
        recorder.introduce(written, record)
        memory = _data(area.tensor)  # whose writes no version counts, as none was for numpy's
        memory.copy_(area.before)
        try:
            row = recorder.__torch_function__(_data, (), (area.tensor,))
            recorder.__torch_function__(torch.Tensor.copy_, (), (row, written))
        finally:
            memory.copy_(written)


def is_foreign(tensor: torch.Tensor) -> bool:
    """Whether a tensor lies on memory that is not torch's own, such as an array's."""
    try:
        return tensor.device.type == "cpu" and not tensor.untyped_storage().resizable()
    except (RuntimeError, NotImplementedError):
        return False


def elements_of(tensor: torch.Tensor) -> bytearray:
    """A copy of a dense tensor's elements, one after the other.

    ``tensor.numpy()`` would mark the memory for good as one that an array shows: torch refuses to
    resize it from then on, and a later recording takes it for foreign.
    """
    plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
    copied = bytearray(plain.numel() * plain.element_size())
    if copied:
        with torch.no_grad():
            torch.frombuffer(copied, dtype=torch.uint8).copy_(plain.view(torch.uint8))
    return copied


def on_same_memory(
    tensor: torch.Tensor, record: TensorRecord, living: Iterator[torch.Tensor]
) -> torch.Tensor | None:
    """The tensor whose memory another one shows that was made out of sight.

    Args:
        tensor: One on memory that is not torch's own.
        record: Its record, which is changed where one is found: it lies on that one's storage.
        living: The tensors that are known.
    """
    start, stride = tensor.data_ptr(), record.stride
    if not start or stride is None:
        return None
    end = start + tensor.element_size()
    end += sum((size - 1) * step for size, step in zip(tensor.shape, stride, strict=True)) * (
        tensor.element_size()
    )
    for other in living:
        if other is tensor or other.dtype != tensor.dtype or other.device.type != "cpu":
            continue
        storage = other.untyped_storage()
        first = storage.data_ptr()
        if 0 < first <= start and end <= first + storage.nbytes():
            offset = (start - first) // tensor.element_size()
            record.facts = (*record.facts[:5], offset)
            return other
    return None


def _is_watchable(tensor: torch.Tensor) -> bool:
    is_array = tensor.layout is torch.strided and not (tensor.is_nested or tensor.is_quantized)
    return type(tensor) in (torch.Tensor, torch.nn.Parameter) and (
        is_array and tensor.device.type == "cpu" and not tensor.is_conj() and not tensor.is_neg()
    )


def _copied(tensor: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return tensor.detach().clone()


def _is_equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors are equal to the bit."""
    return torch.equal(_bits(one.detach()), _bits(other))


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    return tensor.view(_WHOLE_NUMBERS[tensor.element_size()])
