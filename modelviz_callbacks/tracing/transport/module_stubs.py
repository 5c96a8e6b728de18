"""A model as another process sees it: modules without code, parameters without values."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

import torch
from torch import nn

from modelviz_callbacks.tracing.capture.module_paths import modules_of
from modelviz_callbacks.tracing.capture.shared_memory import elements_of
from modelviz_callbacks.tracing.capture.state_names import StateNames, StateTensor
from modelviz_callbacks.tracing.capture.tape import TensorRecord
from modelviz_callbacks.tracing.capture.torch_internals import (
    buffers_of,
    parameters_of,
)


class Stubs:
    """The modules and the state of a recorded model, numbered.

    Attributes:
        modules: The modules; the model itself is the first.
        tensors: Parameters and buffers, also those that the forward has replaced.
        names: The names of the first of them.
        module_numbers: The number of each module, by its ``id``.
        tensor_numbers: The number of each parameter or buffer, likewise.
    """

    def __init__(
        self,
        modules: list[nn.Module],
        tensors: list[torch.Tensor],
        names: list[StateTensor],
        records: Sequence[TensorRecord] = (),
    ) -> None:
        """Numbers them.

        Args:
            modules: The modules.
            tensors: Parameters and buffers; the first are those that have names.
            names: The names of these.
            records: Of stand-ins: what was known of the tensors in the training process.
        """
        self.modules = modules
        self.tensors = tensors
        self.names = names
        self._records = records
        self.module_numbers = {id(module): index for index, module in enumerate(modules)}
        self.tensor_numbers = {id(tensor): index for index, tensor in enumerate(tensors)}

    @classmethod
    def of(
        cls,
        model: nn.Module,
        others: Iterable[nn.Module],
        state: StateNames,
    ) -> Stubs:
        """The stubs of a model.

        Args:
            model: The model recorded.
            others: Modules that were called, its own among them.
            state: The names of its parameters and buffers.
        """
        modules = {id(module): module for module in modules_of(model)}
        for other in others:
            if id(other) not in modules:
                modules |= {id(module): module for module in modules_of(other)}
        named = state.all()
        tensors = {id(tensor): tensor for tensor, _ in named}
        for module in modules.values():
            for table_of in (parameters_of, buffers_of):
                for tensor in table_of(module).values():
                    if tensor is not None and id(tensor) not in tensors:
                        tensors[id(tensor)] = tensor
        names = [known for _, known in named]
        return cls(list(modules.values()), list(tensors.values()), names)

    def module_number(self, module: nn.Module) -> int | None:
        """The number of a module; ``None`` for one that was neither called nor is part."""
        return self.module_numbers.get(id(module))

    def tensor_number(self, tensor: torch.Tensor | None) -> int | None:
        """The number of a parameter or buffer; ``None`` for any other tensor."""
        return self.tensor_numbers.get(id(tensor))

    def reference(self, number: int | None) -> Callable[[], torch.Tensor | None]:
        """A weak reference to a tensor, dead if it is none of the model's."""
        return dead if number is None else weakref.ref(self.tensors[number])

    def state(self) -> StateNames:
        """The names of the state, with what was known of the tensors in the training process."""
        named = zip(self.tensors, self.names, strict=False)
        facts = {
            id(tensor): record
            for tensor, record in zip(self.tensors, self._records or (), strict=False)
        }
        return StateNames.restored(self.modules[0], named, facts)


def dead() -> None:
    """A weak reference to nothing."""
    return


def bytes_of(tensor: torch.Tensor) -> bytearray | None:
    """The elements of a dense tensor in their order; ``None`` for any other tensor."""
    if tensor.layout is not torch.strided or tensor.is_meta or tensor.is_quantized:
        return None
    if tensor.is_nested or type(tensor).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
        return None  # its elements may lie anywhere: to read its memory can end the process
    return elements_of(tensor)


def tensor_of(
    values: memoryview | None,
    shape: tuple[int, ...] | None,
    dtype: torch.dtype,
    device: str = "cpu",
) -> torch.Tensor:
    """A tensor from `bytes_of`; without values one of zeros, which take memory when read."""
    if values is None:
        # A quantised one as the integers it consists of.
        plain = torch.uint8 if str(dtype).startswith("torch.q") else dtype
        return torch.zeros(shape or (), dtype=plain, device=device)
    if not len(values):
        return torch.empty(shape or (), dtype=dtype)
    return torch.frombuffer(bytearray(values), dtype=dtype).reshape(shape or ())


@cache
def stub_class(
    home: str, qualname: str, name: str, signature: inspect.Signature | None
) -> type[nn.Module]:
    """A class with the name of a model's, and the signature of its forward."""
    members: dict[str, Any] = {"__module__": home, "__qualname__": qualname}
    if signature is not None:
        receiver = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)

        def forward(_: nn.Module, *__: Any, **___: Any) -> Any:
            raise NotImplementedError

        forward.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [receiver, *signature.parameters.values()]
        )
        members["forward"] = forward
    return type(name, (nn.Module,), members)
