"""Walks what models take and return: tensors inside anything, named by their path.

What a pytree knows (torch's own registry: tuples, dictionaries, named tuples, the outputs of
transformers), dataclasses and plain objects with attributes are walked; anything else is a
leaf without tensors. The walk replaces tensors by something else, and can put them back.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import types
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

import torch

from modelviz_callbacks.tracing.capture.object_parts import (
    PLAIN_TYPES,
    attributes_of,
    is_harmless,
    is_plain_object,
    mentions_tensor,
)
from modelviz_callbacks.tracing.capture.torch_internals import pytree

# How deep plain objects are walked: a cache of layers of tensors is three.
_MAX_DEPTH = 8


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
    # By the class alone: asking an object may run code of somebody's own, and raise.
    kind = type(value)
    if issubclass(kind, torch.Tensor):
        return replace(value)
    if issubclass(kind, PLAIN_TYPES):
        return Leaf(value)
    if depth >= _MAX_DEPTH:
        return Leaf(None)
    parts = _open(value)
    if parts is None:
        return Leaf(value if is_harmless(value) else None)
    steps, children, build = parts
    walked = [walk(child, replace, depth + 1) for child in children]
    return TreeSpec(type(value), steps, walked, build)


# Iterators whose values are there already, in what they keep.
_OVER_LISTS: tuple[type[Any], ...] = (type(iter([])), type(iter(())))


def listed(value: Any) -> Any:
    """The values of an iterator over a list or a tuple, which none is taken out of; else itself."""
    return list(copy.copy(value)) if type(value) in _OVER_LISTS else value


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
    """The parts of a container, opened in the first way that it allows.

    Opening runs code of somebody's own (a flatten function, ``__getattr__``, ``__len__``), which
    may raise anything; the object may still open in another way.
    """
    for opens in _WAYS:
        try:
            parts = opens(value)
        except Exception:
            continue
        if parts is not None:
            return _with_attributes(value, parts) if opens in _BY_ITEMS else parts
    return None


class _Shown:
    """A private mapping whose items an object shows as its own, and the steps to them."""

    def __init__(self, mapping: Any, steps: tuple[str, ...]) -> None:
        self.mapping, self.steps = mapping, steps


def _open_builtin(value: Any) -> _Parts | None:
    kind = type(value)
    if kind in (list, tuple):
        return _indices(len(value)), list(value), kind
    if kind is dict:
        keys = list(value)
        return (
            _key_steps(keys),
            list(value.values()),
            lambda children: dict(zip(keys, children, strict=True)),
        )
    if kind is _Shown:
        parts = _open(value.mapping)
        if parts is None:
            return None
        return (*value.steps, *parts[0][len(value.steps) :]), *parts[1:]
    return None


def _open_registered(value: Any) -> _Parts | None:
    kind = type(value)
    if pytree is None:
        named = issubclass(kind, tuple) and hasattr(kind, "_fields")
        return _open_named_tuple(value) if named else None
    if kind not in pytree.SUPPORTED_NODES and not pytree.is_namedtuple_instance(value):
        return None
    children, spec = pytree.tree_flatten(value, is_leaf=lambda part: part is not value)
    return (
        _registered_steps(value, children),
        children,
        lambda parts: pytree.tree_unflatten(parts, spec),
    )


def _registered_steps(value: Any, children: list[Any]) -> tuple[str, ...]:
    """The steps to the children of a registered container; indices where it has no key paths."""
    try:
        keyed, _ = pytree.tree_flatten_with_path(value, is_leaf=lambda part: part is not value)
        steps = tuple(_step(value, path) for path, _ in keyed)
    except Exception:  # registered without key paths, or with some that raise
        steps = ()
    if len(steps) == len(children) == len(set(steps)):
        return steps
    if dataclasses.is_dataclass(value):
        names = [f.name for f in dataclasses.fields(value) if _get(value, f.name) is not None]
        if len(names) == len(children) and all(
            _get(value, name) is child for name, child in zip(names, children, strict=True)
        ):
            return tuple(f".{name}" for name in names)
    return _indices(len(children))


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


def _open_mapping(value: Any) -> _Parts | None:
    """A mapping of somebody's own: by its items, whatever it keeps them in."""
    if not issubclass(type(value), Mapping):
        return None
    keys = list(value)

    def build(children: list[Any]) -> Any:
        given = dict(zip(keys, children, strict=True))
        if type(value) is types.MappingProxyType:
            return types.MappingProxyType(given)
        made = copy.copy(value)
        stores = _own_stores(made)
        if isinstance(made, MutableMapping):
            for key, child in given.items():
                made[key] = child
            return made
        for store in stores:
            store.update({key: child for key, child in given.items() if key in store})
        return made if stores else given

    return _key_steps(keys), [value[key] for key in keys], build


