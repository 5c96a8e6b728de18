"""The rooms of the package and what they may import; how large things may get."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import modelviz_callbacks

PACKAGE = "modelviz_callbacks"
ROOT = Path(modelviz_callbacks.__file__).parent

# Room -> the rooms it may import, in the order in which data flows. The longest entry that a
# module's name starts with is its room. Who may import a room may import the rooms inside it.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "credentials": set(),
    "libraries": {"errors"},
    "ranks": set(),
    "pipeline": {"ranks"},
    "gc_pause": set(),
    "graph": {"errors"},
    "analysis": {"graph", "errors"},
    "view": {"analysis", "graph", "errors"},
    "diff": {"view", "analysis", "graph", "errors"},
    "tensorboard_messages": set(),
    "writers": {
        "diff",
        "view",
        "analysis",
        "graph",
        "tensorboard_messages",
        "libraries",
        "errors",
    },
    "tracing": {
        "tracing.capture",
        "tracing.steps",
        "tracing.transport",
        "tracing.lowering",
        "tracing.nonfinite",
    },
    "tracing.op_facts": {"tracing.capture", "graph"},  # of capture only what names torch's own
    "tracing.capture": {"tracing.op_facts", "graph", "gc_pause", "credentials", "errors"},
    "tracing.steps": {"tracing.op_facts", "tracing.capture", "analysis", "graph", "gc_pause"},
    "tracing.transport": {
        "tracing.op_facts",
        "tracing.capture",
        "tracing.steps",
        "gc_pause",
        "errors",
    },
    "tracing.nonfinite": {
        "tracing.op_facts",
        "tracing.capture",
        "tracing.steps",
        "tracing.lowering",
        "graph",
        "errors",
    },
    "tracing.lowering": {
        "tracing.op_facts",
        "tracing.capture",
        "analysis",
        "graph",
        "credentials",
        "errors",
    },
    "foreign": {"tracing.op_facts", "graph", "errors"},
    "trackers": {"tensorboard_messages", "credentials", "errors"},
    "options": {"writers", "view", "errors"},
    "report": {"graph", "credentials", "libraries", "errors"},
    "artifacts": {
        "credentials",
        "libraries",
        "options",
        "report",
        "tracing",
        "tracing.lowering",
        "trackers",
        "writers",
        "diff",
        "view",
        "analysis",
        "graph",
        "gc_pause",
        "errors",
    },
    "jobs": {
        "artifacts",
        "analysis",
        "graph",
        "credentials",
        "options",
        "report",
        "tracing",
        "trackers",
        "ranks",
        "errors",
    },
    "end_of_program": {"run"},
    "run": {"jobs", "artifacts", "options", "report", "tracing", "trackers", "errors"},
    "tracer": {
        "artifacts",
        "tracing",
        "writers",
        "analysis",
        "graph",
        "options",
        "libraries",
        "errors",
    },
    "architecture": {"tracer", "diff", "writers", "analysis", "graph", "errors"},
    "pytest_plugin": {"architecture"},
    "watching": {"run", "tracing", "errors", "end_of_program"},
    "loggers": {"run", "tracing", "trackers"},
    "hook": {
        "watching",
        "pipeline",
        "end_of_program",
        "loggers",
        "run",
        "tracing",
        "options",
        "report",
        "errors",
    },
    "report_mailbox": {"report"},
    "lightning": {
        "watching",
        "loggers",
        "run",
        "options",
        "ranks",
        "report",
        "report_mailbox",
        "errors",
    },
    "integrations": {
        "hook",
        "watching",
        "loggers",
        "run",
        "tracing",
        "options",
        "ranks",
        "report",
        "errors",
    },
    "cli": {
        "architecture",
        "hook",
        "tracer",
        "report",
        "credentials",
        "libraries",
        "foreign",
        "run",
        "artifacts",
        "tracing",
        "writers",
        "trackers",
        "diff",
        "view",
        "analysis",
        "graph",
        "options",
        "errors",
    },
    "": {"graph", "hook", "lightning", "tracer", "errors", "libraries"},  # the package itself
}

# Library -> the only modules that may import it, at any depth.
ONLY_IN: dict[str, tuple[str, ...]] = {
    "torch": (
        "tracing",
        "writers.onnx",
        "ranks",
        "pipeline",
        "run",
        "watching",
        "integrations",
        "artifacts.onnx_files",
        "tracer",
        "hook",
        "jobs.worker_program",
        "architecture",
        "cli.doctor",
        "cli.inputs",
        "cli.models",
        "cli.one_forward",
        "foreign.fx_graph",
    ),
    "lightning": ("lightning",),
    "pytorch_lightning": (),
    "transformers": ("integrations.transformers",),
    "accelerate": (),
    "ignite": ("integrations.ignite",),
    "skorch": ("integrations.skorch",),
    "fastai": ("integrations.fastai",),
    "mmengine": ("integrations.mmengine",),
    "ultralytics": ("integrations.ultralytics",),
    "stable_baselines3": ("integrations.stable_baselines3",),
    "mlflow": ("trackers.mlflow",),
    "wandb": ("trackers.wandb",),
    "clearml": (),
    "google": ("tensorboard_messages",),  # protobuf
    "tensorboard": (),  # what looks at a run; who writes one needs none of it
    "tensorboardX": (),
    "onnx": ("writers.onnx", "trackers.mlflow.model", "foreign.onnx_file"),
    "onnx_ir": ("writers.onnx",),
    "onnxscript": ("writers.onnx",),
    "onnxruntime": ("writers.onnx",),
    "pytest": ("pytest_plugin",),
    "rich": ("jobs.waiting", "cli.terminal"),
    "quickjs": ("writers.layout.dagre",),
    "resvg_py": ("writers.png",),
}

# Modules of Python's that Windows has not, where a file that imports them is not even collected.
POSIX_ONLY = {
    "crypt",
    "fcntl",
    "grp",
    "posix",
    "pty",
    "pwd",
    "resource",
    "syslog",
    "termios",
    "tty",
}

# Rooms in which a public name of a class or function means one thing, and the names that every
# writer has, with one meaning.
ONE_MEANING = ("graph", "analysis", "view", "diff", "writers")
SAME_MEANING = {"render"}

LONGEST_FILE = 600
LONGEST_INTEGRATION = 150
LONGEST_FUNCTION = 50
# Longer than that: one parameter an option, since LightningCLI reads them off the signature.
LONG_BY_NATURE = {"lightning.__init__"}


@dataclass(frozen=True)
class Import:
    """One import statement: who imports what."""

    importer: str
    imported: str
    line: int


def modules(root: Path = ROOT, package: str = PACKAGE) -> dict[str, Path]:
    """Every module of a package by its name below the package (``graph.model``)."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts).removesuffix("__init__").rstrip(".")] = path
    return found


