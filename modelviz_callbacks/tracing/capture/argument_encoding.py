"""What the recorder takes over of a call: slots in the place of tensors, copies of containers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.nn import Parameter

from modelviz_callbacks.tracing.capture.functorch_watcher import TransformWatcher
from modelviz_callbacks.tracing.capture.provenance import OriginFinder
from modelviz_callbacks.tracing.capture.pytree import PLAIN_TYPES, walk
from modelviz_callbacks.tracing.capture.tape import RawEntry, Slot
from modelviz_callbacks.tracing.capture.torch_internals import no_torch_function

# How an argument is taken over, by its exact class.
KEEP, TENSOR, _LIST, _TUPLE, _DICT, _SLICE, _OTHER = range(7)


class Encoder:
    """Knows the present version of every tensor seen, by the object's identity.

    Attributes:
        tape: What was recorded so far.
        origins: Explains tensors that no recorded op made.
        transforms: Follows tensors into function transforms (vmap, grad, jvp).
        is_state: Whether a tensor is a parameter or buffer of the model.
    """

    def __init__(self, origins: OriginFinder, transforms: TransformWatcher) -> None:
        """Knows no tensor yet."""
        self.tape: list[RawEntry] = []
        self.origins = origins
        self.transforms = transforms
        self._slots: dict[int, Slot] = {}
        self.is_state = origins.is_state
        self._classes: dict[type[Any], int] = dict.fromkeys((*PLAIN_TYPES, torch.Generator), KEEP)
        self._classes |= {torch.Tensor: TENSOR, Parameter: TENSOR}
        self._classes |= {list: _LIST, tuple: _TUPLE, dict: _DICT, slice: _SLICE}

    def give_up(self, error: Exception) -> None:
        """Stops recording because of a fault of our own."""
        raise NotImplementedError

    # --- what goes in

    def encode(self, value: Any) -> Any:
        """An argument with its tensors replaced by slots; containers are copied."""
        cls = type(value)
        how = self._classes.get(cls)
        if how is None:
            how = self._classes[cls] = TENSOR if issubclass(cls, torch.Tensor) else _OTHER
        if how is TENSOR:
            slot = self._slots.get(id(value))
            if slot is not None and slot.ref() is value:
                return slot
            return self.meet(value)
        if how is KEEP:
            return value
        if how is _TUPLE:
            return tuple([self.encode(item) for item in value])
        if how is _LIST:
            return [self.encode(item) for item in value]
        if how is _DICT:
            return {key: self.encode(item) for key, item in value.items()}
        if how is _SLICE:
            return slice(self.encode(value.start), self.encode(value.stop), self.encode(value.step))
        return walk(value, self.slot)

    def slot(self, tensor: torch.Tensor) -> Slot:
        """The present version of a tensor, known or not."""
        slot = self._slots.get(id(tensor))
        if slot is not None and slot.ref() is tensor:
            return slot
        return self.meet(tensor)

    def known(self, tensor: torch.Tensor) -> Slot | None:
        """The present version of a tensor that was seen before."""
        slot = self._slots.get(id(tensor))
        return slot if slot is not None and slot.ref() is tensor else None

    def meet(self, tensor: torch.Tensor) -> Slot:
        """A slot for a tensor that no recorded op made, with its origin."""
        with no_torch_function():  # a module hook runs with the mode on
            if self.is_state(tensor):
                slot = self._slots[id(tensor)] = self.origins.state_slot(tensor, len(self.tape))
                return slot
            derived = self.transforms.explain(tensor)
            if derived is not None:
                return derived
            slot = Slot(tensor, len(self.tape))
            slot.origin = self.origins.explain(tensor, slot)
        self._slots[id(tensor)] = slot
        self.origins.remember(slot)
        return slot

    def meet_state(self, tensors: Iterable[torch.Tensor]) -> None:
        """Makes the slots of the model's state before the forward, which is spared that."""
        with no_torch_function():  # nor does any other mode see it
            for tensor in tensors:
                self._slots[id(tensor)] = self.origins.state_slot(tensor, 0)

    def adopt(self, tensor: torch.Tensor) -> Slot:
        """A slot for a tensor handed in from outside, which needs no explanation."""
        known = self.known(tensor)
        if known is not None:
            return known
        slot = self._slots[id(tensor)] = Slot(tensor, len(self.tape))
        self.origins.remember(slot)
        return slot

    def meet_arguments(self, args: tuple[Any, ...]) -> None:
        """Lets what made a module's arguments stand before the module's call."""
        try:
            self.encode(args)
        except Exception as error:
            self.give_up(error)

    # --- what comes out

    def _encode_result(self, result: Any) -> Any:
        """The result with slots for its tensors; ``None`` if it has no new tensor in it."""
        cls = result.__class__
        if cls is torch.Tensor:
            known = self._slots.get(id(result))
            if known is not None and known.ref() is result:
                return None  # handed back unchanged: nothing was done
            return self._born(result)
        if self._classes.get(cls) == KEEP:
            return None
        born = len(self._slots), self.origins.births
        encoded = self._encode_nested(result)
        return encoded if born != (len(self._slots), self.origins.births) else None

    def _encode_nested(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            known = self._slots.get(id(value))
            if known is not None and known.ref() is value:
                return known
            return self._born(value)
        if isinstance(value, (tuple, list)):
            # A named tuple of torch (`max(dim)`) is indexed like any tuple.
            return tuple([self._encode_nested(item) for item in value])
        if isinstance(value, dict):
            return {key: self._encode_nested(item) for key, item in value.items()}
        return None

    def _born(self, tensor: torch.Tensor) -> Slot:
        slot = self._slots[id(tensor)] = Slot(tensor, len(self.tape))
        self.origins.births += 1
        if not slot.storage:
            self.transforms.note_result(tensor, slot)
        return slot

    def _new_version(self, old: Slot) -> Slot:
        tensor = old.ref()
        assert tensor is not None  # the call that wrote to it holds it
        slot = self._slots[id(tensor)] = Slot(tensor, len(self.tape))
        slot.follow(old)
        self.origins.births += 1
        if not slot.storage:
            self.transforms.note_result(tensor, slot)
        return slot
