"""Private names of torch: in two files only, and nothing but what needs them ends without them."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import modelviz_callbacks
from modelviz_callbacks.tracing.capture import torch_internals
from modelviz_callbacks.writers.onnx import exporter_internals
from tests.tracing.capture import without_internals

ROOT = Path(modelviz_callbacks.__file__).parent
HOMES = (
    "tracing/capture/internal_names.py",
    "tracing/capture/torch_internals.py",
    "writers/onnx/exporter_internals.py",
)

LIBRARIES = ("torch", "lightning", "pytorch_lightning", "onnxscript", "onnx_ir", "onnx")
# Underscores that Python itself documents.
PYTHONS = {
    "_exit",
    "_replace",
    "_make",
    "_fields",
    "_field_defaults",
    "_getframe",
    "_ParameterKind",
}
LOOKS_UP = {"getattr", "setattr", "hasattr", "delattr", "get", "pop", "import_module"}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and len(name) > 1


def private_names(text: str) -> Iterator[str]:
    """The private names of other people's that a module uses, as ``3: torch._C``."""
    tree = ast.parse(text)
    own = set(defined(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            of_self = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            if is_private(node.attr) and node.attr not in PYTHONS | own and not of_self:
                yield f"{node.lineno}: {ast.unparse(node)}"
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
            yield from (f"{node.lineno}: {name}" for name in names if is_theirs(name))
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (f"{node.lineno}: {name}" for name in names if is_theirs(name))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if is_theirs(node.value):
                yield f"{node.lineno}: {node.value}"
        elif isinstance(node, ast.Call) and called(node) in LOOKS_UP:
            for argument in node.args:
                if (
                    isinstance(argument, ast.Constant)
                    and is_private(str(argument.value))
                    and argument.value not in PYTHONS
                ):
                    yield f"{node.lineno}: {argument.value}"


def is_theirs(path: str) -> bool:
    """Whether a dotted path leads through something private of a library."""
    first, *rest = path.split(".")
    dotted = all(part.isidentifier() for part in (first, *rest))
    return dotted and first in LIBRARIES and any(is_private(part) for part in rest)


def called(node: ast.Call) -> str:
    func = node.func
    return func.attr if isinstance(func, ast.Attribute) else getattr(func, "id", "")


def defined(tree: ast.AST) -> Iterator[str]:
    """What a module's own classes call their private attributes."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self":
            yield node.attr


def test_no_private_name_of_torch_is_used_outside_the_two_files() -> None:
    found = {
        f"{path.relative_to(ROOT)}:{name}"
        for path in ROOT.rglob("*.py")
        if path.relative_to(ROOT).as_posix() not in HOMES
        for name in private_names(path.read_text(encoding="utf-8"))
    }

    assert found == set()


@pytest.mark.parametrize(
    "text",
    [
        "torch._C.anything",
        "tensor._version",
        "import torch._dynamo",
        "from torch._dynamo import OptimizedModule",
        "from torch.overrides import _push_mode",
        "from lightning.pytorch.loggers import _x",
        "from onnxscript import _internal",
        "getattr(model, '_modules')",
        "vars(model).get('_orig_mod')",
        "sys.modules.get('torch._dynamo.utils')",
        "importlib.import_module('torch._dynamo')",
    ],
)
def test_a_private_name_is_found(text: str) -> None:
    assert len(list(private_names(text))) == 1


@pytest.mark.parametrize("home", HOMES)
def test_even_there_each_is_listed_and_looked_up_by_name(home: str) -> None:
    tree = ast.parse((ROOT / home).read_text(encoding="utf-8"))
    own = set(defined(tree))
    direct = [
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in own
    ]

    assert direct == []


def test_each_has_a_use_and_a_release() -> None:
    for internal in (*torch_internals.INTERNALS, *exporter_internals.INTERNALS):
        assert internal.use
        assert internal.since.replace(".", "").isdigit()


def test_this_torch_has_them_all() -> None:
    assert torch_internals.missing_parts() == []


Ask = Callable[[str, str], dict[str, Any]]


@pytest.fixture(scope="module")
def ask() -> Iterator[Ask]:
    """Asks what comes of a recording without a name; each answer is from a process of its own."""
    server = subprocess.Popen(
        [sys.executable, "-W", "ignore", without_internals.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdin is not None
    assert server.stdout is not None
    stdin, stdout = server.stdin, server.stdout

    def answer(home: str, path: str) -> dict[str, Any]:
        stdin.write(f"{home} {path}\n")
        stdin.flush()
        made: dict[str, Any] = json.loads(stdout.readline())
        assert "error" not in made, made["error"]
        return made

    with server:
        yield answer
        stdin.close()


FILES = {"graph.json", "graph.txt", "graph.svg", "report.json"}


@pytest.mark.slow
@pytest.mark.parametrize("internal", torch_internals.INTERNALS, ids=lambda one: one.path)
def test_a_torch_without_it_costs_only_what_is_said(
    internal: torch_internals.Internal, ask: Ask
) -> None:
    made = ask(without_internals.CAPTURE, internal.path)

    assert made["asked"]
    assert set(made["files"]) >= FILES
    assert {"linear", "sin", "add", "sum"} <= set(made["ops"])
    everything = made["said"] + made["missing"]
    assert any(internal.loss in line and internal.path in line for line in everything) == bool(
        internal.loss
    )
    if not internal.loss:
        assert everything == []


@pytest.mark.slow
@pytest.mark.parametrize("internal", exporter_internals.INTERNALS, ids=lambda one: one.path)
def test_an_exporter_without_it_costs_the_standard_ops_at_most(
    internal: exporter_internals.Internal, ask: Ask
) -> None:
    made = ask(without_internals.EXPORTER, internal.path)

    assert set(made["files"]) >= FILES | {"graph.onnx"}
    assert any(internal.path in line for line in made["said"]) == internal.is_vital


@pytest.mark.slow
def test_with_all_of_them_nothing_is_missing(ask: Ask) -> None:
    made = ask(without_internals.CAPTURE, "torch.no_such_name")

    assert not made["asked"]
    assert made["said"] + made["missing"] == []
