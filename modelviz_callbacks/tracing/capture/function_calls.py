"""Which of the author's functions an op runs in, between it and the forward of its module.

A frame that is held is known by its identity, and what is around a running function does not
change: as long as ops come from the same frame, nothing has to be looked at. Frames are held until
the next op, module call or end of one is seen, before it runs: nothing that a function held is
alive any longer than that.
"""

from __future__ import annotations

import inspect
import os
from enum import IntEnum
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final, NamedTuple

import torch

from modelviz_callbacks.tracing.capture.call_site import FrameKind, classify_file, is_ours
from modelviz_callbacks.tracing.capture.tape import FunctionCall, RawEntry
from modelviz_callbacks.tracing.capture.torch_internals import MODULE_CALL

# The file in which torch calls a module's forward and the hooks around it.
_CALLING_FILE: Final = MODULE_CALL.co_filename if MODULE_CALL is not None else ""
_STANDARD: Final = str(Path(os.__file__).parent) + os.sep
_INSTALLED: Final = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
# Code that is in no file, but that somebody typed.
_TYPED: Final = ("<stdin>", "<string>", "<ipython-input", "<doctest")

_GENERATORS: Final = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
_PASSES_ON: Final = inspect.CO_NESTED | inspect.CO_VARARGS | inspect.CO_VARKEYWORDS


class _Role(IntEnum):
    """What a frame means to those within it."""

    SEEN_THROUGH = 0  # torch's own, wrappers, generators, comprehensions
    FUNCTION = 1
    CALLING = 2  # between a module's call and its forward
    CALL = 3  # of a module: what is around it belongs to another one
    START = 4  # it calls what is recorded
    AROUND = 5  # it was there before the recording began


# Bound once: to look up a member of an enumeration takes longer than what is done with it.
_FUNCTION, _CALLING, _CALL = _Role.FUNCTION, _Role.CALLING, _Role.CALL
_START, _AROUND = _Role.START, _Role.AROUND
_USER, _TORCH = FrameKind.USER, FrameKind.TORCH


class _Known(NamedTuple):
    """What is known of a code object, and the object, so that its ``id`` stays its own.

    Attributes:
        role: Of its frames.
        package: The installed package that it is of; ``""`` for the author's own code.
        code: The code object.
        kind: Of its file.
    """

    role: _Role
    package: str
    code: CodeType
    kind: FrameKind


