"""How a call is followed that becomes nodes of ONNX."""

from __future__ import annotations

import torch
from torch import nn

from modelviz_callbacks.writers.onnx.exporter_internals import fake_tensor_mode
from modelviz_callbacks.writers.onnx.translation.torch_exporter import translate

METHODS = ("__call__", "__getattr__")


def test_modules_keep_their_methods_while_a_call_is_followed() -> None:
    before = [vars(nn.Module)[name] for name in METHODS]
    attributes = [dict(vars(method)) for method in before]
    during = []

    def body(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        during.append([vars(nn.Module)[name] for name in METHODS])
        return (x + 1,)

    with fake_tensor_mode():
        examples = (torch.empty(3, 4),)
    model = translate(body, examples)

    assert "Add" in [node.op_type for node in model.graph]
    assert during
    assert all(methods == before for methods in during)
    assert [dict(vars(method)) for method in before] == attributes
