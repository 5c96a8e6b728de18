"""Chance left out, on both sides: every draw is the middle of what could be drawn.

A file and a model that draw random numbers can be held against each other only so.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import onnx
import torch
from torch.overrides import TorchFunctionMode

_FLOAT = onnx.TensorProto.FLOAT


class MiddleValues(TorchFunctionMode):
    """torch's draws: 0.5 of uniform, the mean of normal, the likelier of two."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        kwargs.pop("generator", None)
        middle = _MIDDLES.get(getattr(func, "__name__", ""))
        if middle is None or getattr(func, "__module__", "") == "torch.nn.init":
            return func(*args, **kwargs)
        return middle(func, args, kwargs)


def _filled(value: float) -> Callable[..., torch.Tensor]:
    def make(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
        drawn: torch.Tensor = func(*args, **kwargs)
        return torch.full_like(drawn, value)

    return make


def _uniform_(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    low = kwargs.get("from", kwargs.get("a", args[1] if len(args) > 1 else 0.0))
    high = kwargs.get("to", kwargs.get("b", args[2] if len(args) > 2 else 1.0))
    return args[0].fill_((low + high) / 2)  # type: ignore[no-any-return]


def _normal_(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    mean = kwargs.get("mean", args[1] if len(args) > 1 else 0.0)
    return args[0].fill_(mean)  # type: ignore[no-any-return]


def _bernoulli_(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    chance = kwargs.get("p", args[1] if len(args) > 1 else 0.5)
    return args[0].copy_(torch.as_tensor(chance) > 0.5)  # type: ignore[no-any-return]


def _exponential_(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    rate = kwargs.get("lambd", args[1] if len(args) > 1 else 1.0)
    return args[0].fill_(math.log(2) / rate)  # type: ignore[no-any-return]


def _randperm(_: Any, args: tuple[Any, ...], __: dict[str, Any]) -> torch.Tensor:
    return torch.arange(args[0])


def _bernoulli(_: Any, args: tuple[Any, ...], __: dict[str, Any]) -> torch.Tensor:
    return (args[0] > 0.5).to(args[0].dtype)


_MIDDLES: dict[str, Callable[..., torch.Tensor]] = {
    "rand": _filled(0.5),
    "rand_like": _filled(0.5),
    "randn": _filled(0.0),
    "randn_like": _filled(0.0),
    "randperm": _randperm,
    "bernoulli": _bernoulli,
    "uniform_": _uniform_,
    "normal_": _normal_,
    "bernoulli_": _bernoulli_,
    "exponential_": _exponential_,
}


def without_chance(data: bytes) -> tuple[bytes, bool]:
    """The same file with constants for draws, and whether there was any draw in it."""
    proto = onnx.ModelProto.FromString(data)
    found = False
    for body in (proto.graph, *proto.functions):
        nodes = [new for node in body.node for new in _settled(node)]
        found |= len(nodes) != len(body.node)
        del body.node[:]
        body.node.extend(nodes)
    return proto.SerializeToString(), found


def _settled(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    if not node.op_type.startswith("Random") and node.op_type != "Bernoulli":
        return [node]
    given = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
    output = node.output[0]
    if node.op_type == "Bernoulli":
        half = onnx.helper.make_tensor("half", _FLOAT, [], [0.5])
        return [
            onnx.helper.make_node("Constant", [], [f"{output}/half"], value=half),
            onnx.helper.make_node("Cast", [node.input[0]], [f"{output}/chance"], to=_FLOAT),
            onnx.helper.make_node(
                "Greater", [f"{output}/chance", f"{output}/half"], [f"{output}/is"]
            ),
            onnx.helper.make_node(
                "Cast", [f"{output}/is"], [output], to=given.get("dtype", _FLOAT)
            ),
        ]
    if "Normal" in node.op_type:
        value = given.get("mean", 0.0)
    else:
        value = (given.get("low", 0.0) + given.get("high", 1.0)) / 2
    middle = onnx.helper.make_tensor("middle", given.get("dtype", _FLOAT), [1], [value])
    if node.input:
        sizes = onnx.helper.make_node("Shape", [node.input[0]], [f"{output}/sizes"])
    else:
        shape = list(given["shape"])
        table = onnx.helper.make_tensor("sizes", onnx.TensorProto.INT64, [len(shape)], shape)
        sizes = onnx.helper.make_node("Constant", [], [f"{output}/sizes"], value=table)
    filled = onnx.helper.make_node("ConstantOfShape", [f"{output}/sizes"], [output], value=middle)
    return [sizes, filled]
