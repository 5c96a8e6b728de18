"""A graph as JSON and back, whatever is in it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from modelviz_callbacks.errors import GraphFormatError
from modelviz_callbacks.graph import (
    Argument,
    Items,
    ModelGraph,
    ModuleCall,
    Node,
    Note,
    ParameterInfo,
    Port,
    PythonText,
    Ref,
    SliceValue,
    Source,
    TensorSpec,
)
from modelviz_callbacks.graph.json_format import dumps, loads

SPEC = TensorSpec((2, 3), "float32", "cuda:0", requires_grad=True)
VALUES = (
    None,
    True,
    3,
    -0.5,
    float("inf"),
    "text",
    PythonText("torch.float16"),
    Ref("x"),
    Ref("split", 1),
    SliceValue(None, 3, None),
    (1, (Ref("x"), "a"), ()),
    Items((("key", Ref("x")), ("other", (1, 2)))),
)
GRAPH = ModelGraph(
    "net",
    "nets.Net",
    nodes=(
        Node("x", "input", "input", outputs=(SPEC,), path="x"),
        Node(
            "split",
            "op",
            "split",
            outputs=(SPEC, TensorSpec(None, "int8", layout="jagged")),
            arguments=tuple(Argument(f"a{n}", value) for n, value in enumerate(VALUES)),
            target="torch.split",
            aliases=("one", "two"),
            source=Source("net.py", 3, "forward"),
            writes=(1,),
            reads_value=True,
            flops=0,
        ),
    ),
    modules=(ModuleCall("fc", "fc", "torch.nn.Linear", outputs=(Port("out", Ref("split", 1)),)),),
    parameters=(ParameterInfo("fc.weight", SPEC, trainable=False, module="fc", aliases=("t",)),),
    notes=(Note("partial", "", "It ended early."),),
    partial=True,
    torch_version="2.0",
)


def test_every_field_and_every_kind_of_value_comes_back() -> None:
    found = loads(ModelGraph, dumps(GRAPH))
    assert found == GRAPH
    types = [type(argument.value) for argument in found.nodes[1].arguments]
    assert types == [type(value) for value in VALUES]
    assert dumps(found) == dumps(GRAPH)


@pytest.mark.parametrize(
    "text", ["", "[]", '{"schema": 1}', dumps(GRAPH).replace('"kind"', '"sort"', 1)]
)
def test_what_is_no_graph_is_an_error_that_names_the_file(text: str, tmp_path: Path) -> None:
    path = tmp_path / "graph.json"
    path.write_text(text)
    with pytest.raises(GraphFormatError, match=r"graph\.json"):
        ModelGraph.load(path)


def test_the_graph_knows_no_view_until_it_is_printed() -> None:
    script = (
        "import sys\nfrom modelviz_callbacks.graph import ModelGraph\n"
        "graph = ModelGraph('net', 'nets.Net')\n"
        "before = [name for name in sys.modules if name.startswith('modelviz_callbacks.view')]\n"
        "print(before, str(graph).splitlines()[0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "[] net: no inputs -> no outputs; 0 parameters, 0 ops\n"
