"""The author's functions between a module's forward and an op."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from modelviz_callbacks import ModelGraph, trace
from modelviz_callbacks.graph import home_of, without_functions
from modelviz_callbacks.graph.json_format import dumps, loads
from modelviz_callbacks.tracing import Capture
from modelviz_callbacks.tracing.lowering.to_graph import to_graph
from modelviz_callbacks.tracing.transport.pack import pack
from modelviz_callbacks.tracing.transport.unpack import unpack


def rotate_half(x: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat((-second, first), -1)


def apply_rotary(q: torch.Tensor, k: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return q * 2 + rotate_half(q), k * 2 + rotate_half(k)


def passing_on(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


@passing_on
def decorated(x: torch.Tensor) -> torch.Tensor:
    return sum([(lambda y: y.exp())(part) for part in (x, x + 1)], x)


def halves(x: torch.Tensor) -> Iterator[torch.Tensor]:
    yield x / 2
    yield x / 4


def countdown(x: torch.Tensor, steps: int) -> torch.Tensor:
    return countdown(x * 2 + 1, steps - 1) if steps else x


def integrate(f: nn.Module, y: torch.Tensor) -> torch.Tensor:
    for _ in range(3):
        y = y + 0.1 * f(y)
    return y


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._attend(x)

    def _attend(self, x: torch.Tensor) -> torch.Tensor:
        q, k = apply_rotary(self.q(x), self.k(x))
        return q - k


class Plain(nn.Module):
    """Calls a function on its input, between two ops."""

    def __init__(self, function: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.function(x.relu()))


class Solver(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.field = nn.Sequential(nn.Linear(4, 4), nn.Tanh())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return integrate(self.field, x) + 1


def functions(graph: ModelGraph) -> dict[str, str]:
    """The functions of a graph with what is around them."""
    return {call.name: call.parent for call in graph.modules if call.kind == "function"}


def function_of(graph: ModelGraph, op: str) -> list[str]:
    return [node.scope for node in graph.ops if node.op == op]


X = torch.ones(2, 4)


def test_functions_are_scopes_named_after_their_module_and_nested_as_they_were_called() -> None:
    graph = trace(nn.Sequential(Attention()), X).graph

    assert functions(graph) == {
        "0_Attention/apply_rotary": "0_Attention",
        "0_Attention/rotate_half": "0_Attention/apply_rotary",
        "0_Attention/rotate_half_1": "0_Attention/apply_rotary",
    }
    assert function_of(graph, "cat") == ["0_Attention/rotate_half", "0_Attention/rotate_half_1"]
    assert function_of(graph, "sub") == ["0_Attention"]


def test_the_names_of_nodes_and_modules_are_those_without_functions() -> None:
    graph = trace(nn.Sequential(Attention(), Solver()), X).graph
    plain = without_functions(graph)

    assert [node.name for node in graph.nodes] == [node.name for node in plain.nodes]
    for node in graph.nodes:
        home = home_of(graph.module_by_name, node.scope)
        assert node.name == (f"{home}/{node.label}" if home else node.label)
    assert not functions(plain)


def test_what_enters_and_leaves_a_function_is_what_it_reads_and_what_others_read() -> None:
    graph = trace(Attention(), X).graph
    rotary = graph.module_by_name["apply_rotary"]

    assert [port.ref.node for port in rotary.inputs] == ["q/linear", "k/linear"]
    assert [port.ref.node for port in rotary.outputs] == ["add", "add_1"]


def test_a_function_that_calls_a_module_is_around_it() -> None:
    graph = trace(Solver(), X).graph

    assert functions(graph) == {"integrate": ""}
    calls = [call for call in graph.modules if call.path == "field"]
    assert [call.name for call in calls] == ["field", "field_1", "field_2"]
    assert {call.parent for call in calls} == {"integrate"}
    assert graph.by_name["field/0_Linear/linear"].scope == "field/0_Linear"


def test_modules_of_a_list_that_a_function_calls_are_in_the_function() -> None:
    class Stack(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))

        def run(self, x: torch.Tensor) -> torch.Tensor:
            for layer in self.layers:
                x = layer(x)
            return x

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.run(x) + 1

    graph = trace(Stack(), X).graph

    assert [(call.name, call.parent) for call in graph.modules] == [
        ("run", ""),
        ("layers/0_Linear", "run"),
        ("layers/1_Linear", "run"),
    ]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: sum([y + 1 for y in (x, x)], x),
        torch.nn.functional.gelu,
        lambda x: sum(halves(x), x),
        nn.TransformerEncoderLayer(4, 2, 8, batch_first=True),
    ],
)
def test_what_has_no_name_of_the_author_s_is_no_scope(function: Callable[..., Any]) -> None:
    assert functions(trace(Plain(function), torch.ones(2, 3, 4)).graph) == {}


def test_a_decorated_function_is_itself_and_not_its_wrapper() -> None:
    assert functions(trace(Plain(decorated), X).graph) == {"decorated": ""}


def test_a_function_that_calls_itself_is_one_scope() -> None:
    graph = trace(Plain(lambda x: countdown(x, 5)), X).graph

    assert functions(graph) == {"countdown": ""}
    assert function_of(graph, "mul") == ["countdown"] * 5


def test_each_call_of_a_function_in_a_loop_is_a_scope_of_its_own() -> None:
    def twice(x: torch.Tensor) -> torch.Tensor:
        return rotate_half(rotate_half(x))

    graph = trace(Plain(lambda x: twice(twice(x))), X).graph

    assert functions(graph) == {
        "twice": "",
        "rotate_half": "twice",
        "rotate_half_1": "twice",
        "twice_1": "",
        "rotate_half_2": "twice_1",
        "rotate_half_3": "twice_1",
    }


def test_a_function_of_one_op_and_a_method_that_is_all_of_its_forward_tell_nothing() -> None:
    def double(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    assert functions(trace(Plain(double), X).graph) == {}
    assert "_attend" not in functions(trace(Attention(), X).graph)


def test_a_library_is_one_scope_whatever_it_calls_inside() -> None:
    library = pytest.importorskip("transformers.models.llama.modeling_llama")

    def rotated(x: torch.Tensor) -> torch.Tensor:
        q, k = library.apply_rotary_pos_emb(x, x + 1, x, x)
        return q + k

    graph = trace(Plain(rotated), torch.ones(2, 3, 4, 4)).graph

    assert functions(graph) == {"rotated": "", "apply_rotary_pos_emb": "rotated"}


def test_functions_go_along_to_another_process_and_through_a_file() -> None:
    model = nn.Sequential(Attention(), Solver())
    capture = Capture(model)
    capture.start((X,), {})
    recording = capture.finish(model(X))
    graph = to_graph(recording)

    assert functions(graph)
    assert to_graph(unpack(pack(recording))) == graph
    assert loads(ModelGraph, dumps(graph)) == graph


def test_no_frame_is_held_once_the_recording_is_over() -> None:
    model = Solver()
    capture = Capture(model)
    capture.start((X,), {})
    result = model(X)
    capture.stop()
    watcher = capture.recorder.functions

    assert watcher.frame is None
    assert not watcher._frames
    assert not watcher._levels
    assert functions(to_graph(capture.finish(result))) == {"integrate": ""}


def test_what_a_function_held_is_gone_when_the_next_op_runs() -> None:
    gone: list[bool] = []

    def helper(x: torch.Tensor) -> torch.Tensor:
        inner = x + 1
        kept.append(weakref.ref(inner))
        return inner.exp() * 2

    class Looking(TorchDispatchMode):  # where the op begins to run
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if func is torch.ops.aten.tanh.default:
                gone.append(kept[0]() is None)
            return func(*args, **(kwargs or {}))

    kept: list[Any] = []
    model = Plain(helper).requires_grad_(False)
    with Looking():
        graph = trace(model, X).graph

    assert functions(graph) == {"helper": ""}
    assert gone == [True]
