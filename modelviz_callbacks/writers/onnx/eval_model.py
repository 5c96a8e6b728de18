"""The model in eval mode, in a copy: how it runs, and whether it gives the same each time."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from modelviz_callbacks.errors import WriterError
from modelviz_callbacks.writers.onnx.draws import Draws, Numbers
from modelviz_callbacks.writers.onnx.exporter_internals import unchecked_distributions
from modelviz_callbacks.writers.onnx.model_copy import eval_copy
from modelviz_callbacks.writers.onnx.probe_inputs import Tensors
from modelviz_callbacks.writers.onnx.replacements.table import ReplacedForExport

# Calls a module with input tensors as the recorded call did; gives the paths and tensors of its
# result.
Call = Callable[[torch.nn.Module, Tensors], tuple[list[str], Tensors]]

_OTHERS_NUMBERS = (
    "The model draws numbers from Python's or numpy's generator in eval mode and gives something "
    "else each time: a file could hold those of one run only."
)
_NO_FORM = "The model draws random numbers, in eval mode too, in a way that ONNX has no form of."

# How often a model whose path other random numbers may choose is run before it is believed that
# they choose nothing.
_TIMES = 8

_OF_16_BITS = (torch.bfloat16, torch.float16)


class EvalModel:
    """A copy of the model in eval mode.

    Attributes:
        module: The copy.
        needs_grad: Whether it takes gradients in its forward, which must then be recorded.
        numbers: The random numbers that it drew when it was tried, without those that are the
            same each time.
        rounds_to: The type of 16 bits that it computes in, in places at least (``bfloat16``);
            ``""``: in none.
    """

    def __init__(self, module: torch.nn.Module, call: Call, inputs: Tensors) -> None:
        """Makes the copy and runs it.

        Args:
            module: The model, which is not touched.
            call: Calls it.
            inputs: What to try it with.

        Raises:
            WriterError: It gives something else each time, by numbers that no file can draw.
            Exception: It cannot be copied, or raises.
        """
        self.module = eval_copy(module)
        self._call = call
        self.needs_grad = False
        self.numbers: Numbers = []
        self._same: dict[int, torch.Tensor] = {}
        before = _states()
        with _Types() as types:
            self._tried(inputs)
        self.rounds_to = types.of_16_bits
        others_moved = not _same_states(before, _states())
        self._find_numbers(inputs)
        torchs_moved = not (self.numbers or self._same or torch.equal(before[2], _states()[2]))
        if (others_moved or torchs_moved) and self._is_chosen(inputs):
            raise WriterError(_OTHERS_NUMBERS if others_moved else _NO_FORM)

    def paths(self, inputs: Tensors) -> list[str]:
        """The paths of what it gives."""
        with self.gradients():
            return self._call(self.module, _cloned(inputs))[0]

    def run(self, inputs: Tensors, given: Numbers | None = None) -> Tensors:
        """What it gives.

        Args:
            inputs: What goes in; it may write to them.
            given: The random numbers to take, of `Draws`; ``None``: it draws its own.

        Raises:
            WriterError: It draws something else.
            Exception: Whatever it raises.
        """
        if given is None:
            with self.gradients():
                return self._call(self.module, inputs)[1]
        before = _states()[2]
        draws = Draws(given, self._same)
        with self.gradients(), draws:
            found = self._call(self.module, inputs)[1]
        if draws.count != len(given):
            raise WriterError(f"the file draws {len(given)} time(s), the model {draws.count}")
        if not torch.equal(before, _states()[2]):
            raise WriterError(_NO_FORM)
        return found

    def gradients(self) -> AbstractContextManager[object]:
        """Lets gradients be recorded where the model takes some itself."""
        return torch.set_grad_enabled(self.needs_grad)

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """What the model is to be called in for its ops to be recorded."""
        with self.gradients(), ExitStack() as stack:
            if self.numbers or self._same:
                stack.enter_context(Draws(same=self._same))
            yield

    def flat(self) -> torch.nn.Module:
        """A module for the exporter, which takes and gives tensors one by one."""
        return _Flat(self)

    def called(self, inputs: Tensors) -> Tensors:
        """What it gives, as the exporter is to see it."""
        with self.recorded(), unchecked_distributions(), ReplacedForExport():
            return self._call(self.module, inputs)[1]

    # --- what it is like

    def _tried(self, inputs: Tensors) -> Tensors:
        try:
            return self.run(_cloned(inputs))
        except Exception:
            self.needs_grad = True
            try:
                return self.run(_cloned(inputs))
            except Exception:
                self.needs_grad = False
            raise

    def _find_numbers(self, inputs: Tensors) -> None:
        """Finds which of the random numbers that it draws are others each time."""
        one = self._drawn(inputs)
        other = self._drawn(inputs) if one.numbers else one
        if len(one.numbers) != len(other.numbers):
            return
        pairs = enumerate(zip(one.numbers, other.numbers, strict=True))
        same = {
            place: numbers
            for place, ((_, numbers), (_, again)) in pairs
            if numbers.numel() and torch.equal(numbers, again)
        }
        if not all(one.as_they_are[place] for place in same):
            return  # what a seed gives is known of plain numbers alone
        self._same = same
        self.numbers = [drawn for place, drawn in enumerate(one.numbers) if place not in same]

    def _drawn(self, inputs: Tensors) -> Draws:
        draws = Draws(keeps=True)
        try:
            with self.gradients(), draws:
                self._call(self.module, _cloned(inputs))
        except Exception:
            return Draws()  # in the end, nothing can be compared with the model then
        return draws

    def is_steady(self, inputs: Tensors) -> bool:
        """Whether it gives the same whatever numbers it draws."""
        first = self.run(_cloned(inputs))
        return all(_agree(first, self.run(_cloned(inputs))) for _ in range(_TIMES - 1))

    def _is_chosen(self, inputs: Tensors) -> bool:
        """Whether it gives something else by numbers that are not torch's plain ones."""
        given = self.numbers or None
        try:
            first = self.run(_cloned(inputs), given)
            return any(
                not _agree(first, self.run(_cloned(inputs), given)) for _ in range(_TIMES - 1)
            )
        except WriterError:
            return True


class _Types(TorchFunctionMode):
    """Looks whether what runs under it makes numbers of 16 bits."""

    def __init__(self) -> None:
        super().__init__()
        self.of_16_bits = ""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.dtype in _OF_16_BITS:
            self.of_16_bits = str(result.dtype).removeprefix("torch.")
        return result


class _Flat(torch.nn.Module):
    def __init__(self, model: EvalModel) -> None:
        super().__init__()
        self.module = model.module
        self._model = model
        self.train(model.module.training)

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self._model.called(tensors)


def _cloned(inputs: Tensors) -> Tensors:
    return tuple(tensor.clone() for tensor in inputs)


def _agree(first: Tensors, second: Tensors) -> bool:
    return len(first) == len(second) and all(map(_is_close, first, second))


def _is_close(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.shape != other.shape or not (one.is_floating_point() or one.is_complex()):
        return torch.equal(one, other)
    return torch.allclose(one, other, equal_nan=True)


def _states() -> tuple[Any, Any, torch.Tensor]:
    """Of Python's generator, numpy's, and all of torch's."""
    states = [torch.get_rng_state()]
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states += torch.cuda.get_rng_state_all()
    return random.getstate(), np.random.get_state(), torch.cat(states)


def _same_states(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    """Of Python's generator and of numpy's."""
    return one[0] == other[0] and all(
        np.array_equal(first, second) for first, second in zip(one[1], other[1], strict=True)
    )
