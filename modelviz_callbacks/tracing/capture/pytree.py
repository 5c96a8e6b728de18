"""Walks what models take and return: tensors inside anything, named by their path.

What a pytree knows (torch's own registry: tuples, dictionaries, named tuples, the outputs of
transformers), dataclasses and plain objects with attributes are walked; anything else is a
leaf without tensors. The walk replaces tensors by something else, and can put them back.
"""

from __future__ import annotations

import copy
import dataclasses
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from modelviz_callbacks.tracing.capture.torch_internals import pytree

# How deep plain objects are walked: a cache of layers of tensors is three.
_MAX_DEPTH = 8

# Values that hold no tensor and cannot change: kept as they are.
PLAIN_TYPES = (
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    type(None),
    type(Ellipsis),
    type,
    range,
    torch.dtype,
    torch.device,
    torch.layout,
    torch.memory_format,
    torch.Size,
    torch.SymInt,
    torch.SymFloat,
    torch.SymBool,
)


class TreeSpec:
    """A walked container: what it was, and its children with their steps in a path.

    Attributes:
        kind: The container's class.
        steps: One step a child: ``[0]``, ``['image']``, ``.logits``.
        children: `TreeSpec`, `Leaf`, or what the tensors were replaced by.
    """

    __slots__ = ("_build", "children", "kind", "steps")

    def __init__(
        self,
        kind: type[Any],
        steps: tuple[str, ...],
        children: list[Any],
        build: Callable[[list[Any]], Any],
    ) -> None:
        self.kind = kind
        self.steps = steps
        self.children = children
        self._build = build

    def with_children(self, children: list[Any]) -> TreeSpec:
        """The same container with other children."""
        return TreeSpec(self.kind, self.steps, children, self._build)

    def rebuild(self, replace: Callable[[Any], Any]) -> Any:
        """The container again, with ``replace`` applied to what stands for the tensors."""
        return self._build([rebuild(child, replace) for child in self.children])


class Leaf:
    """A value without tensors; ``value`` is kept only if it is plain."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


class Foreign:
    """Stands for an object that only the training process has.

    Attributes:
        text: What the graph shows for it.
    """

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


def walk(value: Any, replace: Callable[[torch.Tensor], Any], depth: int = 0) -> Any:
    """A copy of a structure's shape with every tensor replaced.

    Args:
        value: Anything.
        replace: Called with each tensor, in order; the same tensor twice is two calls.
        depth: How deep in the structure this value stands.

    Returns:
        What ``replace`` gave, a `TreeSpec` or an `Leaf`. Holds no tensor of ``value``.
    """
    if isinstance(value, torch.Tensor):
        return replace(value)
    if isinstance(value, PLAIN_TYPES):
        return Leaf(value)
    if depth >= _MAX_DEPTH:
        return Leaf(None)
    parts = _open(value)
    if parts is None:
        return Leaf(value if _is_harmless(value) else None)
    steps, children, build = parts
    walked = [walk(child, replace, depth + 1) for child in children]
    return TreeSpec(type(value), steps, walked, build)


def rebuild(walked: Any, replace: Callable[[Any], Any]) -> Any:
    """The structure that `walk` walked, with ``replace`` applied to what stands for tensors."""
    if isinstance(walked, TreeSpec):
        return walked.rebuild(replace)
    if isinstance(walked, Leaf):
        return walked.value
    return replace(walked)


def map_leaves(walked: Any, change: Callable[[Any], Any]) -> Any:
    """A walked structure with something else standing for its tensors."""
    if isinstance(walked, TreeSpec):
        return walked.with_children([map_leaves(child, change) for child in walked.children])
    return walked if isinstance(walked, Leaf) else change(walked)


def leaves(walked: Any, path: str) -> Iterator[tuple[str, Any]]:
    """What stands for the tensors of a walked structure, each with its path, in order."""
    if isinstance(walked, TreeSpec):
        for step, child in zip(walked.steps, walked.children, strict=True):
            yield from leaves(child, path + step)
    elif not isinstance(walked, Leaf):
        yield path, walked


_Parts = tuple[tuple[str, ...], list[Any], Callable[[list[Any]], Any]]


def _open(value: Any) -> _Parts | None:
    kind = type(value)
    if kind in (list, tuple):
        return tuple(f"[{index}]" for index in range(len(value))), list(value), kind
    if kind is dict:
        keys = list(value)
        return (
            tuple(f"[{key!r}]" if isinstance(key, (str, int)) else f"[{key}]" for key in keys),
            list(value.values()),
            lambda children: dict(zip(keys, children, strict=True)),
        )
    if pytree is None:
        if isinstance(value, tuple) and hasattr(kind, "_fields"):
            return _open_named_tuple(value)
    elif kind in pytree.SUPPORTED_NODES or pytree.is_namedtuple_instance(value):
        return _open_pytree(value)
    if isinstance(value, Mapping):
        return _open_mapping(value)
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value) if hasattr(value, field.name)]
        return _open_attributes(value, names)
    if _is_plain_object(value) and _mentions_tensor(value, 0, set()):
        return _open_attributes(value, list(vars(value)))
    return None


def _open_pytree(value: Any) -> _Parts:
    children, spec = pytree.tree_flatten(value, is_leaf=lambda part: part is not value)
    keyed, _ = pytree.tree_flatten_with_path(value, is_leaf=lambda part: part is not value)
    steps = tuple(_step(value, path) for path, _ in keyed)
    return steps, children, lambda parts: pytree.tree_unflatten(parts, spec)


def _step(value: Any, path: tuple[Any, ...]) -> str:
    if not path:
        return ""
    key = path[0]
    name = getattr(key, "key", None)
    # transformers' outputs are dictionaries and dataclasses: people write `out.logits`.
    if isinstance(name, str) and dataclasses.is_dataclass(value):
        return f".{name}"
    return str(key) if hasattr(key, "get") else f"[{key}]"


def _open_named_tuple(value: Any) -> _Parts:
    kind = type(value)
    return tuple(f".{name}" for name in kind._fields), list(value), lambda parts: kind(*parts)


def _open_mapping(value: Mapping[Any, Any]) -> _Parts | None:
    """A mapping of somebody's own: by its items, whatever it keeps them in."""
    keys = list(value)

    def build(children: list[Any]) -> Any:
        made = copy.copy(value)
        for key, child in zip(keys, children, strict=True):
            made[key] = child  # type: ignore[index]
        return made

    return tuple(f"[{key!r}]" for key in keys), [value[key] for key in keys], build


