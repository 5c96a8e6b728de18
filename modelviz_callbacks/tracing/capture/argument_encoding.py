"""What the recorder takes over of a call: records in the place of tensors, copies of containers."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.nn import Parameter

from modelviz_callbacks.tracing.capture.deaths import Deaths
from modelviz_callbacks.tracing.capture.earlier_arrays import WasThere
from modelviz_callbacks.tracing.capture.functorch_watcher import TransformWatcher
from modelviz_callbacks.tracing.capture.object_parts import PLAIN_TYPES
from modelviz_callbacks.tracing.capture.provenance import OriginFinder
from modelviz_callbacks.tracing.capture.pytree import Leaf, walk
from modelviz_callbacks.tracing.capture.tape import Origin, RawEntry, TensorRecord, record_of
from modelviz_callbacks.tracing.capture.torch_internals import no_torch_function

# How an argument is taken over, by its exact class.
KEEP, TENSOR, _LIST, _TUPLE, _DICT, _SLICE, _OTHER = range(7)


class Encoder:
    """Knows the present version of every tensor seen, by the object's identity.

    Attributes:
        tape: What was recorded so far.
        events: When tensors died, see ``deaths``; `note` appends to it.
        origins: Explains tensors that no recorded op made.
        transforms: Follows tensors into function transforms (vmap, grad, jvp).
        is_state: Whether a tensor is a parameter or buffer of the model.
    """

    def __init__(self, origins: OriginFinder, transforms: TransformWatcher) -> None:
        """Knows no tensor yet."""
        self.tape: list[RawEntry] = []
        self.events: list[Any] = []
        self.note = self.events.append
        self.origins = origins
        self.transforms = transforms
        self._records: dict[int, TensorRecord] = {}
        self.is_state = origins.is_state
        self._classes: dict[type[Any], int] = dict.fromkeys((*PLAIN_TYPES, torch.Generator), KEEP)
        self._classes |= {torch.Tensor: TENSOR, Parameter: TENSOR}
        self._classes |= {list: _LIST, tuple: _TUPLE, dict: _DICT, slice: _SLICE}

    def give_up(self, error: Exception) -> None:
        """Stops recording because of a fault of our own."""
        raise NotImplementedError

    # --- what goes in

    def encode(self, value: Any) -> Any:
        """An argument with its tensors replaced by records; containers are copied."""
        record = self._records.get(id(value))
        if record is not None and record.ref() is value:
            return record
        cls = type(value)
        how = self._classes.get(cls)
        if how is None:
            how = self._classes[cls] = TENSOR if issubclass(cls, torch.Tensor) else _OTHER
        if how is KEEP:
            return value
        if how is TENSOR:
            return self.see(value)
        if how is _TUPLE:
            return tuple([self.encode(item) for item in value])
        if how is _LIST:
            return [self.encode(item) for item in value]
        if how is _DICT:
            return {key: self.encode(item) for key, item in value.items()}
        if how is _SLICE:
            return slice(self.encode(value.start), self.encode(value.stop), self.encode(value.step))
        walked = walk(value, self.record)
        if type(walked) is Leaf and self.origins.earlier.holds(walked.value):
            return WasThere(walked.value)
        return walked

    def record(self, tensor: torch.Tensor) -> TensorRecord:
        """The present version of a tensor, known or not."""
        record = self._records.get(id(tensor))
        if record is not None and record.ref() is tensor:
            return record
        return self.see(tensor)

    def known(self, tensor: torch.Tensor) -> TensorRecord | None:
        """The present version of a tensor that was seen before."""
        record = self._records.get(id(tensor))
        return record if record is not None and record.ref() is tensor else None

    def living(self) -> Iterator[torch.Tensor]:
        """The tensors that are known and still there, the latest first."""
        for record in reversed(self._records.copy().values()):
            tensor = record.ref()
            if tensor is not None and record.storage:
                yield tensor

    def see(self, tensor: torch.Tensor) -> TensorRecord:
        """A record for a tensor that no recorded op made, with its origin."""
        with no_torch_function():  # a module hook runs with the mode on
            if self.is_state(tensor):
                record = self._records[id(tensor)] = self.origins.state_record(
                    tensor, len(self.tape)
                )
                return record
            derived = self.transforms.explain(tensor)
            if derived is not None:
                return derived
            record = record_of(tensor, len(self.tape), self.note)
            record.origin = self.origins.explain(tensor, record)
        self._records[id(tensor)] = record
        self.origins.remember(record)
        return record

    def introduce(self, tensor: torch.Tensor, record: TensorRecord) -> None:
        """Takes over the record of a tensor, which says where that is from."""
        self._records[id(tensor)] = record
        self.origins.remember(record)

    def see_alias(self, tensor: torch.Tensor, other: TensorRecord) -> None:
        """A record for a tensor that lies on the memory of another one, maybe gone by now."""
        record = self._records[id(tensor)] = record_of(tensor, len(self.tape), self.note)
        record.origin = Origin()
        record.origin.alias_of = other
        self.origins.remember(record)

    def deaths(self) -> Deaths:
        """Which tensors have died until now; the list of it goes on alone, and is small."""
        return Deaths(self.events)

    def see_state(self, tensors: Iterable[torch.Tensor]) -> None:
        """Makes the records of the model's state before the forward, which is spared that."""
        with no_torch_function():  # nor does any other mode see it
            for tensor in tensors:
                self._records[id(tensor)] = self.origins.state_record(tensor, 0)

    def adopt(self, tensor: torch.Tensor) -> TensorRecord:
        """A record for a tensor handed in from outside, which needs no explanation."""
        known = self.known(tensor)
        if known is not None:
            return known
        record = self._records[id(tensor)] = record_of(tensor, len(self.tape), self.note)
        self.origins.remember(record)
        return record

    def see_arguments(self, args: tuple[Any, ...]) -> None:
        """Lets what made a module's arguments stand before the module's call."""
        try:
            self.encode(args)
        except Exception as error:
            self.give_up(error)

    # --- what stands in for something else for a while

    def stand_in(self, fake: torch.Tensor, real: torch.Tensor) -> None:
        """Takes a tensor for another one from now on."""
        record = self.record(real)
        record.ref = weakref.ref(fake, self.note)
        self._records[id(fake)] = record

    def give_place(self, fake: torch.Tensor, real: torch.Tensor) -> None:
        """Lets what is known of a tensor be known of another one, which it stood in for."""
        latest = self._records.pop(id(fake), None)
        if latest is None:
            return
        record: TensorRecord | None = latest
        while record is not None:
            record.ref = weakref.ref(real, self.note)
            record = record.previous
        self._records[id(real)] = latest

    # --- what comes out

    def _encode_result(self, result: Any) -> Any:
        """The result with records for its tensors; ``None`` if it has no new tensor in it."""
        cls = result.__class__
        if cls is torch.Tensor:
            known = self._records.get(id(result))
            if known is not None and known.ref() is result:
                return None  # handed back unchanged: nothing was done
            return self._created(result)
        if self._classes.get(cls) == KEEP:
            return None
        created = len(self._records), self.origins.created
        encoded = self._encode_nested(result)
        return encoded if created != (len(self._records), self.origins.created) else None

    def _encode_nested(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            known = self._records.get(id(value))
            if known is not None and known.ref() is value:
                return known
            return self._created(value)
        if isinstance(value, (tuple, list)):
            # A named tuple of torch (`max(dim)`) is indexed like any tuple.
            return tuple([self._encode_nested(item) for item in value])
        if isinstance(value, dict):
            return {key: self._encode_nested(item) for key, item in value.items()}
        return None

    def _created(self, tensor: torch.Tensor) -> TensorRecord:
        record = self._records[id(tensor)] = record_of(tensor, len(self.tape), self.note)
        self.origins.created += 1
        if not record.storage:
            self.transforms.note_result(tensor, record)
        return record

    def _new_version(self, old: TensorRecord) -> TensorRecord:
        tensor = old.ref()
        assert tensor is not None  # the call that wrote to it holds it
        record = self._records[id(tensor)] = record_of(tensor, len(self.tape))
        record.follow(old)
        self.note(record.created_at)  # it dies by the reference of the first version
        self.origins.created += 1
        if not record.storage:
            self.transforms.note_result(tensor, record)
        return record