class FunctionWatcher:
    """Says on a tape when the innermost function around the following ops is another one.

    Attributes:
        frame: The innermost frame that is not torch's, as it was seen last in the module call
            that is under way; ``None``: look again.
        current: The innermost function, as the tape says.
        called: The frame that calls the forward of the module call under way, as long as it is
            known where an op of one of torch's modules would come from; else ``None``.
        site: That place: code, position in it, and that it is no framework's bookkeeping.
    """

    def __init__(self, tape: list[RawEntry], model: torch.nn.Module | None) -> None:
        """Nothing was seen yet.

        Args:
            tape: Where it is said.
            model: The model that is recorded.
        """
        self.frame: FrameType | None = None
        self.current: FunctionCall | None = None
        self.called: FrameType | None = None
        self.site: tuple[CodeType, int, bool] | None = None
        self._tape = tape
        self._module = model
        self._frames: list[FrameType] = []
        self._calls: list[FunctionCall] = []
        self._levels: list[tuple[Any, ...]] = []
        self._known: dict[int, _Known] = {}
        self._names: dict[tuple[int, type], tuple[str, str, bool]] = {}

    def begin(self, frame: FrameType | None) -> None:
        """Takes note of what is around all that is recorded.

        Args:
            frame: Of who begins to record.
        """
        while frame is not None:
            code = frame.f_code
            kind = classify_file(code.co_filename)
            if code is not MODULE_CALL and (kind is FrameKind.USER or is_ours(code.co_filename)):
                role = _Role.START if is_ours(code.co_filename) else _Role.AROUND
                self._known.setdefault(id(code), _Known(role, "", code, kind))
            frame = frame.f_back

    def end(self) -> None:
        """Lets go of every frame."""
        self.frame = self.called = self.site = None
        self._frames, self._calls, self._levels = [], [], []

    def see(self, frame: FrameType) -> None:
        """Looks at what is around a frame, if it is not the one that was seen last.

        Args:
            frame: Of code that is not torch's, in the module call under way.
        """
        if MODULE_CALL is None:
            return
        found = self._functions_around(frame)
        frames = self._frames
        same, most = 0, min(len(found), len(frames))
        while same < most and found[same][0] is frames[same]:
            same += 1
        calls = self._calls[:same]
        call = calls[-1] if same else None
        for one, known in found[same:]:
            call = self._call(one, known, call)
            calls.append(call)
        self._frames, self._calls = [one for one, _ in found], calls
        # Who resumes a generator may be another one each time; a framework's own frame is told
        # from the author's each time.
        code = frame.f_code
        is_known = self._of(code).kind is _USER and not code.co_flags & _GENERATORS
        self.frame = frame if is_known else None
        self.called = None  # the module's forward is none of torch's
        if call is not self.current:
            self.say(call)

    def say(self, call: FunctionCall | None) -> None:
        """Puts on the tape in which function the following ops run; ``None``: in none."""
        if call is not self.current:
            self.current = call
            self._tape.append((call,))

    def outside(self) -> None:
        """Says that the following op runs in none, wherever the next one runs."""
        self.frame = None
        self._frames, self._calls = [], []
        self.say(None)

    def say_again(self) -> None:
        """Says it anew: what was on the tape was taken off again."""
        self.frame = None
        self._tape.append((self.current,))

    def enter(self, module: torch.nn.Module, frame: FrameType | None) -> None:
        """Goes into a module call; to be called before it is on the tape.

        Args:
            module: The module.
            frame: Of the hook.
        """
        caller = _caller_of(frame)
        site = None
        if caller is not None and self.is_in_called(caller):
            site = self.site
            if self.current is not None:
                self.outside()
        else:
            if caller is None or caller is not self.frame:
                self._see_caller(frame)
            if caller is not None and caller is self.frame:
                site = caller.f_code, caller.f_lasti, False
        around, functions = (self.frame, self.called, self.site), (self._frames, self._calls)
        self._levels.append((module, self._module, around, functions, self.current))
        self._module, self.current, self._frames, self._calls = module, None, [], []
        self.frame, self.called, self.site = None, None if site is None else frame, site

    def leave(self, module: torch.nn.Module) -> None:
        """Goes back out of a module call, and of all within it that were not left."""
        levels = self._levels
        for index in range(len(levels) - 1, -1, -1):
            if levels[index][0] is module:
                _, self._module, around, functions, self.current = levels[index]
                self.frame, self.called, self.site = around
                self._frames, self._calls = functions
                del levels[index:]
                return

    def is_in_called(self, frame: FrameType) -> bool:
        """Whether a frame is the forward of the module call under way, and torch's own code."""
        if self.called is None or frame.f_back is not self.called:
            return False
        return self._of(frame.f_code).kind is _TORCH

    def _see_caller(self, frame: FrameType | None) -> None:
        """Looks for the function that calls a module, from within the call."""
        known = self._known  # not looked up by a method: this runs once a module call
        is_called = False
        while frame is not None:
            code = frame.f_code
            if code is MODULE_CALL:
                if is_called:
                    break  # from the forward of one of torch's modules
                is_called = True
            else:
                found = known.get(id(code)) or self._of(code)
                if found.kind is _USER:
                    if is_called and frame is not self.frame:
                        self.see(frame)
                    return  # uncalled: it is only said that the module was called
            frame = frame.f_back
        if self.current is not None:
            self.outside()

    # --- frames

    def _functions_around(self, frame: FrameType) -> list[tuple[FrameType, _Known]]:
        """The functions that a frame is in, itself included, the outermost first."""
        found: list[tuple[FrameType, _Known]] = []
        here: FrameType | None = frame
        below: FrameType | None = None  # the outermost that is not torch's way to call a forward
        table = self._known
        while here is not None:
            code = here.f_code
            known = table.get(id(code)) or self._of(code)
            role = known.role
            if role is _FUNCTION:
                found.append((here, known))
                below = here
            elif role is _CALL or role is _START:
                if found and found[-1][0] is below:
                    found.pop()  # it is the forward, or the step, that is recorded
                break
            elif role is _AROUND:
                break
            elif role is not _CALLING:
                below = here
            here = here.f_back
        if len(found) < 2:
            return found
        kept: list[tuple[FrameType, _Known]] = []
        for one in reversed(found):
            # The inside of a library is one thing, and so is a function that calls itself.
            is_inside = kept and kept[-1][1].package and one[1].package
            if not is_inside and all(one[1].code is not other[1].code for other in kept):
                kept.append(one)
        return kept

    def _of(self, code: CodeType) -> _Known:
        known = self._known.get(id(code))
        if known is None:
            role = _role_of(code)
            package = _package_of(code.co_filename) if role is _Role.FUNCTION else ""
            kind = classify_file(code.co_filename)
            known = self._known[id(code)] = _Known(role, package, code, kind)
        return known

    def _call(self, frame: FrameType, known: _Known, parent: FunctionCall | None) -> FunctionCall:
        code = known.code
        key = id(code), type(self._module)
        names = self._names.get(key)
        if names is None:
            home = frame.f_globals.get("__name__")
            module = f"{home}." if isinstance(home, str) and home else ""
            names = (code.co_name, f"{module}{code.co_name}", self._is_own(code))
            self._names[key] = names
        return FunctionCall(*names, parent)

    def _is_own(self, code: CodeType) -> bool:
        """Whether a function is a method of the module that is being called."""
        method = inspect.getattr_static(type(self._module), code.co_name, None)
        method = getattr(method, "__func__", method)
        found = inspect.unwrap(method) if callable(method) else None
        return getattr(found, "__code__", None) is code


