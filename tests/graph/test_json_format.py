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
    Ref("parts", 1),
    SliceValue(None, 3, None),
    (1, (Ref("x"), "a"), ()),
    Items((("key", Ref("x")), ("other", (1, 2)))),
)
GRAPH = ModelGraph(
    "net",
    "nets.Net",
    nodes=(
        Node("x", "input", "input", outputs=(SPEC,), path="x"),
        Node("parts", "op", "unbind", outputs=(SPEC, SPEC), target="torch.unbind"),
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
    types = [type(argument.value) for argument in found.nodes[2].arguments]
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


DAMAGES = {
    "a reference to nothing": ('["x",0]', '["y",0]', "reads 'y', which does not exist before it"),
    "a cycle": ('["x",0]', '["split",0]', "reads 'split', which does not exist before it"),
    "two nodes of one name": ('"parts","kind"', '"x","kind"', "two things are called 'x'"),
    "text for a number": ('"shape":[2,3]', '"shape":[2,"3"]', r"shape\[1\]: expected a whole"),
    "a number for a list": ('"shape":[2,3]', '"shape":2', "shape: expected a list, found 2"),
    "true for a number": ('"flops":0', '"flops":true', "flops: expected a whole number"),
    "a negative size": ('"shape":[2,3]', '"shape":[2,-3]', "impossible size"),
    "a huge size": ('"shape":[2,3]', f'"shape":[2,{10**60}]', "impossible size"),
    "half a character": ('"nets.Net"', '"nets.\\ud800"', "halves of characters"),
    "nan as a number": ('"flops":0', '"flops":NaN', "is not a model graph"),
    "more than a float": ('"value":-0.5', '"value":-1e999', "a number that a float can be"),
    "an unknown kind": ('"kind":"input"', '"kind":"inptu"', "expected one of input, parameter"),
    "an unknown field": ('"kind":"input"', '"kind":"input","x":1', "there is no field 'x'"),
    "a missing field": ('"op":"unbind",', "", "the field 'op' is missing"),
    "a later schema": ('"schema": 2', '"schema": 3', "has schema 3, this version reads 1 to 2"),
    "a schema that is a flag": ('"schema": 2', '"schema": true', "has schema True"),
    "an argument that nests": ('"value":-0.5', f'"value":{"[" * 90}{"]" * 90}', "60 levels"),
    "text that nests": ('"value":-0.5', f'"value":{"[" * 10**5}{"]" * 10**5}', "is not a model"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_wrong_with_a_file_is_one_sentence_that_says_where(damage: str) -> None:
    old, new, expected = DAMAGES[damage]
    text = dumps(GRAPH)
    assert old in text
    with pytest.raises(GraphFormatError, match=expected) as error:
        loads(ModelGraph, text.replace(old, new, 1))
    assert len(str(error.value).splitlines()) == 1
    assert len(str(error.value)) < 300


@pytest.mark.process
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
