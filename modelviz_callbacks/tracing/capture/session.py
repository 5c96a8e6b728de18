"""Arms the recorder around one stretch of code and takes everything down again."""

from __future__ import annotations

import inspect
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from threading import get_ident
from types import FrameType
from typing import Any

import torch
from torch.nn.modules import module as module_hooks
from torch.optim import optimizer as optimizer_hooks

from modelviz_callbacks.credentials import without_credentials
from modelviz_callbacks.gc_pause import slowed_collector
from modelviz_callbacks.tracing.capture.autograd_record import living_inputs, read_backward
from modelviz_callbacks.tracing.capture.backward_record import BackwardRecord, joined
from modelviz_callbacks.tracing.capture.compile_guard import compiled_parts, out_of_compiled_code
from modelviz_callbacks.tracing.capture.compiled_parts import CompiledParts
from modelviz_callbacks.tracing.capture.end_of_forward import NO_LOSS, EndOfForward, living_tensors
from modelviz_callbacks.tracing.capture.hidden_calls import name_unseen
from modelviz_callbacks.tracing.capture.kept_inputs import KeptInputs
from modelviz_callbacks.tracing.capture.lazy_values import lazy_parts
from modelviz_callbacks.tracing.capture.mode_stack import push_mode, remove_mode
from modelviz_callbacks.tracing.capture.module_call_hooks import module_call_hooks
from modelviz_callbacks.tracing.capture.module_paths import modules_of, paths_of
from modelviz_callbacks.tracing.capture.offloaded import OffloadedWeights
from modelviz_callbacks.tracing.capture.pytree import Leaf, TreeSpec, listed, walk
from modelviz_callbacks.tracing.capture.recorder import Recorder
from modelviz_callbacks.tracing.capture.recording import (
    Recording,
    forward_signature,
    named_inputs,
    named_losses,
    paths_of_arguments,
)
from modelviz_callbacks.tracing.capture.recursion import make_room
from modelviz_callbacks.tracing.capture.state_names import StateNames
from modelviz_callbacks.tracing.capture.step_hook import StepHook
from modelviz_callbacks.tracing.capture.tape import Leave, OpEntry
from modelviz_callbacks.tracing.capture.torch_internals import (
    calls_under_way,
    forget_hook,
    home_of_eval_frame_setter,
    import_slow_parts,
    is_compiled,
    missing_parts,
    mode_stack,
    no_torch_function,
    users_modes,
)
from modelviz_callbacks.tracing.capture.untold_writes import told
from modelviz_callbacks.tracing.capture.wrappers import (
    author_path,
    class_of,
    module_of_compiled,
    unwrapped,
)

# Where an op on the tape has the code that it was called in.
_CODE = OpEntry._fields.index("code")

# Letters of the user's error that are kept: they stand in every file.
_LONGEST_ERROR = 1000