def _own_stores(made: Any) -> list[dict[Any, Any]]:
    """Gives a copied mapping dictionaries of its own: a plain copy shares the original's."""
    attributes = getattr(made, "__dict__", {})
    stores = {name: dict(part) for name, part in attributes.items() if type(part) is dict}
    attributes.update(stores)
    return list(stores.values())


def _open_collection(value: Any) -> _Parts | None:
    """Subclasses of lists and tuples, and sets, with tensors in them."""
    kind = type(value)
    if kind in _OVER_LISTS:
        items = listed(value)
        return _indices(len(items)), items, iter
    if not issubclass(kind, (tuple, list, set, frozenset)):
        return None
    if not mentions_tensor(value, 0, set()):
        return None
    if issubclass(kind, tuple):
        children = list(tuple.__iter__(value))
        return _indices(len(children)), children, lambda parts: tuple.__new__(kind, parts)
    if issubclass(kind, list):
        children = list(list.__iter__(value))

        def build(parts: list[Any]) -> Any:
            made = copy.copy(value)
            made[:] = parts
            return made

        return _indices(len(children)), children, build
    children = list(value)
    return _indices(len(children)), children, kind


def _with_attributes(value: Any, parts: _Parts) -> _Parts:
    """The items of a container of somebody's own, and the tensors that it has beside them."""
    steps, children, build = parts
    known: set[int] = set()
    for child in children:
        walk(child, lambda tensor: known.add(id(tensor)))

    def is_new(part: Any) -> bool:
        found: set[int] = set()
        walk(part, lambda tensor: found.add(id(tensor)))
        return bool(found - known)

    attributes, shown = attributes_of(value), _properties(type(value))
    more = {
        name: part
        for name, part in attributes.items()
        # What it shows in no way is its own bookkeeping.
        if (not name.startswith("_") or name in shown) and is_new(part)
    }
    places = {id(child): place for place, child in enumerate(children)}
    # A tensor that is an item and an attribute is one.
    twins = {
        name: places[id(part)]
        for name, part in attributes.items()
        if isinstance(part, torch.Tensor) and id(part) in places
    }
    if not more and not twins:
        return parts
    count = len(children)

    def build_both(both: list[Any]) -> Any:
        made = build(both[:count])
        given = {name: both[place] for name, place in twins.items()}
        for name, child in (*zip(more, both[count:], strict=True), *given.items()):
            with contextlib.suppress(AttributeError, TypeError):  # a plain one in its place
                object.__setattr__(made, name, child)
        return made

    named = _attribute_steps(type(value), more, list(more))
    return (*steps, *named), [*children, *more.values()], build_both


def _open_partial(value: Any) -> _Parts | None:
    """What a function was given beforehand."""
    if type(value) is not functools.partial or not mentions_tensor(value, 0, set()):
        return None

    def build(parts: list[Any]) -> Any:
        return functools.partial(value.func, *parts[0], **parts[1])

    return (".args", ".keywords"), [value.args, value.keywords], build


def _open_dataclass(value: Any) -> _Parts | None:
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return None
    names = [field.name for field in dataclasses.fields(value) if hasattr(value, field.name)]
    more = [
        name
        for name, part in attributes_of(value).items()
        if name not in names and mentions_tensor(part, 0, set())
    ]
    return _open_attributes(value, names + more)


def _open_object(value: Any) -> _Parts | None:
    if not is_plain_object(value) or not mentions_tensor(value, 0, set()):
        return None
    return _open_attributes(value, list(attributes_of(value)))


def _open_attributes(value: Any, names: list[str]) -> _Parts:
    kind: Any = type(value)
    found = attributes_of(value)
    rest = {
        name: attribute
        for name, attribute in found.items()
        if name not in names and is_harmless(attribute)
    }
    parts = {name: found[name] if name in found else getattr(value, name) for name in names}
    # A tensor that an object shows under a public name and keeps under a private one is one.
    public = {id(part): name for name, part in parts.items() if not name.startswith("_")}
    twins = {
        name: public[id(part)]
        for name, part in parts.items()
        if name.startswith("_") and id(part) in public and isinstance(part, torch.Tensor)
    }
    names = [name for name in names if name not in twins]

    def build(children: list[Any]) -> Any:
        made = kind.__new__(kind)
        given = dict(zip(names, children, strict=True))
        given |= {name: given[twin] for name, twin in twins.items()}
        for name, attribute in (*rest.items(), *given.items()):
            object.__setattr__(made, name, attribute)
        return made

    shown = {name: _as_shown(value, parts[name]) for name in names if name.startswith("_")}
    shown = {name: part for name, part in shown.items() if part is not None}
    steps = _attribute_steps(kind, parts, [name for name in names if name not in shown])
    waiting = iter(steps)
    return (
        tuple("" if name in shown else next(waiting) for name in names),
        [shown.get(name, parts[name]) for name in names],
        build,
    )