def imports_of(name: str, path: Path) -> Iterator[Import]:
    """The imports of a module; relative ones are resolved."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = [PACKAGE, *name.split(".")] if name else [PACKAGE]
    if path.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(name, alias.name, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            home = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield Import(name, f"{home}.{alias.name}", node.lineno)


def room_of(module: str) -> str:
    """The room of a module; ``unknown room ...`` where the table has none."""
    parts = module.split(".")
    for length in (2, 1):
        if ".".join(parts[:length]) in MAY_IMPORT:
            return ".".join(parts[:length])
    return f"unknown room {parts[0]}"


def broken_layers(found: dict[str, Path]) -> list[str]:
    """Imports that the tables do not allow, as ``graph.model:12 imports torch``."""
    broken = []
    for name, path in found.items():
        room = room_of(name)
        for item in imports_of(name, path):
            where = f"{name or PACKAGE}:{item.line} imports {item.imported}"
            library = item.imported.partition(".")[0]
            if library == PACKAGE:
                inner = item.imported.removeprefix(PACKAGE).lstrip(".")
                target = room_of(inner)
                allowed = {target, target.partition(".")[0]} & MAY_IMPORT[room]
                if inner not in ("", "__version__") and target != room and not allowed:
                    broken.append(where)
            elif library in ONLY_IN and not any(name.startswith(home) for home in ONLY_IN[library]):
                broken.append(where)
    return broken


def cycles(found: dict[str, Path]) -> list[list[str]]:
    """Rings of modules that import each other, counting lazy imports and those for types."""
    edges: dict[str, set[str]] = {name: set() for name in found}
    for name, path in found.items():
        for item in imports_of(name, path):
            inner = item.imported.removeprefix(f"{PACKAGE}.")
            if inner == item.imported:
                continue
            target = inner if inner in found else inner.rpartition(".")[0]
            if target in found and target != name:
                edges[name].add(target)
    rings: list[list[str]] = []
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> None:
        if name in path:
            rings.append([*path[path.index(name) :], name])
        elif name not in done:
            for target in sorted(edges[name]):
                visit(target, [*path, name])
            done.add(name)

    for name in edges:
        visit(name, [])
    return rings


def too_long(found: dict[str, Path]) -> list[str]:
    """Files and functions over the limits."""
    long = []
    for name, path in found.items():
        text = path.read_text(encoding="utf-8")
        lines = text.count("\n")
        if lines > (LONGEST_INTEGRATION if name.startswith("integrations.") else LONGEST_FILE):
            long.append(f"{name}: {lines} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                last = node.end_lineno or node.lineno
                is_long = last - node.lineno + 1 > LONGEST_FUNCTION
                if is_long and f"{name}.{node.name}" not in LONG_BY_NATURE:
                    long.append(f"{name}.{node.name}: {last - node.lineno + 1} lines")
    return long


def shared_names(found: dict[str, Path], rooms: Collection[str]) -> list[str]:
    """Public classes, functions and constants of some rooms that two modules define.

    The writers of ONNX are a world of their own, with torch's and ONNX's words.
    """
    homes: dict[str, list[str]] = {}
    for name, path in found.items():
        if room_of(name) not in rooms or name.startswith("writers.onnx"):
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [node.name] if isinstance(node, (ast.ClassDef, ast.FunctionDef)) else []
            if isinstance(node, ast.Assign):
                names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                names = [node.target.id]
            for one in names:
                if not one.startswith("_") and one not in SAME_MEANING:
                    homes.setdefault(one, []).append(name)
    return [f"{name} in {', '.join(at)}" for name, at in homes.items() if len(at) > 1]


def test_every_room_imports_only_what_the_table_allows() -> None:
    assert broken_layers(modules()) == []


def test_every_module_is_in_a_room_of_the_table() -> None:
    assert [name for name in modules() if room_of(name).startswith("unknown")] == []


def test_no_modules_import_each_other_in_a_ring() -> None:
    assert cycles(modules()) == []


def hidden_modules(found: dict[str, Path], package: str = PACKAGE) -> list[str]:
    """Modules that ``import a.b as m`` does not give, something of their name being in ``a``."""
    hidden = []
    for name in found:
        home, _, last = f"{package}.{name}".rpartition(".")
        if name and last != "__main__":
            module = importlib.import_module(f"{package}.{name}")
            if getattr(importlib.import_module(home), last) is not module:
                hidden.append(name)
    return hidden


def test_no_name_of_a_package_hides_a_module_in_it() -> None:
    assert hidden_modules(modules()) == []


def test_a_hidden_module_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "package_of_a_test"
    home.mkdir()
    (home / "__init__.py").write_text("from package_of_a_test.work import work\n")
    (home / "work.py").write_text("def work(): ...\n")
    monkeypatch.syspath_prepend(tmp_path)

    assert hidden_modules(modules(home), home.name) == ["work"]


def test_the_graph_needs_the_standard_library_only() -> None:
    outside = {
        f"{name} imports {item.imported}"
        for name, path in modules().items()
        if room_of(name) in ("graph", "errors")
        for item in imports_of(name, path)
        if item.imported.partition(".")[0] not in {*sys.stdlib_module_names, PACKAGE}
    }
    assert outside == set()


def test_no_file_and_no_function_is_too_long_to_read() -> None:
    assert too_long(modules()) == []


def posix_imports(path: Path) -> set[str]:
    """What a file cannot be imported without, and Windows has not."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    named = [
        alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names
    ]
    named += [node.module or "" for node in tree.body if isinstance(node, ast.ImportFrom)]
    return POSIX_ONLY & set(named)


