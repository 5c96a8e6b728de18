"""The graph as JSON, both ways, byte for byte the same in any process.

Schema 1: the fields of the dataclasses by name, those at their default left out. Arguments
keep JSON's own types; what JSON has no type for is an object with one key: ``{"$ref": [node,
index]}``, ``{"$python": text}``, ``{"$float": "nan"}``, ``{"$slice": [start, stop, step]}``,
``{"$items": [[key, value], ...]}``.
"""

from __future__ import annotations

import json
import math
from dataclasses import MISSING, Field, fields
from typing import Any, TypeVar

from modelviz_callbacks.errors import GraphFormatError
from modelviz_callbacks.graph.model import (
    ModelGraph,
    ModuleCall,
    Node,
    Note,
    ParameterInfo,
    Port,
    Source,
)
from modelviz_callbacks.graph.values import (
    Argument,
    Items,
    PythonText,
    Ref,
    SliceValue,
    TensorSpec,
    Value,
)

SCHEMA_VERSION = 1

_T = TypeVar("_T")


def dumps(graph: ModelGraph) -> str:
    """The graph as JSON text, one node or module call a line.

    Args:
        graph: Any graph.

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


def loads(text: str, origin: str = "the text") -> ModelGraph:
    """The graph that `dumps` wrote.

    Args:
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
    try:
        lists: dict[str, Any] = {
            name: tuple(_restore(kind, item) for item in data[name])
            for name, kind in _LISTS.items()
        }
        head: dict[str, Any] = {
            field.name: data[field.name] for field in fields(ModelGraph) if field.name not in _LISTS
        }
        return ModelGraph(**head, **lists)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise GraphFormatError(f"{origin} is damaged: {error!r}. Make it again.") from error


# The lists of a graph and what they hold.
_LISTS: dict[str, type[Any]] = {
    "modules": ModuleCall,
    "nodes": Node,
    "parameters": ParameterInfo,
    "notes": Note,
}

# Fields whose values are dataclasses, or tuples of them.
_NESTED: dict[tuple[type[Any], str], type[Any]] = {
    (Node, "outputs"): TensorSpec,
    (Node, "arguments"): Argument,
    (Node, "source"): Source,
    (ModuleCall, "inputs"): Port,
    (ModuleCall, "outputs"): Port,
    (ParameterInfo, "spec"): TensorSpec,
}


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


def _plain(owner: type[Any], name: str, value: Any) -> Any:
    if value is None:
        return None
    if (owner, name) in _NESTED:
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


def _restore(kind: type[_T], data: dict[str, Any]) -> _T:
    values: dict[str, Any] = {}
    for name, value in data.items():
        nested = _NESTED.get((kind, name))
        if nested is not None and value is not None:
            values[name] = (
                tuple(_restore(nested, part) for part in value)
                if isinstance(value, list)
                else _restore(nested, value)
            )
        elif kind is Argument and name == "value":
            values[name] = _value(value)
        elif kind is Port and name == "ref":
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
