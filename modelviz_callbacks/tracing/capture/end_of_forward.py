"""Where a forward ended whose recording goes on to the backward, and the calls until then."""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import torch

from modelviz_callbacks.tracing.capture.backward_record import HEAD, BackwardRecord
from modelviz_callbacks.tracing.capture.pytree import listed, walk
from modelviz_callbacks.tracing.capture.recorder import Recorder
from modelviz_callbacks.tracing.capture.recording import named_inputs, named_leaves
from modelviz_callbacks.tracing.capture.tape import (
    Enter,
    OpEntry,
    RawEntry,
    as_entry,
    only_if_needed,
)
from modelviz_callbacks.tracing.capture.torch_internals import no_torch_function, sequence_number

# How many ops and calls may come before the backward: of other models (a perceptual loss), of an
# episode that an agent plays; not of whole epochs of them.
_MOST_BEHIND = 20_000

NO_LOSS = (
    "The loss is not in the graph: before a backward from what the model gave, too much else ran, "
    "or an optimizer stepped, or the loop ended."
)


class ModelCall(NamedTuple):
    """One call of the model on the way to the backward.

    Attributes:
        start: Length of the tape where it began.
        end: And where it returned.
        inputs: Its arguments by name, walked.
        numbers: Autograd's numbers of what made its results.
    """

    start: int
    end: int
    inputs: dict[str, Any]
    numbers: frozenset[int]


class EndOfForward:
    """Of a recording that goes on: the first forward, the calls behind it, and which of them count.

    An agent acts before it learns, by the same model: its first call is not the one that the loss
    comes from. So every call is noted, and a backward tells which it goes through.
    """

    def __init__(
        self,
        recorder: Recorder,
        model: torch.nn.Module,
        signature: inspect.Signature,
        backward: BackwardRecord,
    ) -> None:
        """Nothing is known of the forward yet, see `begin_with`.

        Args:
            recorder: Records what goes on.
            model: What is called.
            signature: Of what is called of it.
            backward: What autograd knew when the first forward returned.
        """
        self._recorder, self._model, self._signature = recorder, model, signature
        self._calls: list[ModelCall] = []
        self._passed: list[ModelCall] = []
        self._begun: tuple[int, dict[str, Any]] | None = None
        self.result: Any = None
        self.backward = backward

    def begin_with(self, inputs: dict[str, Any], result: Any) -> None:
        """Notes the first forward.

        Args:
            inputs: Its arguments by name, walked.
            result: What it returned, walked.
        """
        self.result = result
        self._calls = [ModelCall(0, len(self._recorder.tape), inputs, _numbers_of(result))]

    @property
    def position(self) -> int:
        """What the tape is cut to, should no backward from one of the calls come."""
        return self._calls[0].end

    @property
    def longest(self) -> int:
        """How long the tape may get while no backward has come."""
        return self.position + _MOST_BEHIND

    @property
    def inputs(self) -> dict[str, Any]:
        """The arguments of the first call that the loss comes from, by name, walked."""
        return self._passed[0].inputs

    @property
    def is_passed(self) -> bool:
        """Whether a backward came through one of the calls."""
        return bool(self._passed)

    @property
    def has_others(self) -> bool:
        """Whether there are calls that no gradient flows to."""
        return len(self._passed) < len(self._calls)

    def begins(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Takes in a further call of the model, before the backward.

        Args:
            args: Positional arguments.
            kwargs: Keyword arguments.

        Returns:
            Whether it is recorded; not so where a backward is not to be hoped for any more.
        """
        tape = self._recorder.tape
        if len(tape) > self.longest:
            return False
        try:
            # torch calls the hooks of all modules before a module's own.
            last = tape[-1] if tape else ()
            has_entered = len(last) == len(Enter._fields) and last[0] is self._model
            with no_torch_function():
                inputs = named_inputs(self._signature, args, kwargs, self._recorder.record)
            self._begun = len(tape) - has_entered, inputs
        except Exception as error:
            self._recorder.give_up(error)
        return True

    def ended(self, result: Any) -> None:
        """Notes that this call returned.

        Args:
            result: What it returned; nothing of it is kept alive.
        """
        begun, self._begun = self._begun, None
        if begun is None:
            return
        try:
            with no_torch_function():
                walked = walk(listed(result), self._recorder.record)
            end = len(self._recorder.tape)
            self._calls.append(ModelCall(begun[0], end, begun[1], _numbers_of(walked)))
        except Exception as error:
            self._recorder.give_up(error)

    def see(self, backward: BackwardRecord) -> bool:
        """Notes through which calls a backward comes.

        Args:
            backward: Read at a tensor that was made after the forward, in the same thread.

        Returns:
            Whether it is any.
        """
        numbers, at = backward.numbers, 0
        found = set[int]()
        while at < len(numbers):
            found.add(numbers[at + 1])
            at += HEAD + 2 * numbers[at + 3] + numbers[at + 4]
        self._passed = [call for call in self._calls if not call.numbers.isdisjoint(found)]
        return self.is_passed

    def mark(self, tape: list[RawEntry]) -> None:
        """Tells what is around the first call that counts as none of the model's, unless needed.

        Metrics, the next batch, what an agent did before: only what the loss comes from is wanted.

        Args:
            tape: Is changed.
        """
        first = self._passed[0]
        tape[: first.start] = map(only_if_needed, tape[: first.start])
        tape[first.end :] = map(only_if_needed, tape[first.end :])

    def drop_others(self, tape: list[RawEntry], needed: list[bool]) -> None:
        """Takes the calls off the tape that the loss does not come from in any way.

        What is behind them keeps its place, which records know it by.

        Args:
            tape: Is changed.
            needed: Of each entry whether it is, see `Recording.needed`.
        """
        for call in self._calls:
            span = range(call.start, min(call.end, len(tape)))
            found = [(at, as_entry(tape[at])) for at in span]
            ops = [(at, entry) for at, entry in found if isinstance(entry, OpEntry)]
            if call in self._passed or not ops or any(needed[at] for at, _ in ops):
                continue
            _, op = ops[0]
            nothing = op._replace(
                args=(), kwargs=None, result=None, writes=(), plumbing=True,
                last_node=op.first_node,
            )  # fmt: skip
            tape[span.start : span.stop] = [nothing] * len(span)


def living_tensors(walked: Any) -> list[tuple[str, torch.Tensor]]:
    """The tensors in a walked result that are alive, each with its path."""
    with no_torch_function():
        found = [(path, record.ref()) for path, record in named_leaves(walked)]
    return [(path, tensor) for path, tensor in found if tensor is not None]


def _numbers_of(walked: Any) -> frozenset[int]:
    """Autograd's numbers of what made a walked result; none where it does not tell."""
    nodes = [tensor.grad_fn for _, tensor in living_tensors(walked)]
    found = [sequence_number(node) for node in nodes if node is not None]
    return frozenset(number for number in found if number >= 0)
