"""``modelviz doctor``: what is installed here, and whether every part of the library works."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.metadata
import io
import os
import platform
import tempfile
import time
import warnings
import webbrowser
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

from modelviz_callbacks.cli.commands import Commands, declare
from modelviz_callbacks.credentials import without_credentials
from modelviz_callbacks.errors import MissingLibraryError
from modelviz_callbacks.libraries import says_what_is_missing

_MORE = """\
The first thing to run when something is odd, and what to put into a report of a fault. It prints
the versions of what is installed, what is found (a browser, an MLflow store), and then
records a small model and makes every file of it, in a folder that is deleted afterwards, in this
process and in a worker.

Nothing is sent anywhere, and nothing secret is printed. A part that needs an extra which is not
installed has a "-" and the command that brings it. The exit status is 0 if all went well, 1 if a
part did not.
"""
_PACKAGES = (
    *("torch", "lightning", "pytorch-lightning", "onnx", "onnxscript", "onnx-ir", "onnxruntime"),
    *("mlflow", "mlflow-skinny", "quickjs-ng", "resvg-py", "rich", "typing_extensions", "numpy"),
    *("protobuf", "tensorboard", "tensorboardX", "wandb", "clearml", "fsspec", "netron"),
    *("transformers", "accelerate", "pytorch-ignite", "skorch", "fastai", "mmengine"),
    *("ultralytics", "stable-baselines3", "torch_geometric"),
)
_ABSENT = "not installed"
_VARIABLES = tuple(
    f"MLFLOW_{name}" for name in ("TRACKING_URI", "RUN_ID", "EXPERIMENT_ID", "EXPERIMENT_NAME")
)


@dataclass(frozen=True)
class Check:
    """One part that was tried.

    Attributes:
        name: The part.
        seconds: How long it took.
        detail: What came out, or what went wrong.
        works: Whether it did.
        is_extra: Whether it needs one of the extras, which is not installed.
    """

    name: str
    seconds: float
    detail: str
    works: bool
    is_extra: bool = False

    def __str__(self) -> str:
        state = "ok    " if self.works else "-     " if self.is_extra else "FAILED"
        return f"  {state} {self.name:<18} {self.seconds:7.2f} s  {self.detail}"


def add_to(commands: Commands) -> None:
    """Adds the command."""
    declare(commands, "doctor", run, _MORE)


def run(_: argparse.Namespace) -> int:
    """Prints what is here, and tries everything; see `add_to`."""
    print("Versions")
    facts = versions()
    _print_facts({name: said for name, said in facts.items() if said != _ABSENT})
    if absent := [name for name, said in facts.items() if said == _ABSENT]:
        print(_wrapped(f"{_ABSENT}: {', '.join(absent)}"))
    print("\nFound")
    _print_facts(found())
    print("\nA small model, recorded and written")
    checks = []
    with tempfile.TemporaryDirectory(prefix="modelviz-doctor-") as scratch:
        for check in tried(Path(scratch)):
            print(without_credentials(str(check)), flush=True)
            checks.append(check)
    failed = [check.name for check in checks if not (check.works or check.is_extra)]
    extra = [check.name for check in checks if check.is_extra]
    if failed:
        print(f"\n{len(failed)} failed: {', '.join(failed)}")
    elif extra:
        print(f"\nAll parts work that are installed; {', '.join(extra)}: see above.")
    else:
        print("\nAll parts work.")
    return 1 if failed else 0


def _wrapped(text: str) -> str:
    """A long line as several, none broken within the name of a package."""
    return fill(text, 79, break_on_hyphens=False, initial_indent="  ", subsequent_indent="    ")


def _print_facts(facts: dict[str, str]) -> None:
    width = max(map(len, facts))
    for name, value in facts.items():
        print(without_credentials(f"  {name:<{width}}  {value}"))


def versions() -> dict[str, str]:
    """The versions of Python, the system and the packages that matter."""
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    facts = {
        "modelviz-callbacks": importlib.import_module("modelviz_callbacks").__version__,
        "python": f"{platform.python_version()} on {system}, {os.cpu_count()} processors",
    }
    for name in _PACKAGES:
        try:
            facts[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            facts[name] = _ABSENT
    return facts


def found() -> dict[str, str]:
    """What else the library would use here."""
    facts = {
        "CUDA": _cuda(),
        "browser": _browser(),
        "temporary files": tempfile.gettempdir(),
    }
    for name in _VARIABLES:
        facts[name] = os.environ.get(name, "not set")
    return facts


def _cuda() -> str:
    try:
        torch: Any = importlib.import_module("torch")
        return f"{torch.version.cuda}" if torch.cuda.is_available() else "none"
    except Exception as error:
        return f"torch cannot be imported ({type(error).__name__}: {error})"


def _browser() -> str:
    try:
        return str(getattr(webbrowser.get(), "name", "the system's"))
    except webbrowser.Error:
        return "none: modelviz show prints where the page is"


def tried(scratch: Path) -> Iterator[Check]:
    """Every part, one after the other; what needs a recording is left out if there is none.

    Args:
        scratch: An empty folder.
    """
    made: list[Any] = []
    yield _check("record", lambda: _record(made))
    if not made:
        return
    trace = made[0]
    for name, save in {
        "graph.json": lambda path: trace.graph.save(path),
        "graph.txt": trace.save_text,
        "graph.svg": trace.save_svg,
        "graph.png": trace.save_png,
        "index.html": trace.save_html,
        "graph.mmd": trace.save_mermaid,
        "backward.svg": trace.save_backward_svg,
        "graph.onnx": trace.save_onnx,
        "onnx_weights": lambda path: trace.save_onnx(path, weights=True),
    }.items():
        yield _check(name, lambda name=name, save=save: _size(save, scratch / name))  # type: ignore[misc]
    yield _check("TensorBoard", lambda: _events(trace, scratch / "runs"))
    yield _check("replay", lambda: _replayed(trace))
    yield _check("model.onnx", lambda: _trained(scratch / "trained"))
    yield _check("in this process", lambda: _hooked(scratch / "in_place", False))
    yield _check("in a worker", lambda: _hooked(scratch / "worker", True))


def _check(name: str, attempt: Callable[[], str]) -> Check:
    start = time.monotonic()
    detail, works, is_extra = "", True, False
    try:
        detail = attempt()
    except MissingLibraryError as error:
        detail, works, is_extra = str(error), False, "modelviz-callbacks[" in str(error)
    except Exception as error:
        detail, works = f"{type(error).__name__}: {error}", False
    return Check(name, time.monotonic() - start, detail, works, is_extra)


def _model() -> tuple[Any, Any]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    return layers, torch.rand(2, 4)


def _record(made: list[Any]) -> str:
    from modelviz_callbacks.tracer import trace

    model, x = _model()
    made.append(trace(model, x))
    return repr(made[0].graph)


def _size(save: Callable[[Path], object], path: Path) -> str:
    save(path)
    return f"{path.stat().st_size:,d} bytes"


def _events(trace: Any, folder: Path) -> str:
    trace.write_tensorboard(folder)
    return f"{len(list(folder.rglob('events.out.tfevents.*')))} event file"


def _replayed(trace: Any) -> str:
    import torch

    _, x = _model()
    if not torch.equal(trace.replay(x), trace.outputs):
        raise AssertionError("the recorded ops give another result than the model did")
    return "the same result to the bit"


def _trained(folder: Path) -> str:
    with says_what_is_missing():
        importlib.import_module("onnxruntime")
    _hooked(folder, False, trained_onnx=True)
    return f"{(folder / 'model.onnx').stat().st_size:,d} bytes, run in onnxruntime"


def _hooked(folder: Path, background: bool, trained_onnx: bool = False) -> str:
    from modelviz_callbacks.hook import GraphHook
    from modelviz_callbacks.report import ModelvizWarning

    model, x = _model()
    # What the run says is in its report; the lines here are the command's own.
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore", ModelvizWarning)
        hook = GraphHook(
            model,
            dirpath=folder,
            mlflow=False,
            tracker=False,
            background=background,
            trained_onnx=trained_onnx,
        )
        model(x).sum().backward()
        hook.close()
    report = hook.report
    missing = [f"{refusal.what}: {refusal.why}" for refusal in report.refused] + report.remarks
    if missing:
        raise RuntimeError("; ".join(missing))
    return f"{len(report.files)} files"
