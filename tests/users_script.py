"""What a user writes: type checkers look at it (`make check`), nobody runs it.

A public name that were ``Any`` would fail here: `assert_type` wants the very type.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import fx, nn
from typing_extensions import assert_type

import modelviz_callbacks
from modelviz_callbacks import GraphHook, GraphLogger, ModelGraph, Trace, trace
from modelviz_callbacks.graph import Node
from modelviz_callbacks.integrations.fabric import GraphCallback
from modelviz_callbacks.report import Refusal, Report

model = nn.Linear(4, 2)
t = trace(model, torch.zeros(1, 4))
assert_type(t, Trace)
assert_type(t.graph, ModelGraph)
assert_type(t.program, fx.GraphModule)
assert_type(t.save_svg("model.svg", depth=2, direction="right"), Path)
assert_type(t.save_onnx("model.onnx", weights=True, input_names=["features"]), Path)
assert_type(t.graph.ops, tuple[Node, ...])
assert_type(t.graph.ops[0].outputs[0].shape, tuple[int, ...] | None)
assert_type(t.graph.parameter_count, int)
assert_type(ModelGraph.load("graph.json"), ModelGraph)

hook = GraphHook(model, name="net", formats=["svg"], depth=2, fold_classes=("Block",))
assert_type(hook.report, Report)
assert_type(hook.report.files, list[str])
assert_type(hook.report.refused, list[Refusal])
with GraphHook(model) as entered:
    assert_type(entered, GraphHook)
assert_type(GraphLogger(profile_step=3, stage="validate").report, Report | None)
assert_type(GraphCallback(onnx=False).report, Report | None)

# What is wrong is seen: an ignore that is not needed is an error of its own.
GraphHook(object())  # type: ignore[arg-type]
GraphHook(model, colour=1)  # type: ignore[call-arg]
GraphHook(model, formats=["tiff"])  # type: ignore[list-item]
print(modelviz_callbacks.GraphHok)  # type: ignore[attr-defined]
t.save_onnx("model.onnx", weight=True)  # type: ignore[call-arg]
t.save_svg("model.svg", depht=2)  # type: ignore[call-arg]