def test_every_file_of_the_package_and_of_the_tests_can_be_imported_on_windows() -> None:
    files = [*ROOT.rglob("*.py"), *Path(__file__).parent.rglob("*.py")]
    assert len(files) > 400
    assert {str(path): posix_imports(path) for path in files if posix_imports(path)} == {}


def test_an_import_that_windows_has_not_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("import os\nimport pty\nfrom resource import getrlimit\n")
    assert posix_imports(tmp_path / "a.py") == {"pty", "resource"}


def test_a_public_name_means_one_thing() -> None:
    assert shared_names(modules(), ONE_MEANING) == []


def test_a_name_with_two_meanings_is_found(tmp_path: Path) -> None:
    (tmp_path / "view").mkdir()
    (tmp_path / "view" / "one.py").write_text("class Line: ...\ndef render(): ...\n_MANY = 1\n")
    (tmp_path / "view" / "two.py").write_text("Line: str = 'x'\ndef render(): ...\n_MANY = 2\n")
    assert shared_names(modules(tmp_path), ONE_MEANING) == ["Line in view.one, view.two"]


def test_no_module_is_a_dumping_ground() -> None:
    vague = {"utils", "util", "helpers", "helper", "common", "misc"}
    assert [name for name in modules() if vague & set(name.split("."))] == []