def _as_shown(value: Any, part: Any) -> _Shown | None:
    """What an object keeps under a private name, if it shows it: as attributes, or as items."""
    if not issubclass(type(part), Mapping) or not mentions_tensor(part, 0, set()):
        return None
    keys = list(part)
    names = [key for key in keys if isinstance(key, str) and key.isidentifier()]
    has_attributes = hasattr(type(value), "__getattr__") and len(names) == len(keys)
    if has_attributes and all(_get(value, name) is part[name] for name in names):
        return _Shown(part, tuple(f".{name}" for name in names))
    if hasattr(type(value), "__getitem__") and all(value[key] is part[key] for key in keys):
        return _Shown(part, _key_steps(keys))
    return None


def _attribute_steps(kind: type[Any], parts: dict[str, Any], names: list[str]) -> tuple[str, ...]:
    """The steps to attributes: by the property that shows a private one, if there is one.

    Private attributes are how an object keeps its parts, not what they are called: where only one
    of them holds tensors, its parts are the object's. Where several do, their names tell them
    apart.
    """
    shown = _properties(kind) if any(name.startswith("_") for name in names) else {}
    unnamed = [
        name
        for name in names
        if name.startswith("_") and name not in shown and mentions_tensor(parts[name], 0, set())
    ]

    has_others = any(
        mentions_tensor(parts[name], 0, set()) for name in names if name not in unnamed
    )

    def step(name: str) -> str:
        if not name.startswith("_"):
            return f".{name}"
        if name in shown:
            return f".{shown[name]}"
        is_one_of_several = isinstance(parts[name], torch.Tensor) and has_others
        return f".{name}" if len(unnamed) > 1 or is_one_of_several else ""

    return tuple(map(step, names))


def _properties(kind: type[Any]) -> dict[str, str]:
    """The public properties of a class by the private attribute that each shows.

    Read off their code, since to call them may run anything.
    """
    shown: dict[str, str] = {}
    for cls in kind.__mro__:
        for name, member in vars(cls).items():
            getter = getattr(member, "fget", None) if isinstance(member, property) else None
            code = getattr(getter, "__code__", None)
            if code is None or name.startswith("_"):
                continue
            if len(code.co_names) == 1:
                shown.setdefault(code.co_names[0], name)
            elif f"_{name}" in code.co_names:
                shown.setdefault(f"_{name}", name)
    return shown


_WAYS: tuple[Callable[[Any], _Parts | None], ...] = (
    _open_builtin,
    _open_registered,
    _open_mapping,
    _open_collection,
    _open_partial,
    _open_dataclass,
    _open_object,
)

# Those that show items alone; what is registered has what its author says it has.
_BY_ITEMS = (_open_mapping, _open_collection)


def _indices(count: int) -> tuple[str, ...]:
    return tuple(f"[{index}]" for index in range(count))


def _key_steps(keys: list[Any]) -> tuple[str, ...]:
    """The steps to the items of a mapping, unique."""
    steps = [_key_step(index, key) for index, key in enumerate(keys)]
    if len(set(steps)) < len(steps):
        steps = [f"{step[:-1]} #{index}]" for index, step in enumerate(steps)]
    return tuple(steps)


def _key_step(index: int, key: Any) -> str:
    if isinstance(key, (str, int)):
        return f"[{key!r}]"
    if isinstance(key, torch.Tensor):
        return f"[key {index}]"
    try:
        return f"[{key}]"
    except Exception:  # somebody's own ``__str__``
        return f"[key {index}]"


def _get(value: Any, name: str) -> Any:
    """An attribute; ``None`` where there is none or asking for it raises."""
    try:
        return getattr(value, name, None)
    except Exception:
        return None


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
    qualname = _get(value, "__qualname__")
    if isinstance(qualname, str):
        return f"{_get(value, '__module__') or ''}.{qualname}".lstrip(".")
    shape = _get(value, "shape")
    suffix = f"(shape={tuple(shape)})" if isinstance(shape, tuple) else ""
    return f"{type(value).__module__}.{type(value).__qualname__}{suffix}"
