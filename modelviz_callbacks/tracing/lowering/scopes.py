"""Turns the module calls on a tape into named scopes."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from modelviz_callbacks.graph import ModuleCall, NameAllocator, Port
from modelviz_callbacks.tracing.capture.module_paths import paths_of
from modelviz_callbacks.tracing.capture.tape import FunctionCall
from modelviz_callbacks.tracing.capture.wrappers import author_path, class_name, class_of


@dataclass(eq=False)
class Scope:
    """A module call, or a call of a function, being lowered; becomes a `ModuleCall`.

    Attributes:
        name: Of a function only once it is known to be kept.
        is_function: Whether it is a function; ``module`` is ``None`` then, too.
        is_own: Of a function, whether it is a method of the module in whose call it ran.
        label: What to call a function.
        merged: Of a function, whether what it holds belongs to what is around it.
    """

    name: str
    path: str | None
    module: torch.nn.Module | None
    parent: Scope | None
    class_name: str
    call_index: int = 0
    called: bool = True
    training: bool = True
    inputs: tuple[Port, ...] = ()
    outputs: tuple[Port, ...] = ()
    is_function: bool = False
    is_own: bool = False
    label: str = ""
    merged: bool = False

    @property
    def kept(self) -> Scope:
        """The scope itself, or the first one around it that is kept."""
        scope = self
        while scope.merged and scope.parent is not None:
            scope = scope.parent
        return scope

    @property
    def around(self) -> Scope:
        """The first one around it that is kept."""
        return self.parent.kept if self.parent is not None else self

    @property
    def home(self) -> Scope:
        """The module call whose name comes before the names of what it holds."""
        scope = self
        while scope.is_function and scope.parent is not None:
            scope = scope.parent
        return scope

    def freeze(self) -> ModuleCall:
        """The finished module call."""
        return ModuleCall(
            self.name,
            self.path,
            self.class_name,
            self.around.name if self.parent else "",
            self.call_index,
            self.called,
            self.training,
            self.inputs,
            self.outputs,
            kind="function" if self.is_function else "module",
        )


@dataclass
class ScopeTree:
    """Names scopes after the attributes that lead to their modules.

    The chain of scopes is the chain of calls. A call's part of the name is the module's path
    below its caller's: ``cnn`` for an attribute, ``0_Conv2d`` for a number, and a container
    that is not itself called (``ModuleList``) is a scope of its own.
    """

    model: torch.nn.Module
    names: NameAllocator
    all: list[Scope] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.root = Scope("", "", self.model, None, class_name(self.model))
        self.stack = [self.root]
        self._functions: list[Scope | None] = [None]  # of each level of the stack
        self._of_call: dict[int, Scope] = {}
        self._paths: dict[int, list[str]] = {}
        for path, module in paths_of(self.model):
            self._paths.setdefault(id(module), []).append(author_path(path))
        self._calls: dict[int, int] = {}
        self._containers: dict[tuple[str, str], Scope] = {}
        self.by_path: dict[str, Scope] = {"": self.root}

    @property
    def current(self) -> Scope:
        """The innermost open scope."""
        return self.stack[-1]

    @property
    def function(self) -> Scope | None:
        """The innermost function in the module call under way; ``None``: in its own forward."""
        return self._functions[-1]

    def within(self, call: FunctionCall | None) -> None:
        """Goes into a function, or out of all of them, in the module call under way."""
        self._functions[-1] = None if call is None else self._function(call)

    def _function(self, call: FunctionCall) -> Scope:
        """The scope of a function's call; it is one of the graph once it is used."""
        known = self._of_call.get(id(call))
        if known is None:
            parent = self.current if call.parent is None else self._function(call.parent)
            training = self.current.training
            known = Scope("", None, None, parent, call.qualified_name, training=training)
            known.is_function, known.is_own, known.label = True, call.is_own, call.name
            self._of_call[id(call)] = known
            self.all.append(known)
        return known

    def enter(self, module: torch.nn.Module, training: bool) -> Scope:
        """Opens the scope of a module call."""
        count = self._calls.get(id(module), 0)
        self._calls[id(module)] = count + 1
        if module is self.model and count == 0:
            # The model's own forward, also when a training step calls it, is the top itself.
            self.root.training = training
            self.stack.append(self.root)
            self._functions.append(None)
            return self.root
        path, below, steps = self._route(module)
        home = self._containers_to(below, steps[:-1])
        label = _label(steps[-1], module)
        scope = Scope(
            self.names.allocate(home.name, label),
            path,
            module,
            self._functions[-1] or home,
            class_name(module),
            call_index=count,
            training=training,
        )
        self._add(scope)
        self.stack.append(scope)
        self._functions.append(None)
        return scope

    def leave(self, module: torch.nn.Module) -> Scope | None:
        """Closes the scope of a module call, and any that an exception left open inside it."""
        for index in range(len(self.stack) - 1, 0, -1):
            if self.stack[index].module is module:
                scope = self.stack[index]
                del self.stack[index:], self._functions[index:]
                return scope
        return None

    def owner(self, path: str) -> Scope | None:
        """The first scope of the module at a qualified name."""
        return self.by_path.get(path)

    def enclosing(self, path: str) -> Scope | None:
        """The open scope of the module at a qualified name, if it is being called now."""
        return next((scope for scope in reversed(self.stack) if scope.path == path), None)

    def _add(self, scope: Scope) -> None:
        self.all.append(scope)
        if scope.path is not None:
            self.by_path.setdefault(scope.path, scope)

    def _route(self, module: torch.nn.Module) -> tuple[str | None, Scope, list[str]]:
        """A module's path, the open scope it lies below, and the steps from there."""
        paths = self._paths.get(id(module))
        caller = self.current
        if not paths:
            return None, caller, [class_of(module).__name__]
        if module is self.model:
            return "", caller, [class_of(module).__name__]
        if caller.path is not None:
            prefix = f"{caller.path}." if caller.path else ""
            for path in paths:
                if path.startswith(prefix):
                    return path, caller, path[len(prefix) :].split(".")
        return paths[0], caller, [paths[0]]  # called by a module that does not own it

    def _containers_to(self, below: Scope, steps: list[str]) -> Scope:
        """The scopes of the containers between a caller and the module it calls."""
        scope = below
        for step in steps:
            path = f"{scope.path}.{step}" if scope.path else step
            known = self._containers.get((scope.name, path))
            if known is None:
                module = self.model.get_submodule(path)
                known = Scope(
                    self.names.allocate(scope.name, _label(step, module)),
                    path,
                    module,
                    scope,
                    class_name(module),
                    called=False,
                    training=module.training,
                )
                self._containers[scope.name, path] = known
                self._add(known)
            scope = known
        return scope


def _label(step: str, module: torch.nn.Module) -> str:
    return f"{step}_{class_of(module).__name__}" if step.isdigit() else step