def _open_attributes(value: Any, names: list[str]) -> _Parts:
    kind: Any = type(value)
    rest = {
        name: attribute
        for name, attribute in getattr(value, "__dict__", {}).items()
        if name not in names and _is_harmless(attribute)
    }

    def build(children: list[Any]) -> Any:
        made = kind.__new__(kind)
        for name, attribute in (*rest.items(), *zip(names, children, strict=True)):
            object.__setattr__(made, name, attribute)
        return made

    children = [getattr(value, name) for name in names]
    # Private attributes are how an object keeps its parts, not what they are called.
    steps = tuple("" if name.startswith("_") else f".{name}" for name in names)
    return steps, children, build


def _is_plain_object(value: Any) -> bool:
    return hasattr(value, "__dict__") and not isinstance(
        value,
        (
            torch.nn.Module,
            type,
            types.ModuleType,
            types.FunctionType,
            types.MethodType,
            types.BuiltinFunctionType,
        ),
    )


def _mentions_tensor(value: Any, depth: int, seen: set[int]) -> bool:
    """Whether a tensor lies a few attributes or items down."""
    if isinstance(value, torch.Tensor):
        return True
    if depth >= 4 or isinstance(value, PLAIN_TYPES) or id(value) in seen:
        return False
    seen.add(id(value))
    if isinstance(value, dict):
        parts: list[Any] = list(value.values())
    elif isinstance(value, (list, tuple)):
        parts = list(value)
    elif _is_plain_object(value):
        parts = list(vars(value).values())
    else:
        return False
    return any(_mentions_tensor(part, depth + 1, seen) for part in parts)


def _is_harmless(value: Any) -> bool:
    """Whether keeping the value keeps no tensor alive."""
    return not isinstance(value, torch.Tensor) and not _mentions_tensor(value, 0, set())


def as_walked(value: Any) -> Any:
    """An encoded argument (plain containers of records) in the form that `walk` gives."""
    if isinstance(value, (tuple, list)):
        steps = tuple(f"[{index}]" for index in range(len(value)))
        return TreeSpec(type(value), steps, [as_walked(item) for item in value], type(value))
    if isinstance(value, dict):
        keys = list(value)
        return TreeSpec(
            dict,
            tuple(f"[{key!r}]" for key in keys),
            [as_walked(item) for item in value.values()],
            lambda children: dict(zip(keys, children, strict=True)),
        )
    return Leaf(value) if isinstance(value, (*PLAIN_TYPES, slice)) else value


def python_text(value: Any) -> str:
    """A value that JSON has no type for, as text without addresses."""
    if isinstance(value, Foreign):
        return value.text
    if isinstance(value, (torch.dtype, torch.device, torch.layout, torch.memory_format, complex)):
        return str(value)
    if value is Ellipsis:
        return "..."
    qualname = getattr(value, "__qualname__", None)
    if qualname is not None:
        return f"{getattr(value, '__module__', '')}.{qualname}".lstrip(".")
    shape = getattr(value, "shape", None)
    suffix = f"(shape={tuple(shape)})" if isinstance(shape, tuple) else ""
    return f"{type(value).__module__}.{type(value).__qualname__}{suffix}"
