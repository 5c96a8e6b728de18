"""The graph as JSON, both ways, byte for byte the same in any process.

Schema 1: the fields of the dataclasses by name, those at their default left out. Arguments
keep JSON's own types; what JSON has no type for is an object with one key: ``{"$ref": [node,
index]}``, ``{"$python": text}``, ``{"$float": "nan"}``, ``{"$slice": [start, stop, step]}``,
``{"$items": [[key, value], ...]}``.
"""

from __future__ import annotations

import json
import math
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from types import NoneType
from typing import Any, TypeVar, get_args, get_type_hints

from modelviz_callbacks.errors import GraphFormatError
from modelviz_callbacks.graph.values import (
    Argument,
    Items,
    PythonText,
    Ref,
    SliceValue,
    Value,
)

SCHEMA_VERSION = 1

# The lists of a graph in the order in which they are written, one entry a line.
_LISTS = ("modules", "nodes", "parameters", "notes")

_T = TypeVar("_T")


def dumps(graph: Any) -> str:
    """A graph as JSON text, one node or module call a line.

    Args:
        graph: Any ``ModelGraph``. What it is made of is read off its dataclasses' fields, so
            that this module need not know them; they know it.

    Returns:
        ASCII text ending in a newline.
    """
    head = {"schema": SCHEMA_VERSION} | {
        field.name: getattr(graph, field.name)
        for field in fields(graph)
        if field.name not in _LISTS
    }
    parts = [f'"{key}": {_line(value)}' for key, value in head.items()]
    for name in _LISTS:
        rows = ",\n".join(f"  {_line(_record(item))}" for item in getattr(graph, name))
        parts.append(f'"{name}": [\n{rows}\n]' if rows else f'"{name}": []')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def loads(kind: type[_T], text: str, origin: str = "the text") -> _T:
    """The graph that `dumps` wrote; see ``ModelGraph.load``.

    Args:
        kind: The class of the graph, a dataclass: ``ModelGraph``.
        text: JSON.
        origin: What to call it in an error, for example its path.

    Returns:
        A graph equal to the one given to `dumps`.

    Raises:
        GraphFormatError: It is not JSON, not a graph, or of a newer schema.
    """
    try:
        data = json.loads(text)
        schema = data["schema"]
    except (ValueError, TypeError, KeyError) as error:
        raise GraphFormatError(
            f"{origin} is not a model graph: expected JSON with a 'schema' number. "
            "Give a graph.json written by this library."
        ) from error
    if schema != SCHEMA_VERSION:
        raise GraphFormatError(
            f"{origin} has schema {schema!r}, this version reads {SCHEMA_VERSION}. "
            "Read it with the version of modelviz-callbacks that wrote it, or a newer one."
        )
    graph_class: Any = kind
    try:
        lists: dict[str, Any] = {
            name: tuple(_restore(_nested(graph_class)[name], item) for item in data[name])
            for name in _LISTS
        }
        head: dict[str, Any] = {
            field.name: data[field.name]
            for field in fields(graph_class)
            if field.name not in _LISTS
        }
        return kind(**head, **lists)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise GraphFormatError(f"{origin} is damaged: {error!r}. Make it again.") from error


@cache
def _nested(owner: Any) -> dict[str, Any]:
    """The fields of a class whose values are dataclasses, or tuples of them, with these classes."""
    found: dict[str, Any] = {}
    for name, hint in get_type_hints(owner).items():
        kinds = {kind for kind in (hint, *get_args(hint)) if kind not in (NoneType, ...)}
        inner = [kind for kind in kinds if is_dataclass(kind)]
        # A reference and an argument's value have a form of their own.
        if len(inner) == 1 and inner[0] is not Ref and owner is not Argument:
            found[name] = inner[0]
    return found


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)


def _is_default(field: Field[Any], value: Any) -> bool:
    return (
        field.default is not MISSING
        and type(value) is type(field.default)
        and (value == field.default)
    )


def _record(item: Any) -> dict[str, Any]:
    found = {}
    for field in fields(item):
        value = getattr(item, field.name)
        if not _is_default(field, value):
            found[field.name] = _plain(type(item), field.name, value)
    return found


def _plain(owner: Any, name: str, value: Any) -> Any:
    if value is None:
        return None
    if name in _nested(owner):
        return [_record(part) for part in value] if isinstance(value, tuple) else _record(value)
    if owner is Argument and name == "value":
        return _plain_value(value)
    if isinstance(value, Ref):
        return [value.node, value.index]
    return list(value) if isinstance(value, tuple) else value


def _plain_value(value: Value) -> Any:
    if isinstance(value, Ref):
        return {"$ref": [value.node, value.index]}
    if isinstance(value, PythonText):
        return {"$python": value.text}
    if isinstance(value, SliceValue):
        return {"$slice": [_plain_value(part) for part in (value.start, value.stop, value.step)]}
    if isinstance(value, Items):
        return {"$items": [[key, _plain_value(item)] for key, item in value.items]}
    if isinstance(value, tuple):
        return [_plain_value(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": repr(value)}  # JSON has no nan and no infinity
    return value


def _restore(kind: Any, data: dict[str, Any]) -> Any:
    values: dict[str, Any] = {}
    for name, value in data.items():
        nested = _nested(kind).get(name)
        if nested is not None and value is not None:
            values[name] = (
                tuple(_restore(nested, part) for part in value)
                if isinstance(value, list)
                else _restore(nested, value)
            )
        elif kind is Argument and name == "value":
            values[name] = _value(value)
        elif name == "ref":
            values[name] = Ref(value[0], value[1])
        else:
            values[name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)


def _value(data: Any) -> Value:
    if isinstance(data, list):
        return tuple(_value(item) for item in data)
    if not isinstance(data, dict):
        return data  # type: ignore[no-any-return]
    ((key, content),) = data.items()
    if key == "$ref":
        return Ref(content[0], content[1])
    if key == "$python":
        return PythonText(content)
    if key == "$float":
        return float(content)
    if key == "$slice":
        return SliceValue(*(_value(part) for part in content))
    if key == "$items":
        return Items(tuple((name, _value(item)) for name, item in content))
    raise ValueError(f"unknown kind of argument {key!r}")
