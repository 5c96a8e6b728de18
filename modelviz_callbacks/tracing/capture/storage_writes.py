"""Writes that go past every tensor: to the storage below, ``y.untyped_storage().fill_(0)``.

Such a write is put on the tape as what it does to a tensor that lies on the same memory: its
``data``, seen as one row of numbers, or of bytes. That is also how it is done, and to the bit the
same: ``data`` counts no versions, so that autograd hears of it as little as of the original.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from modelviz_callbacks.tracing.capture.recorder import Recorder
from modelviz_callbacks.tracing.capture.tape import TensorRecord

_Tensor = torch.Tensor
_data = vars(torch.Tensor.__base__)["data"].__get__


class _Rows(NamedTuple):
    """A stretch of a storage that a tensor lies on.

    Attributes:
        tensor: Any that is known to the recorder.
        start: Where the stretch begins in its storage, in bytes.
        length: In bytes.
    """

    tensor: torch.Tensor
    start: int
    length: int


def _told(recorder: Recorder, func: Any, *args: Any) -> Any:
    return recorder.__torch_function__(func, (), args)


def _below(recorder: Recorder, storage: torch.UntypedStorage) -> _Rows | None:
    """The tensor that lies on a storage, or on what the storage is a slice of."""
    start, length = storage.data_ptr(), storage.nbytes()
    if not length or storage.device.type == "meta":
        return None
    record = recorder.origins.storages.record_of(storage)
    if record is not None:
        tensor = _tensor_of(recorder, storage, record)
        return None if tensor is None else _Rows(tensor, 0, length)
    for tensor in recorder.living():
        try:
            whole = tensor.untyped_storage()
            first = whole.data_ptr()
            if 0 < first <= start and start + length <= first + whole.nbytes():
                return _Rows(tensor, start - first, length)
        except (RuntimeError, NotImplementedError):  # it has no storage to show
            continue
    return None


def _tensor_of(
    recorder: Recorder, storage: torch.UntypedStorage, record: TensorRecord
) -> torch.Tensor | None:
    """The tensor that a storage was asked of, or another one, if nobody holds it any more."""
    tensor = record.ref()
    if tensor is not None and tensor.untyped_storage() is storage:
        return tensor
    if storage.nbytes() % record.dtype.itemsize:
        return None
    tensor = _tensor_on(storage, record.dtype)
    recorder.see_alias(tensor, record)
    return tensor


def _tensor_on(storage: torch.UntypedStorage, dtype: torch.dtype) -> torch.Tensor:
    made = torch.empty(0, dtype=dtype, device=storage.device)
    return made.set_(storage, 0, (storage.nbytes() // dtype.itemsize,), (1,))


def _row(recorder: Recorder, rows: _Rows, dtype: torch.dtype) -> torch.Tensor:
    """A stretch of memory as a tensor of one dimension, made where the recorder sees it.

    Args:
        recorder: Is told of each step.
        rows: The stretch.
        dtype: Of the tensor's elements, or of single bytes.
    """
    row = _told(recorder, _data, rows.tensor)
    size = row.element_size()
    if row.numel() * size != row.untyped_storage().nbytes() or not row.is_contiguous():
        count = row.untyped_storage().nbytes() // size
        row = _told(recorder, torch.as_strided, row, (count,), (1,), 0)
    elif row.dim() != 1:
        row = _told(recorder, _Tensor.view, row, -1)
    if dtype != row.dtype:
        row, size = _told(recorder, _Tensor.view, row, dtype), dtype.itemsize
    start, count = rows.start // size, rows.length // size
    if count != row.numel():
        row = _told(recorder, _Tensor.narrow, row, 0, start, count)
    return row  # type: ignore[no-any-return]


def _divides(rows: _Rows, dtype: torch.dtype) -> bool:
    whole = rows.tensor.untyped_storage().nbytes()
    return not any(number % dtype.itemsize for number in (rows.start, rows.length, whole))


def _fill(recorder: Recorder, storage: torch.UntypedStorage, value: int) -> bool:
    rows = _below(recorder, storage)
    if rows is None:
        return False
    dtype = rows.tensor.dtype
    dtype = dtype if value == 0 and _divides(rows, dtype) else torch.uint8
    _told(recorder, _Tensor.fill_, _row(recorder, rows, dtype), value)
    return True


def _set_item(recorder: Recorder, storage: torch.UntypedStorage, key: Any, value: int) -> bool:
    rows = _below(recorder, storage)
    if rows is None:
        return False
    _told(recorder, _Tensor.__setitem__, _row(recorder, rows, torch.uint8), key, value)
    return True


def _copy(
    recorder: Recorder, storage: torch.UntypedStorage, source: Any, non_blocking: Any = None
) -> bool:
    rows, given = _below(recorder, storage), _below(recorder, source)
    if rows is None and given is not None:  # a copy of it, which is to become a tensor maybe
        dtype = given.tensor.dtype
        dtype = dtype if storage.nbytes() % dtype.itemsize == 0 else torch.uint8
        rows = _Rows(_tensor_on(storage, dtype), 0, storage.nbytes())
        recorder.origins.storages.note(storage, recorder.record(rows.tensor))
    if rows is None or source.nbytes() != rows.length:
        return False
    dtype = rows.tensor.dtype
    same = given is None or (given.tensor.dtype == dtype and _divides(given, dtype))
    dtype = dtype if same and _divides(rows, dtype) else torch.uint8
    # Of a storage that nobody knows: a constant, for all that can be told.
    row = _tensor_on(source, dtype) if given is None else _row(recorder, given, dtype)
    _told(recorder, _Tensor.copy_, _row(recorder, rows, dtype), row, bool(non_blocking))
    return True


def _resize(recorder: Recorder, storage: torch.UntypedStorage, size: int) -> bool:
    """Makes it larger; what is lost where it becomes smaller, nobody may read."""
    record = recorder.origins.storages.record_of(storage)
    if size <= storage.nbytes() or record is None or size % record.dtype.itemsize:
        return False
    storage.resize_(size)  # no mode is asked here: it is the original
    tensor = _tensor_of(recorder, storage, record)
    if tensor is not None and not recorder.is_state(tensor):
        row = _told(recorder, _data, tensor)
        _told(recorder, _Tensor.resize_, row, (size // record.dtype.itemsize,))
    return True


STORAGE_WRITES: dict[str, Callable[..., bool]] = {
    "fill_": _fill,
    "copy_": _copy,
    "resize_": _resize,
    "__setitem__": _set_item,
}
"""By the name of a method of ``torch.UntypedStorage``: does it where a recorder sees it.

Each takes a recorder, the storage and the method's arguments, and says whether it did anything: not
where no tensor that the recorder knows lies there.
"""
