"""Records a model as if torch lacked a private name; a server, so that torch is imported once.

Run as a program it reads one name a line, does everything for each in a forked process, and
answers with one line of JSON.
"""

from __future__ import annotations

import builtins
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import sys
import tempfile
import traceback
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

CAPTURE = "modelviz_callbacks.tracing.capture.torch_internals"
EXPORTER = "modelviz_callbacks.writers.onnx.exporter_internals"


class Hiding(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Loads one file of internals with a ``getattr`` that does not find some name.

    torch itself still has it, as a torch would that has renamed it throughout.
    """

    def __init__(self, home: str, path: str) -> None:
        self.home, self.name = home, path.rpartition(".")[2]
        self.asked = False

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name != self.home:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        assert spec is not None
        self.loader: Any = spec.loader
        spec.loader = self
        return spec

    def create_module(self, spec: Any) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        vars(module)["getattr"] = self.getattr
        vars(module)["dir"] = lambda owner: [n for n in builtins.dir(owner) if not self.hides(n)]
        self.loader.exec_module(module)

    def hides(self, name: str) -> bool:
        hidden = name.startswith(self.name[:-1]) if self.name[-1] == "*" else name == self.name
        self.asked = self.asked or hidden
        return hidden

    def getattr(self, owner: Any, name: str, *default: Any) -> Any:
        if not self.hides(name):
            return builtins.getattr(owner, name, *default)
        if default:
            return default[0]
        raise AttributeError(name)


def prepare() -> None:
    """Imports everything but the package, which every forked process imports anew."""
    for name in (
        "torch._dynamo",
        "torch._dynamo.testing",
        "torch._functorch.aot_autograd",
        "torch._higher_order_ops.utils",
        "torch._inductor.compile_fx",
        "torch._library.custom_ops",
        "torch.onnx._internal.exporter._core",
        "torch.onnx._internal.exporter._registration",
        "torch.utils.flop_counter",
        "torch.utils.tensorboard",
        "onnxscript",
        "quickjs",
        "resvg_py",
    ):
        importlib.import_module(name)


def record(home: str, path: str, folder: Path) -> dict[str, Any]:
    """Imports the package without a name and records a small model in every way."""
    hiding = Hiding(home, path)
    sys.meta_path.insert(0, hiding)
    from modelviz_callbacks import GraphHook, trace

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.nn.functional.relu(self.layers(x), inplace=True)
            return torch.ops.aten.add.Tensor(x, torch.func.vmap(torch.sin)(x)).sum()

    torch.manual_seed(0)
    model = Model()
    internals = importlib.import_module(home)
    needs_onnx = home == EXPORTER
    with GraphHook(
        model,
        dirpath=str(folder),
        background=False,
        formats=["text", "svg"],
        onnx=needs_onnx,
        mlflow=False,
        tensorboard=False,
        on_error="warn",
    ):
        model(torch.ones(2, 4)).backward()
    others = use_the_rest(model, internals, trace) if not needs_onnx else []
    report = json.loads((folder / "report.json").read_text())
    return {
        "files": sorted(file.name for file in folder.iterdir()),
        "said": [str(line) for line in [*report["remarks"], *report["refused"]]],
        "ops": [node.op for node in trace(model, torch.ones(2, 4)).graph.ops],
        "missing": others,
        "asked": hiding.asked,
    }


def use_the_rest(model: Any, internals: Any, trace: Any) -> list[str]:
    """Uses what one recording does not: each must not raise. Gives what is missing after it."""
    from modelviz_callbacks.tracing import Capture, StepTimer, pack, unpack, warm_up

    warm_up()
    compiled = torch.compile(model)
    capture = Capture(model)
    capture.start((torch.ones(2, 4),), {})
    with torch.autocast("cpu"):
        result = model(torch.ones(2, 4))
    recording = capture.finish(result)
    unpack(pack(recording))
    found = trace(model, torch.ones(2, 4))
    assert found.program is not None
    str(found.backward_graph)  # which is none where torch does not tell
    internals.original_module(compiled)
    internals.calls_under_way(model, sys._getframe())
    internals.overload_name(torch.ops.aten.add.Tensor)
    internals.packet_name(torch.ops.aten.add)
    internals.tracking_uri(SimpleNamespace(_tracking_uri="there"))
    internals.open_writer(SimpleNamespace(_get_file_writer=int))
    internals.dual_level()
    internals.has_compiled()
    timer = StepTimer(model)
    timer.start()
    model(torch.ones(2, 4))
    timer.finish()
    define_op()
    internals.home_of_custom_op("mylib_of_tests::twice")
    return list(internals.missing_parts())


def define_op() -> None:
    def twice(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    torch.library.custom_op("mylib_of_tests::twice", twice, mutates_args=())


def serve() -> None:
    """Answers until standard input ends."""
    prepare()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # nothing else is written between the answers
    for line in sys.stdin:
        home, path = line.split()
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            with os.fdopen(write, "w") as answer, tempfile.TemporaryDirectory() as folder:
                try:
                    made = record(home, path, Path(folder))
                except BaseException:
                    made = {"error": traceback.format_exc()}
                answer.write(json.dumps(made))
            os._exit(0)
        os.close(write)
        with os.fdopen(read) as answer:
            text = answer.read()
        os.waitpid(child, 0)
        print(text or '{"error": "died"}', file=answers, flush=True)


if __name__ == "__main__":
    serve()