def _caller_of(frame: FrameType | None) -> FrameType | None:
    """Who calls the module around whose call a hook runs; ``None``: another frame is between.

    Args:
        frame: Of who calls the hook.
    """
    is_called = False
    while frame is not None:
        code = frame.f_code
        if code.co_filename is not _CALLING_FILE:
            return frame if is_called else None
        is_called = is_called or code is MODULE_CALL
        frame = frame.f_back
    return None


def _role_of(code: CodeType) -> _Role:
    file, name = code.co_filename, code.co_name
    if code is MODULE_CALL:
        return _Role.CALL
    if file == _CALLING_FILE:
        return _Role.CALLING
    if classify_file(file) is not FrameKind.USER or _is_library_of_python(file):
        return _Role.SEEN_THROUGH
    if file.startswith("<") and not file.startswith(_TYPED):
        return _Role.SEEN_THROUGH  # written by a program
    # A forward is its module's, `<lambda>` and `__add__` are no names, and who takes whatever it
    # is given and was made by another function passes it on.
    passes_on = code.co_flags & _PASSES_ON == _PASSES_ON
    has_no_name = name.startswith("<") or (name.startswith("__") and name.endswith("__"))
    if name == "forward" or has_no_name or passes_on or code.co_flags & _GENERATORS:
        return _Role.SEEN_THROUGH
    return _Role.FUNCTION


def _is_library_of_python(file: str) -> bool:
    return file.startswith(_STANDARD) and not any(part in file for part in _INSTALLED)


def _package_of(file: str) -> str:
    """The installed package that a file is of; ``""`` for one that is of none."""
    for part in _INSTALLED:
        _, found, path = file.rpartition(part)
        if found:
            return path.partition(os.sep)[0]
    return ""
