"""What is known about torch's ops belongs to torch's ops, not to whatever has their names."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.overrides import wrap_torch_function

from modelviz_callbacks import Trace, trace
from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.graph import op_facts as by_target
from modelviz_callbacks.graph.op_facts import OP_FACTS, VERSIONS, OpFact
from modelviz_callbacks.tracing.capture.op_kinds import CallKind, classify
from modelviz_callbacks.tracing.capture.qualified_names import qualified_name
from modelviz_callbacks.tracing.lowering.inference_form import to_inference
from modelviz_callbacks.tracing.op_facts import facts_of, torch_name

# Custom ops named like torch's, the way each is called.
PURE = [
    "add",
    "alias",
    "batch_norm",
    "cdist",
    "conv2d",
    "dropout",
    "embedding",
    "equal",
    "item",
    "linear",
    "lstm",
    "mm",
    "reshape",
    "rrelu",
    "size",
    "tolist",
    "view",
]
WRITING = ["detach_", "relu_", "squeeze_"]


def _define(name: str) -> None:
    @torch.library.custom_op(f"mylib::{name}", mutates_args=())
    def op(x: torch.Tensor) -> torch.Tensor:
        return x @ x.T @ x * 2 + 1


def _define_writing(name: str) -> None:
    @torch.library.custom_op(f"mylib::{name}", mutates_args={"x"})
    def op(x: torch.Tensor) -> None:
        x.mul_(2)


for _name in [*PURE, "tidy_"]:
    _define(_name)
for _name in WRITING:
    _define_writing(_name)


class _Calls(nn.Module):
    """Calls one op between two of torch's."""

    def __init__(self, func: Callable[[torch.Tensor], Any], writes: bool = False) -> None:
        super().__init__()
        self.register_buffer("state", torch.ones(3, 4))
        self.func, self.writes = func, writes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = x.exp()
        made = self.func(self.state if self.writes else h)
        return (self.state if self.writes else made) + h.sin()


def _record(func: Callable[[torch.Tensor], Any], writes: bool = False) -> tuple[Trace, str]:
    """A recording of one call, and the name of its node."""
    torch.manual_seed(0)
    traced = trace(_Calls(func, writes), torch.randn(3, 4))
    known = ("torch.Tensor.exp", "torch.Tensor.sin", "torch.Tensor.add")
    (node,) = [node for node in traced.graph.ops if node.target not in known]
    return traced, node.name


def _assert_is_itself(traced: Trace, name: str) -> None:
    """The op is in the graph as an op of nobody's knowledge, and is run again exactly."""
    node = traced.graph.by_name[name]
    steps = Analysis(traced.graph).steps().of("")
    assert [step.name for step in steps if step.name == name], "it is part of another step"
    assert not any(step.is_quiet for step in steps), "it is told as a change of layout"
    assert not node.reads_value
    assert node.flops is None
    assert by_target.facts_of(node.target) is OpFact.NONE
    torch.manual_seed(0)
    again = traced.replay(torch.randn(3, 4))
    assert torch.equal(again, traced.outputs)
    inference = to_inference(traced.program)
    ours = [
        n for n in inference.graph.nodes if n.op == "call_function" and "mylib" in str(n.target)
    ]
    assert len(ours) <= 1
    for call in ours:
        assert len(call.args) == 1
        assert not call.kwargs


@pytest.mark.parametrize("form", ["op", "overload"])
@pytest.mark.parametrize("name", PURE)
def test_a_custom_op_that_is_named_like_one_of_torchs_is_itself(name: str, form: str) -> None:
    packet = getattr(torch.ops.mylib, name)
    traced, node = _record(packet if form == "op" else packet.default)
    assert traced.graph.by_name[node].op == name
    assert traced.graph.by_name[node].target.startswith(f"torch.ops.mylib.{name}")
    assert traced.graph.by_name[node].arguments[0].name == "x"
    _assert_is_itself(traced, node)


