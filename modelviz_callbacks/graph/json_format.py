"""The graph as JSON, both ways, byte for byte the same in any process.

Schema 2: the fields of the dataclasses by name, those at their default left out. Arguments
keep JSON's own types; what JSON has no type for is an object with one key: ``{"$ref": [node,
index]}`` (``[node, index, "shape"]`` where only the shape is read), ``{"$python": text}``,
``{"$float": "nan"}``, ``{"$slice": [start, stop, step]}``, ``{"$items": [[key, value], ...]}``.
"""

from __future__ import annotations

import json
import math
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from types import NoneType
from typing import Any, TypeVar, get_args, get_type_hints

from modelviz_callbacks.errors import GraphFormatError
from modelviz_callbacks.graph.json_reading import Fault, restored, shown
from modelviz_callbacks.graph.validate import problems
from modelviz_callbacks.graph.values import (
    Argument,
    Items,
    PythonText,
    Ref,
    SliceValue,
    Value,
)

# Schema 1 had no scopes of functions; whatever it has means the same.
SCHEMA_VERSION = 2

# The lists of a graph in the order in which they are written, one entry a line.
_LISTS = ("modules", "nodes", "parameters", "notes")

_NO_GRAPH = (
    "{} is not a model graph: expected JSON with a 'schema' number. "
    "Give a graph.json written by this library."
)

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
        GraphFormatError: It is not JSON, not a graph, a graph that breaks a rule, or of a newer
            schema; the message is one sentence.
    """
    data = _parsed(text, origin)
    schema = data["schema"]
    if type(schema) is not int or not 1 <= schema <= SCHEMA_VERSION:
        raise GraphFormatError(
            f"{origin} has schema {shown(schema)}, this version reads 1 to {SCHEMA_VERSION}. "
            "Read it with the version of modelviz-callbacks that wrote it, or a newer one."
        )
    try:
        graph = restored(kind, {key: value for key, value in data.items() if key != "schema"})
    except Fault as fault:
        raise GraphFormatError(f"{origin} is damaged: {fault}. Make it again.") from fault
    checked: Any = graph
    found = list(problems(checked))
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise GraphFormatError(f"{origin} is damaged: {found[0]}{more}. Make it again.")
    return graph


def _parsed(text: str, origin: str) -> dict[str, Any]:
    try:
        data = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise GraphFormatError(_NO_GRAPH.format(origin)) from error
    if not isinstance(data, dict) or "schema" not in data:
        raise GraphFormatError(_NO_GRAPH.format(origin))
    return data


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


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
        only = ["shape"] if value.shape_only else []
        return {"$ref": [value.node, value.index, *only]}
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
