"""A recording as bytes, for another process to lower.

What is taken along is what lowering looks at: the tape with the facts of its tensors, the model
as a tree of names, classes and signatures, and small constants. Tensors of the model go along
without their values, objects and functions of the user's own by their names only: the other
process must not have to import the user's script.

The format is Python's pickle of the running version, read back by the same installation.
"""

from __future__ import annotations

import inspect
import io
import pickle
from collections.abc import Iterable
from types import CodeType
from typing import Any

import torch
from torch import nn

from modelviz_callbacks.tracing.capture.pytree import Foreign, Leaf, TreeSpec, python_text
from modelviz_callbacks.tracing.capture.recording import Recording
from modelviz_callbacks.tracing.capture.state_names import StateNames
from modelviz_callbacks.tracing.capture.tape import Enter, Leave, TensorRecord
from modelviz_callbacks.tracing.capture.torch_internals import functorch
from modelviz_callbacks.tracing.transport.function_names import reduced
from modelviz_callbacks.tracing.transport.module_stubs import Stubs, bytes_of, tensor_of

# A constant larger than this goes along without its values: pictures need none.
_MAX_CONSTANT_BYTES = 64 * 1024

# Classes from here mean the same in any process.
_SHARED = ("builtins", "collections", "inspect", "numpy", "torch", "modelviz_callbacks")

# How many fields the entries have that begin with a module.
_CALLS = (len(Enter._fields), len(Leave._fields))


def pack(recording: Recording, with_values: bool = False) -> bytes:
    """A recording as bytes.

    Args:
        recording: What a capture gave.
        with_values: Whether the values of the model's parameters and buffers go along.

    Returns:
        What `unpack` reads.

    Raises:
        Exception: Some object in it cannot be pickled.
    """
    buffer = io.BytesIO()
    _Packer(buffer, recording, with_values).dump(recording)
    return buffer.getvalue()


def unpack(data: bytes) -> Recording:
    """A recording from `pack`.

    Args:
        data: Made by this installation; never read bytes from elsewhere, since pickle runs code.

    Returns:
        A recording that lowers to the same graph. Its model is a tree of empty modules, its
        parameters have no values unless they were packed, too.
    """
    recording: Recording = pickle.loads(data)
    return recording


class _Packer(pickle.Pickler):
    """Pickles a recording; all but plain data goes through `reducer_override`."""

    def __init__(self, buffer: io.BytesIO, recording: Recording, with_values: bool) -> None:
        super().__init__(buffer, protocol=pickle.HIGHEST_PROTOCOL)
        called = (raw[0] for raw in recording.raw_tape if len(raw) in _CALLS)
        self._stubs = Stubs.of(recording.model, called, recording.state, with_values)
        self._with_values = with_values
        self._without_values: set[int] = set()
        # For the time of one pack: a cache that stays would keep the user's classes alive.
        self._as_they_are: dict[type[Any], bool] = {}

    def reducer_override(self, value: Any) -> Any:
        """How one object is rebuilt: a function and its arguments. Called by pickle."""
        kind = type(value)
        if kind is TensorRecord:
            return self._record(value)
        as_it_is = self._as_they_are.get(kind)
        if as_it_is is None:
            as_it_is = self._as_they_are[kind] = _goes_as_it_is(kind)
        if as_it_is:
            return NotImplemented
        if isinstance(value, torch.Tensor):
            return self._tensor(value)
        if isinstance(value, nn.Module):
            number = self._stubs.module_number(value)
            return _foreign(value) if number is None else (_module, (self._stubs, number))
        if kind is StateNames:
            return Stubs.state, (self._stubs,)
        return _reduced(value, kind)

    def _record(self, record: TensorRecord) -> Any:
        stubs, origin = self._stubs, record.origin
        number = stubs.tensor_number(record.ref())
        layout = None if record.layout is torch.strided else record.layout
        if origin is not None and origin.written and number is not None and not self._with_values:
            self._without_values.add(id(origin.value))  # a copy of state
        rest = (layout, record.previous, origin)
        return _record, (
            stubs,
            number,
            record.created_at,
            stubs.facts(record),
            record.storage,
            *rest,
        )

    def _tensor(self, tensor: torch.Tensor) -> Any:
        number = self._stubs.tensor_number(tensor)
        if number is not None:
            return _state_tensor, (self._stubs, number)
        if id(tensor) not in self._without_values and _is_small(tensor):
            return tensor_of, (bytes_of(tensor), tuple(tensor.shape), tensor.dtype)
        record = TensorRecord(tensor, 0)
        return tensor_of, (None, record.sizes, record.dtype)


