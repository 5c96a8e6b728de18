"""Dataclasses from parsed JSON, each field checked against its type: the file may be anybody's.

A fault is one sentence that says where it is: ``nodes[3].outputs[0].shape: expected ...``.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass, replace
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from modelviz_callbacks.graph.values import (
    Argument,
    Items,
    PythonText,
    Ref,
    SliceValue,
    Value,
)

_T = TypeVar("_T")

# Deeper than any argument of an op, and far from Python's own limit.
_MOST_LEVELS = 60

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60
_SHORT.maxlevel = 2
_SHORT.maxdict = _SHORT.maxlist = 3


class Fault(ValueError):
    """Something in the data is not as its type says.

    Attributes:
        where: The way to it, innermost part first.
        what: What was expected and what was found.
    """

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.where: list[str] = []
        self.what = what

    def __str__(self) -> str:
        path = "".join(reversed(self.where)).removeprefix(".")
        return f"{path}: {self.what}" if path else self.what


def shown(value: object) -> str:
    """A value in an error: one line, not long, whatever it is."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # an integer of too many digits to be written
        return "a huge number"


def restored(kind: type[_T], data: object) -> _T:
    """An object of a dataclass.

    Args:
        kind: The class; its fields have types of those that a graph is made of.
        data: What JSON gave for it.

    Returns:
        The object, whose fields have the types they are declared with.

    Raises:
        Fault: Something is missing, unknown or of another type.
    """
    read = _reader(cast(Any, kind))
    found: _T = read(data)
    return found


_Reader = Callable[[Any], Any]


@cache
def _reader(hint: Any) -> _Reader:
    """What reads a value of a type, and raises `Fault` if it is of another."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint in (str, bool, int):
        return {str: _text, bool: _flag, int: _number}[hint]
    if origin is Literal:
        return lambda data: data if data in inner else _wrong(f"one of {', '.join(inner)}", data)
    if origin in (Union, UnionType):
        (some,) = (_reader(part) for part in inner if part is not NoneType)
        return lambda data: None if data is None else some(data)
    if origin is tuple:
        return _list_of(_reader(inner[0]))
    if hint is Ref:
        return _ref
    if is_dataclass(hint):
        return _object_of(hint)
    raise TypeError(f"no field of a graph has the type {hint!r}")


def _wrong(expected: str, data: object) -> Any:
    raise Fault(f"expected {expected}, found {shown(data)}")


def _text(data: Any) -> str:
    if type(data) is not str:
        _wrong("a text", data)
    if not data.isascii():
        try:
            data.encode()
        except UnicodeEncodeError:
            raise Fault(f"expected a text, found halves of characters in {shown(data)}") from None
    text: str = data
    return text


def _flag(data: Any) -> bool:
    return data if type(data) is bool else _wrong("true or false", data)


def _number(data: Any) -> int:
    return data if type(data) is int else _wrong("a whole number", data)


def _list_of(read: _Reader) -> _Reader:
    def read_list(data: Any) -> Any:
        if type(data) is not list:
            _wrong("a list", data)
        found = []
        for index, item in enumerate(data):
            try:
                found.append(read(item))
            except Fault as fault:
                fault.where.append(f"[{index}]")
                raise
        return tuple(found)

    return read_list


def _object_of(kind: Any) -> _Reader:
    hints = get_type_hints(kind)
    readers: dict[str, _Reader] = {
        # An argument's value has a form of its own.
        name: _value if kind is Argument and name == "value" else _reader(hint)
        for name, hint in hints.items()
    }
    needed = [field.name for field in fields(kind) if field.default is MISSING]

    def read_object(data: Any) -> Any:
        if type(data) is not dict:
            _wrong("an object", data)
        values = {}
        for name, value in data.items():
            read = readers.get(name)
            if read is None:
                raise Fault(f"there is no field {shown(name)}")
            try:
                values[name] = read(value)
            except Fault as fault:
                fault.where.append(f".{name}")
                raise
        for name in needed:
            if name not in values:
                raise Fault(f"the field {name!r} is missing")
        return kind(**values)

    return read_object


def _ref(data: Any) -> Ref:
    if type(data) is not list or len(data) != 2:
        _wrong("a node's name and an output's number", data)
    return Ref(_text(data[0]), _number(data[1]))


def _value(data: Any, levels: int = _MOST_LEVELS) -> Value:
    if not levels:
        raise Fault(f"expected at most {_MOST_LEVELS} levels of lists")
    if type(data) is list:
        return tuple(_value(item, levels - 1) for item in data)
    if type(data) is dict:
        return _tagged(data, levels - 1)
    if type(data) is str:
        return _text(data)
    if type(data) is float and not math.isfinite(data):
        _wrong("a number that a float can be", data)
    value: Value = data
    return value


def _tagged(data: dict[str, Any], levels: int) -> Value:
    """What JSON has no type for: an object with one key that says what it is."""
    if len(data) != 1:
        _wrong("an object with one key", data)
    ((key, content),) = data.items()
    if key == "$ref":
        if type(content) is list and content[2:] == ["shape"]:
            return replace(_ref(content[:2]), shape_only=True)
        return _ref(content)
    if key == "$python":
        return PythonText(_text(content))
    if key == "$float":
        return float(content) if content in ("nan", "inf", "-inf") else _wrong("nan or inf", data)
    if key == "$slice" and type(content) is list and len(content) == 3:
        return SliceValue(*(_value(part, levels) for part in content))
    if key == "$items" and type(content) is list:
        return Items(tuple(_item(item, levels) for item in content))
    raise Fault(f"expected a kind of argument, found {shown(data)}")


def _item(data: Any, levels: int) -> tuple[str, Value]:
    if type(data) is not list or len(data) != 2:
        _wrong("a key and its value", data)
    return _text(data[0]), _value(data[1], levels)