@pytest.mark.parametrize(
    ("module", "text", "message"),
    [
        ("graph/extra.py", "import torch", "imports torch"),
        ("graph/extra.py", "def f():\n    from torch import nn", "imports torch.nn"),
        ("writers/extra.py", f"from {PACKAGE}.tracing import Capture", "tracing.Capture"),
        ("writers/extra.py", "from ..trackers import directory", "trackers.directory"),
        ("trackers/extra.py", f"import {PACKAGE}.graph", "imports modelviz_callbacks.graph"),
        ("tracing/extra.py", f"from {PACKAGE} import run", "run"),
        ("hook.py", "import lightning.pytorch as pl", "lightning.pytorch"),
        ("graph/extra.py", f"from {PACKAGE}.nowhere import x", "nowhere"),
        ("tracing/capture/extra.py", f"from {PACKAGE}.tracing.lowering import x", "lowering"),
        ("tracing/lowering/extra.py", f"from {PACKAGE}.tracing.transport import x", "transport"),
    ],
)
def test_a_forbidden_import_is_found(module: str, text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / module
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(text)
    (found,) = broken_layers(modules(tmp_path))
    assert message in found


def test_a_ring_and_a_long_function_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(f"import {PACKAGE}.b\n")
    (tmp_path / "b.py").write_text(f"def f():\n    import {PACKAGE}.c\n")
    (tmp_path / "c.py").write_text(f"if TYPE_CHECKING:\n    from {PACKAGE}.a import x\n")
    (tmp_path / "d.py").write_text("def f():\n" + "    pass\n" * 50)
    (tmp_path / "e.py").write_text("x = 1\n" * 601)
    assert cycles(modules(tmp_path)) == [["a", "b", "c", "a"]]
    assert too_long(modules(tmp_path)) == ["d.f: 51 lines", "e: 601 lines"]


def loaded_by(statement: str) -> set[str]:
    """The top-level modules in a fresh interpreter after a statement."""
    code = f"{statement}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    return set(done.stdout.split())


SLOW = {"torch", "lightning", "mlflow", "onnx", "onnxscript", "tensorboard", "quickjs", "numpy"}
SLOW |= {"transformers", "accelerate", "ignite", "skorch", "stable_baselines3", "wandb", "clearml"}
SLOW |= {"fastai", "mmengine", "ray", "trl", "pytorch_lightning", "tensorboardX"}


@pytest.mark.process
def test_importing_the_package_loads_no_library() -> None:
    assert loaded_by(f"import {PACKAGE}, {PACKAGE}.integrations") & SLOW == set()


@pytest.mark.process
def test_importing_the_graph_and_reading_one_loads_no_library(tmp_path: Path) -> None:
    statement = (
        f"from {PACKAGE} import ModelGraph\n"
        "graph = ModelGraph('g', 'G')\n"
        f"graph.save({str(tmp_path / 'g.json')!r})\n"
        f"assert str(ModelGraph.load({str(tmp_path / 'g.json')!r}))"
    )
    assert loaded_by(f"import {PACKAGE}.graph") & SLOW == set()
    assert loaded_by(statement) & SLOW == set()


@pytest.mark.process
def test_a_plain_loop_loads_neither_lightning_nor_mlflow_nor_onnx(tmp_path: Path) -> None:
    statement = (
        f"from {PACKAGE} import GraphHook, trace\nimport torch\nmodel = torch.nn.Linear(2, 2)\n"
        f"hook = GraphHook(model, dirpath={str(tmp_path)!r}, onnx=False, tensorboard=False, "
        "formats=['text'])\nmodel(torch.ones(1, 2))\nhook.close()"
    )
    assert loaded_by(statement) & SLOW <= {"torch", "numpy"}


@pytest.mark.process
def test_what_is_loaded_is_seen() -> None:
    assert "torch" in loaded_by(f"from {PACKAGE} import trace") & SLOW