@pytest.mark.parametrize("form", ["op", "overload"])
@pytest.mark.parametrize("name", WRITING)
def test_what_a_custom_op_writes_is_seen_whatever_it_is_called(name: str, form: str) -> None:
    packet = getattr(torch.ops.mylib, name)
    traced, node = _record(packet if form == "op" else packet.default, writes=True)
    assert traced.graph.by_name[node].writes == (0,)
    _assert_is_itself(traced, node)


def test_a_custom_op_that_is_named_in_place_and_writes_nothing_is_no_write() -> None:
    traced, node = _record(torch.ops.mylib.tidy_)
    assert traced.graph.by_name[node].writes == ()
    _assert_is_itself(traced, node)


def _dispatched(name: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """A user's Python function that modes see, as libraries make them."""

    def function(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    function.__name__ = function.__qualname__ = name
    wrap = wrap_torch_function(lambda x: (x,))
    return cast("Callable[[torch.Tensor], torch.Tensor]", wrap(function))


@pytest.mark.parametrize("name", ["backward", "item", "linear", "relu_", "size", "view"])
def test_a_python_function_that_is_named_like_one_of_torchs_is_itself(name: str) -> None:
    traced, node = _record(_dispatched(name))
    assert traced.graph.by_name[node].target == f"{__name__}.{name}"
    assert traced.graph.by_name[node].writes == ()
    _assert_is_itself(traced, node)


def test_a_python_function_dressed_up_as_one_of_torchs_is_not_torchs() -> None:
    @functools.wraps(functional.linear)
    def linear(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    assert torch_name(functional.linear) == "linear"
    assert torch_name(linear) == ""
    assert by_target.torch_name(qualified_name(linear)) == ""


def test_a_method_of_a_tensor_subclass_is_not_torchs() -> None:
    class Tagged(torch.Tensor):
        def item(self) -> Any:
            return self * 2

        @property
        def data(self) -> Any:
            return self * 2

    assert torch_name(Tagged.item) == ""
    assert torch_name(Tagged.data.__get__) == ""  # type: ignore[attr-defined]
    assert classify(Tagged.item) is classify(Tagged.data.__get__) is CallKind.CHECK  # type: ignore[attr-defined]


def test_an_autograd_function_named_like_a_layout_op_is_no_layout_op() -> None:
    assert OpFact.LAYOUT in by_target.facts_of("torch.autograd.ViewBackward0")
    assert OpFact.LAYOUT not in by_target.facts_of("torch.autograd.ViewBackward")


@pytest.mark.parametrize(
    ("called", "name"),
    [
        (torch.Tensor.view, "view"),
        (torch.ops.aten.view, "view"),
        (torch.ops.aten.view.default, "view"),
        (torch.Tensor.__getitem__, "__getitem__"),
        (torch.Tensor.T.__get__, "T.__get__"),  # type: ignore[attr-defined]
        (torch.nn.functional.conv2d, "conv2d"),
        (torch.conv2d, "conv2d"),
        (torch.nn.functional.max_pool2d, "max_pool2d"),
        (torch.empty, "empty"),
        (torch.linalg.solve, "linalg_solve"),
        (torch.fft.rfft, "fft_rfft"),
        (torch.Tensor.backward, "backward"),
    ],
)
def test_torchs_own_function_has_its_row_by_object_and_by_target(called: Any, name: str) -> None:
    assert torch_name(called) in (name, "fn")
    assert by_target.facts_of(qualified_name(called)) is facts_of(called)


def test_a_value_read_by_its_aten_name_is_a_value_read() -> None:
    assert classify(torch.ops.aten.item.default) is CallKind.READ
    assert classify(torch.ops.aten.item) is CallKind.READ


def test_a_float_made_of_a_tensor_is_a_value_read_and_no_layout_op() -> None:
    assert OpFact.LAYOUT in facts_of(torch.Tensor.float)
    assert facts_of(torch.Tensor.__float__) is OpFact.READS_VALUE


def test_a_batch_norm_called_by_its_compiled_name_is_replayed_from_the_state_before() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.zeros(4))
            self.register_buffer("var", torch.ones(4))

        def forward(self, x: torch.Tensor) -> Any:
            y = torch.batch_norm(x, None, None, self.mean, self.var, True, 0.1, 1e-5, False)
            return y, self.mean * 1

    x = torch.randn(3, 4)
    traced = trace(Model(), x)
    again = traced.replay(x)
    assert torch.equal(again[1], traced.outputs[1])
    inference = to_inference(traced.program)
    (norm,) = inference.graph.find_nodes(op="call_function", target=torch.batch_norm)
    assert norm.args[5] is False


def test_a_batch_norm_without_statistics_keeps_the_batchs_own_in_inference_form() -> None:
    class Model(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            weight = x.new_ones(4)
            return torch.batch_norm(x, weight, None, None, None, True, 0.1, 1e-5, False)

    inference = to_inference(trace(Model(), torch.randn(3, 4)).program)
    (norm,) = inference.graph.find_nodes(op="call_function", target=torch.batch_norm)
    assert norm.args[5] is True


# --- the table


def test_no_name_has_two_rows() -> None:
    counts = Counter(name for _, names in by_target._ROWS for name in names.split())
    assert [name for name, count in counts.items() if count > 1] == []


def _functions(name: str) -> Iterator[Any]:
    """What torch has under a name, in all its homes."""
    prop, _, accessor = name.partition(".")
    if accessor:
        yield getattr(getattr(torch.Tensor, prop), accessor)
        return
    for home in (torch, torch.Tensor, functional, torch.autograd, torch.ops.aten):
        found = getattr(home, name, None)
        if callable(found) and not isinstance(found, type) and "module" not in repr(found):
            yield found


@pytest.mark.parametrize("name", [n for n in OP_FACTS if not n.endswith("Backward")])
def test_each_row_is_of_a_function_of_torch_or_says_of_which_version(name: str) -> None:
    functions = list(_functions(name))
    if name in VERSIONS and not functions:
        return
    assert functions
    # Some are other functions under a second name.
    named = [torch_name(func) for func in functions]
    again = ("__ipow__", "__itruediv__", "dsmm", "hsmm", "saddmm", "spmm")
    assert any(found == name for found in named) or name in again


def test_versions_are_told_of_rows_only() -> None:
    assert set(VERSIONS) <= set(OP_FACTS)


def test_each_row_of_autograd_is_a_node_that_torch_makes() -> None:
    x = torch.randn(4, 3, requires_grad=True)
    y = x * 1
    made = [
        torch.ops.aten.alias(y),
        y.as_strided((2, 2), (1, 1)),
        y.clone(),
        y.expand(2, 4, 3),
        y.permute(1, 0),
        y.T.reshape(12),
        torch.ops.aten._reshape_alias(y, (12,), (1,)),
        y.select(0, 1),
        y[:2],
        y.split(2)[0],
        y.unsqueeze(0).squeeze(),
        y.t(),
        y.to(torch.float64),
        y.transpose(0, 1),
        y.unbind()[0],
        torch.unsafe_split(y, 2)[0],
        torch.ops.aten._unsafe_view(y, (12,)),
        y.unsqueeze(0),
        y.view(12),
    ]
    names = {f"torch.autograd.{tensor.grad_fn.name()}" for tensor in made if tensor.grad_fn}
    rows = {name for name in OP_FACTS if name.endswith("Backward")}
    assert rows <= {by_target.torch_name(name) for name in names}
    assert all(OP_FACTS[row] is OpFact.LAYOUT for row in rows)


@pytest.mark.parametrize("name", sorted(n for n, f in OP_FACTS.items() if OpFact.KEEPS_SIZES in f))
@pytest.mark.parametrize("other", [torch.float32, torch.float64])
def test_autograd_keeps_no_tensor_for_what_keeps_sizes(name: str, other: torch.dtype) -> None:
    given = [torch.ones(2, requires_grad=True), torch.ones(2, dtype=other, requires_grad=True)]
    saved: list[torch.Tensor] = []

    def save(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        made = getattr(torch, name)(given)
        assert not saved
        made.exp()
    assert len(saved) == 1  # what is saved is seen