def _goes_as_it_is(kind: type[Any]) -> bool:
    """Whether a class is one of those seen most for which pickle needs no help."""
    own = kind.__module__.partition(".")[0] == "modelviz_callbacks"
    return kind in (torch.dtype, torch.device) or (
        own and kind not in (TensorRecord, StateNames, Leaf, TreeSpec)
    )


def _reduced(value: Any, kind: type[Any]) -> Any:
    """What does not depend on the model recorded."""
    if kind is Leaf:
        return Leaf, (value.value,)
    if kind is TreeSpec:
        return _branch, (
            value.kind if _is_shared(value.kind) else object,
            value.steps,
            value.children,
        )
    if kind is CodeType:
        return _code, (value.co_filename, value.co_name, value.co_firstlineno, value.co_linetable)
    if kind is inspect.Signature:
        return _signature, (_parameter_rows(value),)
    if isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
        return Foreign, (str(value),)
    if isinstance(value, type):
        return NotImplemented if _is_shared(value) else _foreign(value)
    if isinstance(value, (int, float, complex, str, bytes, list, tuple, dict, set)):
        return _as_plain(value)
    if callable(value) and hasattr(value, "__name__"):
        return reduced(value)
    return NotImplemented if _is_shared(kind) and _pickles(value) else _foreign(value)


def _as_plain(value: Any) -> Any:
    """Enumerations, named tuples and other subclasses as what they are made of."""
    if isinstance(value, torch.Size) and all(type(size) is int for size in value):
        return torch.Size, (tuple(value),)
    plain: Any
    for plain in (int, float, complex, str, bytes, list, tuple, set):
        if isinstance(value, plain):
            return plain, (plain(value),)
    return dict, (list(value.items()),)


def _is_shared(kind: type[Any]) -> bool:
    return kind.__module__.partition(".")[0] in _SHARED


def _pickles(value: Any) -> bool:
    if isinstance(value, torch.ScriptObject) or getattr(value, "nbytes", 0) > _MAX_CONSTANT_BYTES:
        return False
    try:
        pickle.dumps(value)
    except Exception:
        return False
    return True


def _is_small(tensor: torch.Tensor) -> bool:
    return (
        type(tensor) in (torch.Tensor, nn.Parameter)
        and tensor.layout is torch.strided
        and tensor.device.type == "cpu"
        and not tensor.is_quantized
        and not _is_wrapped(tensor)
        and tensor.numel() * tensor.element_size() <= _MAX_CONSTANT_BYTES
    )


def _is_wrapped(tensor: torch.Tensor) -> bool:
    """Whether it is inside a function transform, where its values cannot be read."""
    if functorch is not None:
        return bool(functorch.is_functorch_wrapped_tensor(tensor))
    return TensorRecord(tensor, 0).stride is None


def _foreign(value: Any) -> Any:
    return Foreign, (python_text(value),)


def _parameter_rows(signature: inspect.Signature) -> list[tuple[str, int, bool]]:
    return [
        (name, int(parameter.kind), parameter.default is not parameter.empty)
        for name, parameter in signature.parameters.items()
    ]


# --- what the other process calls


def _module(stubs: Stubs, number: int) -> nn.Module:
    return stubs.modules[number]


def _state_tensor(stubs: Stubs, number: int) -> torch.Tensor:
    return stubs.tensors[number]


def _record(
    stubs: Stubs,
    number: int | None,
    created_at: int,
    facts: Any,
    storage: int,
    layout: torch.layout | None,
    previous: TensorRecord | None,
    origin: Any,
) -> TensorRecord:
    reference = stubs.reference(number)
    return TensorRecord.restored(
        reference, created_at, facts, storage, layout or torch.strided, previous, origin
    )


def _branch(kind: type[Any], steps: tuple[str, ...], children: list[Any]) -> TreeSpec:
    return TreeSpec(kind, steps, children, kind if kind in (list, tuple) else _cannot_build)


def _cannot_build(_: list[Any]) -> Any:
    raise TypeError("the class of this container is known in the training process only")


def _code(filename: str, name: str, first_line: int, lines: bytes) -> CodeType:
    """A code object that knows its lines and does nothing."""
    return _cannot_build.__code__.replace(
        co_filename=filename, co_name=name, co_firstlineno=first_line, co_linetable=lines
    )


def _signature(rows: Iterable[tuple[str, int, bool]]) -> inspect.Signature:
    kinds = {int(kind): kind for kind in inspect._ParameterKind}
    empty = inspect.Parameter.empty
    return inspect.Signature(
        [
            inspect.Parameter(name, kinds[kind], default=None if has_default else empty)
            for name, kind, has_default in rows
        ]
    )
