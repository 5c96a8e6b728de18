"""What holds for every test: its marks, and what it may leave behind."""

from __future__ import annotations

import gc
import os
import re
import signal
import sys
import zlib
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# Tests run side by side, and so do the processes that they start: threads of several beside each
# other on few cores wait for each other in busy loops. torch reads it when it is imported, which
# the lines below do. What is tested with several threads asks for them.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from modelviz_callbacks.jobs import upload_process, worker_process
from tests import preloaded
from tests.mlflow_server import MlflowServer, running_server
from tests.waiting import PATIENCE_S
from tests.zoo.switches import disregard_threads

# A shell starts what it runs in the background deaf to Ctrl-C, and so would be the programs that
# tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says what else the machine does.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")

_HERE = Path(__file__).parent

# The mark of every test in a folder or file, and of every test that uses a fixture. What else
# starts a Python is marked ``process`` where it stands; `says_if_it_starts_a_process` finds it.
_MARK_OF_PLACE = {
    "zoo": "zoo",
    "jobs": "process",
    "test_examples.py": "process",
    "test_determinism.py": "process",
    "test_cli_mlflow.py": "server",
    "integrations": "library",
    "test_live.py": "library",
    "test_contract.py": "library",
}
_MARK_OF_FIXTURE = {
    "browser": "browser",
    "server": "server",
    "proxy": "server",
    "folder": "process",  # what the installed program writes
}
_MAY_START_A_PROCESS = {"process", "browser", "server", "zoo"}


# Of models that are tested alike every twenty-fourth is taken, unless all are asked for.
_EVERY = 24
# And of the residual networks and the transformers one each.
_LIKE_ANOTHER = ("resnet34", "resnet50", "gpt")
# Of the cases of a test that is marked ``alike`` every fourth, and one at least.
_EVERY_ALIKE = 4


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--all``: every model of the zoo, and what takes long; else a sample of the models."""
    parser.addoption(
        "--all", action="store_true", help="all models, all cases, and the tests marked slow"
    )


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keeps the collector of garbage from going over what is imported here, again and again.

    That is a million objects, all of which stay until the end.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Does not even import what a place's mark leaves out: that takes longer than many tests."""
    left_out = re.fullmatch(r"not \(([\w ]+)\)", config.getoption("markexpr").strip())
    if left_out is None or not collection_path.is_relative_to(_HERE):
        return None
    return bool(_marks_of(collection_path) & set(left_out[1].split(" or "))) or None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks the tests that ``make test-fast`` leaves out, and takes a sample unless all are meant.

    A test that is named by its own id on the command line always runs.
    """
    _mark(items)
    if not config.getoption("--all"):
        named = {arg for arg in config.args if "::" in arg}
        always = _first_of_those_alike(items)
        kept, left = [], []
        for item in items:
            is_named = any(item.nodeid.startswith(name) for name in named)
            (kept if is_named or item in always or _is_in_sample(item) else left).append(item)
        items[:] = kept
        config.hook.pytest_deselected(items=left)


def _first_of_those_alike(items: list[pytest.Item]) -> set[pytest.Item]:
    """A case of each test that is marked ``alike``, the same in whatever order they come."""
    first: dict[str, pytest.Item] = {}
    for item in sorted(items, key=lambda item: item.nodeid):
        if item.get_closest_marker("alike") and not item.get_closest_marker("slow"):
            first.setdefault(item.nodeid.partition("[")[0], item)
    return set(first.values())


def _is_in_sample(item: pytest.Item) -> bool:
    """Whether a test is no slow one and, of those that are alike, one of the share by its case."""
    if item.get_closest_marker("slow"):
        return False
    callspec = getattr(item, "callspec", None)
    if callspec is None:
        return True
    if any(str(value).startswith(_LIKE_ANOTHER) for value in callspec.params.values()):
        return False
    place = zlib.crc32(callspec.id.encode())
    if item.get_closest_marker("alike"):
        return place % _EVERY_ALIKE == 0
    if "case" not in callspec.params or not item.get_closest_marker("zoo"):
        return True
    return place % _EVERY == 0


def _mark(items: list[pytest.Item]) -> None:
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        marks = {_MARK_OF_FIXTURE[name] for name in fixtures if name in _MARK_OF_FIXTURE}
        for mark in marks | _marks_of(item.path):
            item.add_marker(mark)


def _marks_of(path: Path) -> set[str]:
    """The marks of a folder or file because of where it is."""
    places = path.relative_to(_HERE).parts
    return {_MARK_OF_PLACE[at] for at in (*places[:1], path.name) if at in _MARK_OF_PLACE}


_pythons_started: list[str] = []


def _note_process(event: str, args: tuple[Any, ...]) -> None:
    if event == "subprocess.Popen" and Path(str(args[0])).name.startswith(("python", "modelviz")):
        _pythons_started.append(str(args[1]))


sys.addaudithook(_note_process)


@pytest.fixture(autouse=True)
def says_if_it_starts_a_process(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that starts a Python takes seconds: it is marked, or asks for the files in place."""
    disregard_threads()
    _pythons_started.clear()
    yield
    started = _pythons_started[:1]
    if started and not any(request.node.get_closest_marker(m) for m in _MAY_START_A_PROCESS):
        pytest.fail(
            f"This test starts a process ({started[0][:200]}). Mark it with pytest.mark.process, "
            "or pass background=False where it only looks at what is in the files.",
            pytrace=False,
        )


