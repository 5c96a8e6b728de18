"""What compiled code did, found out without touching it.

While compiled code runs nothing of ours is there: no mode, no hook. Right after it the code that
it was made of runs once more under the recorder, on copies of its modules and arguments as they
were before. The copies have shapes but no data; where that fails, as it depends on values, they
have these. What cannot run so either stands in the graph as one box, and the reason is said.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Protocol

import torch

from modelviz_callbacks.tracing.capture.object_copies import CannotStandInError
from modelviz_callbacks.tracing.capture.pytree import walk
from modelviz_callbacks.tracing.capture.recorder import Recorder
from modelviz_callbacks.tracing.capture.stand_ins import (
    RandomStates,
    StandIns,
    nothing_said,
    random_states_of,
)
from modelviz_callbacks.tracing.capture.state_names import StateNames
from modelviz_callbacks.tracing.capture.tape import (
    Enter,
    Leave,
    OpEntry,
    TensorRecord,
    as_entry,
    flat_records,
)
from modelviz_callbacks.tracing.capture.torch_internals import (
    fake_tensor_mode,
    is_fake,
    no_torch_function,
    storage_address,
)
from modelviz_callbacks.tracing.capture.value_copies import (
    BeforeCopies,
    ValueCopies,
    only_own_writes,
)
from modelviz_callbacks.tracing.capture.wrappers import module_of_compiled

# A call of compiled code: what was compiled, its arguments, and the result.
CompiledCall = tuple[Any, tuple[Any, ...], dict[str, Any], Any]
# The same before there is a result.
Called = tuple[Any, tuple[Any, ...], dict[str, Any]]

_LONGEST_REASON = 200


class _SecondRun(Protocol):
    """One way to run code once more."""

    said: str

    def copy(self, tensor: torch.Tensor) -> torch.Tensor:
        """What a leaf is replaced with."""

    def running(self) -> AbstractContextManager[Any]:
        """While the code runs."""


class _WithoutData:
    """On tensors that have shapes alone."""

    said = "on tensors without data"

    def __init__(self) -> None:
        self._mode = fake_tensor_mode()
        if self._mode is None:
            raise CannotStandInError("this torch has no tensors without data")

    def copy(self, tensor: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self._mode.from_tensor(tensor, static_shapes=True)
        return made

    def running(self) -> AbstractContextManager[Any]:
        mode: AbstractContextManager[Any] = self._mode
        return mode


# In the order in which they are tried.
_WAYS: tuple[Callable[[], _SecondRun], ...] = (_WithoutData, ValueCopies)


class _Before:
    """What compiled code was called with, as it was before it ran.

    Attributes:
        random: The random states.
        made: The copies.
        target: What stands in for what was called.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
    """

    def __init__(self, called: Called) -> None:
        function, args, kwargs = called
        self.random = RandomStates()
        self.made = StandIns(BeforeCopies().copy)
        self.target = self.made.function(function)
        self.args, self.kwargs = self.made.of(args), self.made.of(kwargs)


class CompiledParts:
    """Adds to a tape what the compiled code of one thread did.

    Attributes:
        results: What compiled code returned: the records, with the tensors without data that
            autograd tells the graph of the original code of. They live until the recording ends.
        copies: The copies of parameters, buffers and arguments by their ``id``, each with what
            it is a copy of.
    """

    def __init__(self, recorder: Recorder, name_of: Callable[[Any], str], around: set[int]) -> None:
        """Nothing was compiled yet.

        Args:
            recorder: Writes the tape.
            name_of: What to call something compiled.
            around: The modules that only wrap what is recorded, by their ``id``; copies of them
                are added.
        """
        self._recorder = recorder
        self._name_of = name_of
        self._around = around
        self.results: dict[TensorRecord, torch.Tensor] = {}
        self.copies: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._run: dict[str, dict[str, None]] = {}  # names, by what the code ran on
        self._boxes: dict[str, str] = {}
        self._before: _Before | Exception | None = None
        self._without_hooks: dict[str, None] = {}

    @property
    def remarks(self) -> list[str]:
        """What a person should know."""
        said = [
            f"{', '.join(names)}: compiled code was left alone; its ops are those of the original "
            f"code, which ran once more {on}."
            for on, names in self._run.items()
        ]
        said += [
            f"{name}: compiled code was left alone, and what is inside of it is not shown: "
            f"{reason}."
            for name, reason in self._boxes.items()
        ]
        if self._without_hooks:
            said.append(
                f"The hooks of {', '.join(self._without_hooks)} were not run again for the graph."
            )
        return said

    def prepare(self, called: Called | None) -> None:
        """Copies what compiled code may change, right before it runs; never raises.

        Args:
            called: What is called, with which arguments; ``None`` if torch does not tell.
        """
        self._before = None
        if called is None or self._recorder.paused or self._recorder.fault is not None:
            return
        try:
            with no_torch_function(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._before = _Before(called)
        except Exception as error:
            self._before = error

    def add(self, call: CompiledCall | None, watch: Callable[[], None]) -> None:
        """Adds what a call of compiled code did.

        Args:
            call: The call; ``None`` if it did not return.
            watch: Begins to record again; it is called in any case.
        """
        recorder = self._recorder
        if call is None or recorder.paused or recorder.fault is not None:
            watch()
            return
        before, self._before = self._before, None
        start, reasons, name = len(recorder.tape), dict[str, None](), self._name_of(call[0])
        for make in _WAYS:
            try:
                if isinstance(before, Exception):
                    raise before
                if before is None:
                    raise CannotStandInError("torch does not tell when it begins")
                way = make()
                self._run_again(before, call[3], watch, way)
                self._run.setdefault(way.said, {}).setdefault(name)
                return
            except Exception as error:
                reasons.setdefault(_reason(error, bool(reasons)))
            watch()
            recorder.paused = recorder.is_over
            del recorder.tape[start:]
            recorder.functions.say_again()
            recorder.origins.rewind()
            start = len(recorder.tape)
            if recorder.fault is not None:
                break
        self._boxes.setdefault(name, "; ".join(reasons))
        self._add_box(call)

    def _add_box(self, call: CompiledCall) -> None:
        function, args, kwargs, result = call
        module = module_of_compiled(function)
        if module is None or id(module) in self._around:
            return
        encode, append = self._recorder.encode, self._recorder.tape.append
        taken = [encode(value) for value in args]
        named = {key: encode(value) for key, value in kwargs.items()}
        append((module, module.training))
        append((module, taken, named, encode(result), True))

    def _run_again(
        self, before: _Before, result: Any, watch: Callable[[], None], way: _SecondRun
    ) -> None:
        recorder = self._recorder
        start = len(recorder.tape)
        with ExitStack() as handles:
            handles.enter_context(random_states_of(before.random))
            handles.enter_context(nothing_said())  # the training has said it
            copies = StandIns(way.copy)
            with no_torch_function():
                target = copies.function(before.target)
                args, kwargs = copies.of(before.args), copies.of(before.kwargs)
            made_of = {
                key: before.made.modules.get(id(module), module)
                for key, module in copies.modules.items()
            }
            self._around.update(key for key, one in made_of.items() if id(one) in self._around)
            pairs = [
                (real, copies.tensors[id(copy)][1])
                for real, copy in before.made.tensors.values()
                if id(copy) in copies.tensors
            ]
            for real, fake in pairs:
                handles.callback(recorder.give_place, fake, real)
                recorder.stand_in(fake, real)
            handles.enter_context(recorder.origins.without_values())
            handles.enter_context(torch.compiler.set_stance("force_eager"))
            watch()
            with way.running(), only_own_writes(fake for _, fake in pairs):
                made = target(*args, **kwargs)
            if recorder.fault is not None:
                raise recorder.fault
            self._match(made, result)
        self._clean(start, made_of)
        self._without_hooks.update(dict.fromkeys(before.made.without_hooks))
        self.copies.update({id(fake): (fake, real) for real, fake in pairs})

    def _match(self, made: Any, result: Any) -> None:
        """Lets what the compiled code returned be what the original code returned."""
        recorder = self._recorder
        fakes = _tensors(made)
        reals = _tensors(result)
        if [_facts(tensor) for tensor in fakes] != [_facts(tensor) for tensor in reals]:
            raise CannotStandInError("the original code returned something else")
        for fake, real in zip(fakes, reals, strict=True):
            if recorder.known(real) is not None:
                continue
            record = recorder.record(fake)
            recorder.give_place(fake, real)
            record.storage = storage_address(real)
            recorder.origins.remember(record)
            self.results[record] = fake

    def _clean(self, start: int, made_of: dict[int, torch.nn.Module]) -> None:
        """Puts the modules in the place of their copies, and drops values without data."""
        tape = self._recorder.tape
        for place in range(start, len(tape)):
            entry = as_entry(tape[place])
            if isinstance(entry, OpEntry):
                for record in flat_records((entry.args, entry.kwargs)):
                    origin = record.origin
                    if origin is not None and origin.value is not None and is_fake(origin.value):
                        origin.value = None
            elif isinstance(entry, (Enter, Leave)):
                module = made_of.get(id(entry.module), entry.module)
                tape[place] = (module, *entry[1:])

    def state_names(self, state: StateNames) -> StateNames:
        """The names of the copies of a model's parameters and buffers."""
        named = []
        for fake, real in self.copies.values():
            found = state.find(real)
            if found is not None:
                named.append((fake, found))
        return StateNames.restored(torch.nn.Module(), named, {})


def _tensors(value: Any) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    walk(value, found.append)
    return found


def _facts(tensor: torch.Tensor) -> Any:
    return tensor.shape, tensor.dtype, tensor.device


def _reason(error: Exception, has_values: bool) -> str:
    if isinstance(error, CannotStandInError):
        text = str(error)
    else:
        lines = str(error).strip().splitlines()
        how = "on copies of its tensors" if has_values else "without data"
        text = f"the original code failed {how} ({type(error).__name__}: {''.join(lines[:1])})"
    return text[:_LONGEST_REASON].rstrip(".")