class Capture:
    """Records what one thread runs from `start` to `finish` or `abandon`.

    Every handle is owned by one exit stack: whatever step fails, nothing is left behind.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        called: torch.nn.Module | None = None,
        *,
        keeps_state: bool = True,
        keeps_inputs: bool = False,
    ) -> None:
        """Nothing is armed yet.

        Args:
            model: Whose parameters, buffers and modules give the names.
            called: The wrapper around it whose call is recorded, if that is another module.
            keeps_state: Whether parameters and buffers that the code recorded writes to are
                copied before, as a replay from the same state needs it.
            keeps_inputs: Whether the values of what goes into the model are kept, for a file
                that is run beside it.
        """
        import_slow_parts()
        self._model = model
        self._called = model if called is None else called
        self._thread = get_ident()
        self._state = StateNames(model)
        self.recorder = Recorder(self._state, keeps_state, model)
        self._kept = KeptInputs() if keeps_inputs else None
        self._handles = ExitStack()
        self._watching: ExitStack | None = None  # hooks and mode, while they are up
        self._step_hooks: list[StepHook] = []
        self._modes_above = users_modes()
        self._around = self._modules_around()
        self._during: torch.nn.Module | None = None
        self._compiled = CompiledParts(self.recorder, self._name_of, self._around)
        self._signature = forward_signature(model)
        self._inputs: dict[str, Any] = {}
        self._is_step = False
        self._grad = True
        self._began = self._spent = 0.0
        self._outputs: list[Any] | None = None
        self._backwards: list[BackwardRecord] = []
        self._unread: list[str] = []
        self._fault: Exception | None = None
        self._lazy: list[str] = []
        self._resting: list[bool] = []  # for each higher-order op under way: were we before?
        self._end = 0
        self.forward: EndOfForward | None = None  # of a recording that goes on behind it

    def end_with_call_of(self, model: torch.nn.Module) -> None:
        """Lets the recording stop when a call is not under way any more.

        No hook hears of a forward that a ``KeyboardInterrupt`` ends. Whoever catches it may go on
        with another model, whose modules ask here; the model's own do not.

        Args:
            model: Whose call is recorded, to be said before `start`, from a hook around the call.
        """
        # Of a call of compiled code there is no frame to look for.
        self._during = model if calls_under_way(model, sys._getframe(1)) else None

    def _is_left(self) -> bool:
        """Whether the call that is recorded was left without a word, and nothing watches now."""
        if self.forward is not None and len(self.recorder.tape) > self.forward.longest:
            self.recorder.end()  # no backward comes
            return True
        during = self._during
        if during is None or calls_under_way(during, sys._getframe(1)):
            return False
        self.stop()
        # What whoever goes on has called since, outside of any module, came on the tape still.
        outside, frame = set[int](), sys._getframe(1).f_back
        while frame is not None:
            outside.add(id(frame.f_code))
            frame = frame.f_back
        tape = self.recorder.tape
        while tape and len(tape[-1]) > len(Leave._fields) and id(tape[-1][_CODE]) in outside:
            tape.pop()
        return True

    def start(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        signature: inspect.Signature | None = None,
        is_step: bool | None = None,
    ) -> None:
        """Begins to record.

        Args:
            args: Positional arguments of the code to be recorded.
            kwargs: Its keyword arguments.
            signature: Its signature, if it is not the model's forward.
            is_step: Whether it is a training step, whose results are what ``backward`` is called
                on; ``None``: it is one if it has a signature.
        """
        self._is_step = signature is not None if is_step is None else is_step
        if self._is_step:  # which may run several backwards, and drop what they began at
            self.recorder.before_backward = self._read_backward
        self.recorder.see_state(tensor for tensor, _ in self._state.all())
        self._grad = torch.is_grad_enabled()
        self._signature = signature or self._signature
        with no_torch_function():  # a mode of the user's sees nothing of ours
            if OffloadedWeights.among(self._state):
                self.recorder.follow_offloaded(self._model, self._state)
            self._inputs = self._attempt(
                lambda: named_inputs(self._signature, args, kwargs, self.recorder.adopt), {}
            )
        if self._kept is not None:
            self._kept.keep_living(record for _, record in paths_of_arguments(self._inputs))
        self._resume(sys._getframe(1))

    def _resume(self, frame: FrameType) -> None:
        self.recorder.functions.begin(frame)
        with ExitStack() as handles:
            self._arm(handles)
            self._handles = handles.pop_all()
        self._began = time.perf_counter()

    def rest(self) -> None:
        """Takes everything down until `go_on`: what runs now is not part of what is recorded."""
        self.stop()
        self._during = None
        self._spent, self._began = self._seconds(), 0.0

    def go_on(self) -> None:
        """Records again after a `rest`."""
        self._resume(sys._getframe(1))

    def _seconds(self) -> float:
        return self._spent + (time.perf_counter() - self._began if self._began else 0.0)

    def add_output(self, value: Any) -> None:
        """Adds to what the code recorded gives, where it gives one value after the other.

        Args:
            value: One of them; only what is known of its tensors is kept.
        """
        self._outputs = self._outputs or []
        path = f"out[{len(self._outputs)}]"
        self._lazy += self._attempt(lambda: lazy_parts(value, path), [])
        self._outputs.append(self._walked(value))

    def go_on_to_backward(self, result: Any) -> bool:
        """Lets the recording of a forward that returned go on to the backward from its results.

        `finish` ends it with that backward; where none has come, where the forward did.

        Args:
            result: What the forward returned; nothing of it is kept alive.

        Returns:
            Whether there is a backward to wait for.
        """
        walked = self._walked(listed(result))
        outputs = living_tensors(walked)
        with no_torch_function():
            inputs = living_inputs(paths_of_arguments(self._inputs))
            backward = self._attempt(lambda: read_backward(outputs, self._state, inputs), None)
        if backward is None or self.recorder.fault is not None:
            return False
        self._lazy = self._attempt(lambda: lazy_parts(result), [])
        self.forward = EndOfForward(self.recorder, self._model, self._signature, backward)
        self.forward.begin_with(self._inputs, walked)
        self._during = None
        self.go_below_other_modes()
        self.recorder.losses.clear()
        self._backwards.clear()
        self._end = 0
        self.recorder.before_backward = self._read_backward
        return True

    def remark(self, text: str) -> None:
        """Adds a sentence that a person should know of the recording."""
        self._unread.append(text)

    def _walked(self, value: Any) -> Any:
        with no_torch_function():
            return self._attempt(lambda: walk(value, self.recorder.settled().record), Leaf(None))

    def _arm(self, handles: ExitStack) -> None:
        handles.callback(make_room())
        self._enter, self._leave = module_call_hooks(
            self.recorder, self._thread, self._around, self._own_modules(), self._is_left
        )
        if self._kept is not None:
            self._enter, self._leave = self._kept.around(self._enter, self._leave, self.recorder)
        handles.enter_context(slowed_collector())
        handles.enter_context(out_of_compiled_code(self.recorder, self))
        handles.callback(self._unwatch)
        handles.callback(self.recorder.let_go)
        self._watch()

    def _watch(self) -> None:
        if self._watching is None:
            with ExitStack() as handles:
                self._put_up(handles)
                self._watching = handles.pop_all()

    def _unwatch(self) -> None:
        watching, self._watching = self._watching, None
        if watching is not None:
            watching.close()

    def _put_up(self, handles: ExitStack) -> None:
        before = module_hooks.register_module_forward_pre_hook(self._enter)
        handles.callback(before.remove)
        after = module_hooks.register_module_forward_hook(
            self._leave, with_kwargs=True, always_call=True
        )
        handles.callback(after.remove)
        # torch's own handle forgets this table.
        handles.callback(forget_hook, after.id)
        for register, paused in (
            (optimizer_hooks.register_optimizer_step_pre_hook, True),
            (optimizer_hooks.register_optimizer_step_post_hook, False),
        ):
            hook = StepHook(register, self._pause_hook(paused))
            self._step_hooks.append(hook)
            handles.callback(hook.remove)
        self.recorder.is_below_others = self._modes_above > 0
        handles.callback(self._remove_mode)
        push_mode(self.recorder, self._modes_above)
        handles.enter_context(told(self.recorder))

    def go_below_other_modes(self) -> None:
        """Lets the author's code leave every mode that it is in now while the recording goes on.

        Whoever leaves a mode (``with torch.device(...)``) takes the topmost off torch's stack.
        """
        if self._watching is not None:
            remove_mode(self.recorder)
            self._modes_above = len(mode_stack() or ())
            self.recorder.is_below_others = self._modes_above > 0
            self.recorder.functions.frame = None  # it may be one of such a mode's
            push_mode(self.recorder, self._modes_above)

    def _remove_mode(self) -> None:
        try:
            self._modes_above = remove_mode(self.recorder)
        except Exception as error:
            self.recorder.give_up(error)
            remove_mode(self.recorder)  # once more: it must not stay in the training

    def before_compiled(self, called: Any) -> None:
        """Takes hooks and mode down: compiled code runs now.

        Args:
            called: What is called, with which arguments; ``None`` if torch does not tell.
        """
        self._unwatch()
        self._compiled.prepare(called)

    def after_compiled(self, call: Any) -> None:
        """Records what compiled code did, and goes on.

        Args:
            call: What was called, with which arguments, and the result; ``None`` if it raised.
        """
        try:
            self._compiled.add(call, self._watch)
        except Exception as error:
            self.recorder.give_up(error)

    def before_higher_order(self) -> None:
        """Sees nothing from here on: torch compiles and runs a higher-order op."""
        self._resting.append(self.recorder.paused)
        self.recorder.paused = True

    def after_higher_order(self, call: Any) -> None:
        """Goes on, and says what the op's results come from.

        Args:
            call: The op with its arguments and the result; ``None`` if it raised.
        """
        recorder = self.recorder
        recorder.paused = self._resting.pop() or recorder.is_over
        if call is None or recorder.paused:
            return
        try:
            with no_torch_function():
                name_unseen(call, recorder)
        except Exception as error:
            recorder.give_up(error)

    def _name_of(self, function: Any) -> str:
        """What to call something that was compiled: the module's path, or its own name."""
        module = module_of_compiled(function)
        if module is None:
            return str(getattr(function, "__qualname__", type(function).__name__))
        for path, other in paths_of(self._model):
            if other is module and author_path(path):
                return author_path(path)
        return class_of(unwrapped(module)).__name__

    def is_here(self) -> bool:
        """Whether this thread is the one that is recorded."""
        return get_ident() == self._thread

    def _read_backward(self, losses: list[torch.Tensor]) -> None:
        forward = self.forward
        if forward is not None and self._end:
            return
        if forward is None:
            self._end = self._end or len(self.recorder.tape)
        paths = {record: path for path, record in named_losses(self.recorder.losses)}
        roots = [(paths[self.recorder.record(loss)], loss) for loss in losses]
        inputs = living_inputs(paths_of_arguments(self._inputs))
        try:
            found = read_backward(roots, self._state, inputs)
        except Exception as error:
            self._unread.append(f"The backward from {roots[0][0]} is not shown: {error!r}.")
            return
        if forward is not None:
            if found is None or not forward.see(found):
                self.recorder.losses.clear()  # of another model: a discriminator's
                return
            self._end = len(self.recorder.tape)
            self.recorder.end()  # what comes behind it is not wanted
        if found is not None:
            self._backwards.append(found)

    def enter_model(self) -> None:
        """Marks the start of the model's own forward, where no hook saw it."""
        self._enter(self._model, ())

    def enter_part(self, part: torch.nn.Module) -> None:
        """Marks the start of the call of a module of the model, where no hook saw it."""
        self._enter(part, ())

    def finish(self, result: Any) -> Recording:
        """Ends the recording of code that returned.

        Args:
            result: What it returned; where outputs were added one by one, they are what it gave.

        Returns:
            The recording; of what ran before a fault of the recorder, if it had to give up.
        """
        self.stop()
        if self.forward is not None:
            return self._up_to_backward(self.forward)
        given = self._outputs
        if given is None:
            self._lazy += self._attempt(lambda: lazy_parts(result), [])
            return self._recording(self._walked(listed(result)), "")
        steps = tuple(f"[{index}]" for index in range(len(given)))
        return self._recording(TreeSpec(list, steps, given, list), "")

    def _up_to_backward(self, forward: EndOfForward) -> Recording:
        """Of a forward that went on: up to its backward, else up to its own end."""
        if forward.is_passed:
            self._is_step, self._inputs = True, forward.inputs
            self._lazy.clear()  # what ran of it is there
            forward.mark(self.recorder.tape)
            recording = self.finish_at_backward()
            if forward.has_others:
                forward.drop_others(recording.raw_tape, recording.needed())
                del recording.tape  # its entries are other ones now
            return recording
        del self.recorder.tape[forward.position :]
        self.recorder.losses.clear()
        self._unread.append(NO_LOSS)
        recording = self._recording(forward.result, "")
        recording.backward = forward.backward
        return recording

    def abandon(self, error: BaseException) -> Recording:
        """Ends the recording of code that raised; what ran until then is kept."""
        self.stop()
        text = without_credentials(f"{type(error).__name__}: {error}", _LONGEST_ERROR)
        return self._recording(Leaf(None), text)

    @property
    def saw_backward(self) -> bool:
        """Whether a step that is being recorded has called ``backward``."""
        return self._end > 0

    def finish_at_backward(self) -> Recording:
        """Ends the recording of a stretch of code with its first ``backward``, or now."""
        self.stop()
        if self._end:
            del self.recorder.tape[self._end :]
            losses = self.recorder.losses
            losses[:] = [loss for loss in losses if loss.created_at <= self._end]
        return self._recording(Leaf(None), "")

    def stop(self) -> None:
        """Takes every hook and the mode down; safe to call again, and from anywhere."""
        if not self.is_here():
            self.recorder.end()  # the mode is on a stack that only its own thread can reach
        self._handles.close()
        self._step_hooks = [hook for hook in self._step_hooks if not hook.remove()]

    def _remarks(self) -> list[str]:
        remarks = [*self._unread, *missing_parts(), *self._compiled.remarks]
        compiled = compiled_parts(self._called)
        if compiled and home_of_eval_frame_setter() is None:
            remarks.append(
                f"{', '.join(compiled)}: compiled code ran eagerly for the recorded batch, and is "
                "compiled from the next on."
            )
        if self.recorder.shared.is_too_much:
            remarks.append(
                "More memory was shown to numpy than is compared for writes: what was written "
                "through a large array is not in the graph, and a replay does not know of it."
            )
        fault = self.recorder.transforms.fault
        if fault is not None:
            remarks.append(
                "What a function transform (vmap, grad) computed may be unconnected: following "
                f"it failed with {fault!r}."
            )
        return remarks

    def _attempt(self, make: Callable[[], Any], otherwise: Any) -> Any:
        """What a step of our own gives; if it fails, the recording goes on without it."""
        try:
            return make()
        except Exception as error:
            self._fault = self._fault or error
            return otherwise

    def _why_partial(self) -> str:
        fault = self.recorder.fault or self._fault
        if fault is None:
            return ""
        said = without_credentials(repr(fault), _LONGEST_ERROR)
        return (
            f"Recording {type(self._model).__name__} stopped at op {len(self.recorder.tape)} by a "
            f"fault of the recorder ({said}); the forward went on without it. Please report the "
            "model."
        )

    def _recording(self, result: Any, error: str) -> Recording:
        seconds = self._seconds()
        self._attempt(self._state.update, None)
        tape = self.recorder.tape
        layered = self._attempt(lambda: self.recorder.transforms.with_layers(tape), tape)
        remarks = self._attempt(self._remarks, [])
        recording = Recording(
            self._model,
            layered,
            self._signature,
            self._inputs,
            self._state,
            result,
            error,
            is_step=self._is_step,
            grad=self._grad,
            losses=self.recorder.losses,
            remarks=remarks,
            backward=joined(self._backwards),
            seconds=seconds,
            input_values={} if self._kept is None else self._kept.values,
            fault=self._why_partial(),
            lazy=self._lazy,
            died=self.recorder.deaths().of,
            sizes_told=self.recorder.sizes_told,
        )
        if recording.backward is None:
            recording.backward = self._compiled_backward(recording)
        return recording

    def _compiled_backward(self, recording: Recording) -> BackwardRecord | None:
        """The backward of the original code, where all that was returned came of compiled code."""
        results = self._compiled.results
        outputs = recording.output_records()
        if not outputs or any(record not in results for _, record in outputs):
            return None
        roots = [(path, results[record]) for path, record in outputs]
        paths = living_inputs(paths_of_arguments(self._inputs))
        inputs = {
            id(fake): paths[id(real)]
            for fake, real in self._compiled.copies.values()
            if id(real) in paths
        }
        try:
            return read_backward(roots, self._compiled.state_names(self._state), inputs)
        except Exception as error:
            recording.remarks.append(f"The backward is not shown: {error!r}.")
            return None

    # --- hooks: they see every module call of every thread, and run once a call

    def _own_modules(self) -> set[int]:
        """The modules of what is recorded, by their ``id``."""
        own = set(map(id, modules_of(self._called)))
        if self._called is not self._model:
            own.update(map(id, modules_of(self._model)))
        return own

    def _modules_around(self) -> set[int]:
        """The modules that only wrap what is to be seen, by their ``id``."""
        around = {id(module) for module in modules_of(self._called) if is_compiled(module)}
        if self._called is not self._model:
            around.add(id(self._called))
        return around

    def _pause_hook(self, paused: bool) -> Any:
        def pause(*_: Any) -> None:
            if self.is_here() and not self.recorder.is_over and not self._is_left():
                self.recorder.paused = paused

        return pause
