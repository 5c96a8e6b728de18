"""Copies of modules and arguments: original code can run on them a second time.

Whatever code does to its tensors, its modules and what they hold, it does to the copies. Objects of
which nobody can say what a copy would mean are shared.
"""

from __future__ import annotations

import copy
import dataclasses
import random
import sys
import warnings
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from threading import get_ident
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, TypeVar

import torch

from modelviz_callbacks.tracing.capture.object_copies import (
    CannotStandInError,
    Untouchable,
    copy_of_object,
)
from modelviz_callbacks.tracing.capture.object_parts import PLAIN_TYPES
from modelviz_callbacks.tracing.capture.torch_internals import (
    COMPILED_CALL,
    TRAINER_ATTRIBUTE,
    is_compiled,
    original_function,
    original_module,
)

_Made = TypeVar("_Made")
_MAPPINGS = (dict, OrderedDict, defaultdict)
_HARMLESS = (type, ModuleType, BuiltinFunctionType, torch.dtype, torch.device, *PLAIN_TYPES)


class StandIns:
    """Makes the copies, one for each object.

    Attributes:
        tensors: What was copied, with its copy, by the ``id`` of the first.
        modules: The modules that were copied, by the ``id`` of the copy.
        without_hooks: The classes of modules whose hooks were left out.
    """

    def __init__(self, copy_leaf: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Nothing is copied yet.

        Args:
            copy_leaf: Copies a tensor that is a leaf, as one.
        """
        self._copy_leaf = copy_leaf
        self._made: dict[int, tuple[Any, Any]] = {}  # both are kept, since an id may be reused
        self.tensors: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self.modules: dict[int, torch.nn.Module] = {}
        self.without_hooks: list[str] = []

    def of(self, value: Any) -> Any:
        """What stands in for a value.

        Raises:
            CannotStandInError: Nothing does.
        """
        known = self._made.get(id(value))
        if known is not None:
            return known[1]
        if type(value) is Untouchable:
            return value
        if isinstance(value, torch.Tensor):
            return self._tensor(value)
        if isinstance(value, torch.nn.Module):
            return self._module(value)
        if original_function(value) is not None:
            return self.of(original_function(value))
        if isinstance(value, MethodType):
            owner = self.of(value.__self__)
            return value if owner is value.__self__ else MethodType(value.__func__, owner)
        if type(value) is partial:
            return partial(self.of(value.func), *self.of(value.args), **self.of(value.keywords))
        return self._container(value)

    def _keep(self, value: Any, made: _Made) -> _Made:
        self._made[id(value)] = (value, made)
        return made

    def _container(self, value: Any) -> Any:
        kind = type(value)
        if kind in _MAPPINGS:
            made = self._keep(value, copy.copy(value))
            for key, item in value.items():
                made[key] = self.of(item)
            return made
        if kind in (list, deque):
            made = self._keep(value, copy.copy(value))
            for place, item in enumerate(value):
                made[place] = self.of(item)
            return made
        if kind is tuple:
            return tuple([self.of(item) for item in value])
        if isinstance(value, tuple) and hasattr(value, "_make"):
            return value._make([self.of(item) for item in value])
        if kind is set:
            return self._keep(value, set(value))
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return self._dataclass(value)
        if isinstance(value, _HARMLESS):
            return value
        return copy_of_object(value, self.of, self._keep)

    def _dataclass(self, value: Any) -> Any:
        made = self._keep(value, copy.copy(value))
        for field in dataclasses.fields(value):
            if hasattr(value, field.name):
                object.__setattr__(made, field.name, self.of(getattr(value, field.name)))
        if isinstance(value, dict):  # as the outputs of transformers
            for key, item in value.items():
                dict.__setitem__(made, key, self.of(item))
        return made

    def _tensor(self, value: torch.Tensor) -> torch.Tensor:
        try:
            made: torch.Tensor
            if value.grad_fn is None and value.is_leaf:
                made = self._copy_leaf(value)
            else:
                bare = self._copy_leaf(value.detach())
                with torch.enable_grad():
                    made = bare.requires_grad_().clone() if value.requires_grad else bare
        except CannotStandInError:
            raise
        except Exception as error:
            raise CannotStandInError(f"a {type(value).__name__} has no copy ({error})") from error
        self.tensors[id(value)] = self._made[id(value)] = (value, made)
        return made

    def _module(self, value: torch.nn.Module) -> torch.nn.Module:
        if is_compiled(value):
            inside: torch.nn.Module = self.of(original_module(value))
            return self._keep(value, inside)
        if isinstance(value, torch.jit.ScriptModule):
            raise CannotStandInError(f"{type(value).__name__} is scripted")
        made = type(value).__new__(type(value))
        self._keep(value, made)
        self.modules[id(made)] = value
        table = vars(made)
        for name, part in vars(value).items():
            if name.endswith("_hooks") and isinstance(part, dict):
                table[name] = self._hooks(value, part)
            elif name in (COMPILED_CALL, TRAINER_ATTRIBUTE):
                table[name] = None  # what the trainer is told must come from the real step alone
            else:
                table[name] = self.of(part)
        return made

    def _hooks(self, module: torch.nn.Module, hooks: dict[Any, Any]) -> dict[Any, Any]:
        """The hooks of torch's own (weight norm) only: a user's must not run twice."""
        kept = {key: hook for key, hook in hooks.items() if _home(hook) == "torch"}
        if any(
            _home(hook) not in ("torch", __package__.partition(".")[0]) for hook in hooks.values()
        ):
            self.without_hooks.append(type(module).__name__)
        return OrderedDict(kept)

    def function(self, value: Any) -> Callable[..., Any]:
        """What stands in for a function that was compiled.

        Raises:
            CannotStandInError: It uses what must not be used a second time (an optimizer).
        """
        while not isinstance(value, torch.nn.Module) and hasattr(value, "__wrapped__"):
            value = value.__wrapped__
        if isinstance(value, (torch.nn.Module, MethodType)):
            made = self.of(value)
            if made is not value:
                return made  # type: ignore[no-any-return]
        if not isinstance(value, FunctionType):
            raise CannotStandInError(f"{type(value).__name__} is no function of Python's")
        cells = tuple([_cell(self._used(cell.cell_contents)) for cell in value.__closure__ or ()])
        names = dict(value.__globals__)
        for name in _names_in(value.__code__) & names.keys():
            names[name] = self._used(names[name])
        made = FunctionType(value.__code__, names, value.__name__, value.__defaults__, cells)
        made.__kwdefaults__ = value.__kwdefaults__
        return made

    def _used(self, value: Any) -> Any:
        """What stands in for something that a function finds around it."""
        if isinstance(value, _HARMLESS) or _home(value) == "torch":
            return value
        made = value if isinstance(value, FunctionType) else self.of(value)
        if isinstance(value, FunctionType) and value.__closure__:
            raise CannotStandInError(f"it calls {value.__name__}, which keeps something")
        if made is value and not isinstance(value, FunctionType):
            raise CannotStandInError(f"it uses a {type(value).__name__}")
        return made


def _home(value: Any) -> str:
    """The top package of what something was written in; an optimizer's is never torch."""
    if isinstance(value, torch.optim.Optimizer):
        return ""
    function = getattr(value, "__func__", value)
    home = getattr(function, "__module__", None) or type(value).__module__
    return str(home).partition(".")[0]


def _cell(value: Any) -> Any:
    def inner() -> Any:
        return value

    (cell,) = inner.__closure__ or ()
    return cell


def _names_in(code: CodeType) -> set[str]:
    """The names that code looks up, with those of the functions in it."""
    found = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found |= _names_in(constant)
    return found


class _Muted:
    """A text stream that one thread cannot write to; all else is the stream's own."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._thread = stream, get_ident()

    def write(self, text: str) -> int:
        return len(text) if get_ident() == self._thread else int(self._stream.write(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def nothing_said() -> Iterator[None]:
    """While this thread runs what the training has run, prints of it and warnings are dropped."""
    with ExitStack() as handles:
        handles.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        for redirect, stream in ((redirect_stdout, sys.stdout), (redirect_stderr, sys.stderr)):
            if stream is not None:
                handles.enter_context(redirect(_Muted(stream)))
        yield


class RandomStates:
    """Every random state that there is, at one moment."""

    def __init__(self) -> None:
        """Reads them."""
        self._torch, self._python = torch.get_rng_state(), random.getstate()
        numpy = sys.modules.get("numpy")
        self._numpy = None if numpy is None else numpy.random.get_state()
        on_cuda = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        self._cuda = torch.cuda.get_rng_state_all() if on_cuda else []

    def restore(self) -> None:
        """Sets them."""
        torch.set_rng_state(self._torch)
        random.setstate(self._python)
        if self._numpy is not None:
            sys.modules["numpy"].random.set_state(self._numpy)
        if self._cuda:
            torch.cuda.set_rng_state_all(self._cuda)


@contextmanager
def random_states_of(begin: RandomStates) -> Iterator[None]:
    """Begins with other random states, and gives every one back what it was.

    Args:
        begin: What the code inside begins with.
    """
    before = RandomStates()
    begin.restore()
    try:
        yield
    finally:
        before.restore()