@pytest.fixture(autouse=True)
def imports_are_no_garbage() -> Iterator[None]:
    """What a test has imported stays until the end, too, and no later test goes over it."""
    before = len(sys.modules)
    yield
    if len(sys.modules) != before:
        gc.collect()
        gc.freeze()


@pytest.fixture(autouse=True)
def mlflow_as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No later test meets this one's tracking server.

    Lightning's ``MLFlowLogger`` makes its server the one of the process.
    """
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    yield
    mlflow = sys.modules.get("mlflow")
    if mlflow is not None:
        while mlflow.active_run() is not None:
            mlflow.end_run()
        mlflow.set_tracking_uri(None)
        mlflow.tracking.fluent._active_experiment_id = None  # of a store that is gone


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of training waits as long as it takes: other programs may keep the cores busy."""
    for limit in ("WAIT_LIMIT_S", "UPLOAD_LIMIT_S"):
        monkeypatch.setattr(f"modelviz_callbacks.jobs.in_worker.{limit}", PATIENCE_S)
    monkeypatch.setattr("modelviz_callbacks.jobs.in_place.MLFLOW_LIMIT_S", PATIENCE_S)


@pytest.fixture(autouse=True)
def busy_machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers compete like any program: at idle priority one beside busy cores never ends."""
    if request.node.get_closest_marker("gives_way") is None:
        monkeypatch.setattr("modelviz_callbacks.jobs.queue.JobQueue.gives_way", False)


# From so many tests on, that may start processes, a server to fork them from is worth its start.
_ENOUGH_PROCESSES = 12


@pytest.fixture(scope="session")
def forks(request: pytest.FixtureRequest) -> Iterator[preloaded.Server | None]:
    """What workers and uploads are forked from, if there are many and a process can be forked."""
    items = request.session.items
    many = sum(_may_start_a_process(item) for item in items) >= _ENOUGH_PROCESSES
    if sys.platform != "linux" or not many:
        yield None
        return
    server = preloaded.Server()
    yield server
    server.end()


@pytest.fixture(autouse=True)
def forked_processes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers and uploads need not import everything, but for the tests of how they start."""
    if "jobs" in request.path.relative_to(_HERE).parts or not _may_start_a_process(request.node):
        return
    server: preloaded.Server | None = request.getfixturevalue("forks")
    if server is None:
        return
    for module in (worker_process, upload_process):
        plain: Callable[..., str] = module._start_code
        monkeypatch.setattr(module, "_start_code", lambda *given, of=plain: server.code(of(*given)))


def _may_start_a_process(item: pytest.Item) -> bool:
    return any(item.get_closest_marker(mark) for mark in ("process", "server"))


@pytest.fixture(
    params=[
        pytest.param({}, id="default", marks=pytest.mark.process),
        pytest.param({"background": False}, id="in place"),
    ]
)
def way(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Options for a hook or callback: the product's default, and the files made in place.

    For what a user sees either way. A test without it takes the default way if it passes no
    ``background=False``.
    """
    options: dict[str, Any] = request.param
    return options


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """A real MLflow server, for all tests of a process: it takes seconds to start."""
    with running_server(tmp_path_factory.mktemp("mlflow_server")) as running:
        yield running


@pytest.fixture
def wandb_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An offline run of W&B, below the test's folder."""
    import wandb

    settings = {"MODE": "offline", "CONSOLE": "off", "SILENT": "true", "ERROR_REPORTING": "false"}
    for name, value in settings.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "wandb_home"))
    run = wandb.init(project="tests", dir=str(tmp_path), reinit="finish_previous")
    yield run
    run.finish()
