"""Odd environments: a training is the same with and without a hook in each of them.

A small program trains in a process of its own, once without and once with a hook, in an
environment that is odd in one way: how it is started, what is closed, full, missing or forbidden,
what the user's own code has put in place of Python's. Both times it must have the same weights,
the same output (but for our lines) and the same exit status; with a hook every file must be there
and whole (where a disk can be written; elsewhere whole files or none), with one warning at most,
and no process may be left. Every fourth environment gives the worker the time to make the files,
the rest end at once, so that they are made in place.

Run it with ``python -m benchmarks.faults.environments [NAME ...]``; it needs Linux and ten minutes.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
import uuid
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.faults.left_behind import broken_files, end_process, leftovers, processes_with

FILES = {"graph.json", "graph.svg", "graph.txt", "report.json"}
LIMIT_S = 60.0
# How long a training waits for the worker's files, in seconds.
WAIT_S = 30.0
AT_ONCE = 2
_TAG = "MODELVIZ_FAULTS_TAG"
_ROOT = str(Path(__file__).parents[2])

_PROGRAM = """
import sys
sys.path[:0] = PATHS
import os, time
import torch
from torch import nn
BEFORE

def train():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 2))
    optimizer = torch.optim.Adam(model.parameters())
    hook = None
    if IS_WATCHED:
        from modelviz_callbacks import GraphHook
        hook = GraphHook(model, dirpath=DIRPATH, formats=["svg", "text"], onnx=False)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(6, 4)).square().mean().backward()
        optimizer.step()
    MEANWHILE
    if hook is not None:
        end = time.monotonic() + WAIT_S
        while time.monotonic() < end and not os.path.exists(os.path.join(DIRPATH, "report.json")):
            time.sleep(0.05)
        CLOSE
    total = sum(parameter.double().sum().item() for parameter in model.parameters())
    descriptor = os.open(WEIGHTS, os.O_WRONLY | os.O_CREAT, 0o600)
    os.write(descriptor, total.hex().encode())

RUN
SAID
"""


@dataclass(frozen=True)
class Environment:
    """What is odd.

    Attributes:
        name: What it is called.
        flags: Of the interpreter.
        env: Variables; ``None``: not set.
        before: Code that comes before the training, after ``import torch``.
        meanwhile: Code after the last step, before the hook is closed.
        run: Code that trains.
        close: Code that closes the hook.
        dirpath: Where the files go, an expression; ``""``: a folder of its own.
        limits: Limits of the process, of `resource`, by name.
        in_process: Called in the new process before the program.
        started: ``"script"``, ``"stdin"``, ``"-c"``, ``"zip"`` or ``"-m"``.
        has_files: Whether the files can be written.
        refused: What it says when the hook is made, which it may not be.
    """

    name: str
    flags: tuple[str, ...] = ()
    env: dict[str, str | None] = field(default_factory=dict)
    before: str = ""
    meanwhile: str = ""
    run: str = "train()"
    close: str = "hook.close()"
    dirpath: str = ""
    limits: dict[str, int] = field(default_factory=dict)
    in_process: Callable[[], object] | None = None
    started: str = "script"
    has_files: bool = True
    refused: str = ""


def _closed(*descriptors: int) -> Callable[[], object]:
    def close() -> None:
        for descriptor in descriptors:
            os.close(descriptor)

    return close


def _to(path: str) -> Callable[[], object]:
    def redirect() -> None:
        os.dup2(os.open(path, os.O_WRONLY), 1)

    return redirect


def _broken_pipe() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    os.dup2(writing, 1)


# Torch itself cannot begin without a working directory.
_DELETED = "import tempfile; d = tempfile.mkdtemp(); os.chdir(d); os.rmdir(d)"

_SPAWN = """
import multiprocessing
if __name__ == "__main__":
    process = multiprocessing.get_context("HOW").Process(target=train)
    process.start()
    process.join()
    assert process.exitcode == 0
"""
_FORK = """
pid = os.fork()
if not pid:
    train()
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
"""
_THREAD = """
import threading
thread = threading.Thread(target=train, daemon=DAEMON)
thread.start()
thread.join()
"""
_RAISING = """
class Raising:
    encoding = "utf-8"
    def write(self, text):
        raise ZeroDivisionError
    def flush(self):
        raise ZeroDivisionError
    def isatty(self):
        raise ZeroDivisionError
"""
_WAITS = """
def wait():
    try:
        while True:
            os.wait()
    except ChildProcessError:
        pass
"""
_LOGS = """
import logging
class Handler(logging.Handler):
    def emit(self, record):
        raise ZeroDivisionError
logging.captureWarnings(True)
logging.getLogger("py.warnings").addHandler(Handler())
"""

_STARTED = (
    Environment("nothing odd"),
    Environment("-I", ("-I",)),
    Environment("-S", ("-S",)),
    Environment("-u", ("-u",)),
    Environment("-B", ("-B",)),
    Environment("-O", ("-O",)),
    Environment("-OO", env={"PYTHONOPTIMIZE": "2"}),
    Environment("-W error", ("-W", "error")),
    Environment("warnings of users as errors", env={"PYTHONWARNINGS": "error::UserWarning"}),
    Environment("-X dev", ("-X", "dev")),
    Environment("-X importtime", ("-X", "importtime")),
    Environment("-X frozen_modules=off", ("-X", "frozen_modules=off")),
    Environment("-P", ("-P",)),
    Environment("standard input", started="stdin"),
    Environment("-c", started="-c"),
    Environment("-m", started="-m"),
    Environment("a zip app", started="zip"),
    Environment("runpy", started="runpy"),
    Environment("no sys.argv", before="sys.argv = []"),
    Environment("no sys.executable", before="sys.executable = None"),
    Environment("a wrong sys.executable", before="sys.executable = '/nowhere/python'"),
    Environment("no sys.orig_argv", before="del sys.orig_argv"),
)
_OUTPUT = (
    Environment("closed stdin", in_process=_closed(0)),
    Environment("closed stdout", in_process=_closed(1)),
    Environment("closed stderr", in_process=_closed(2)),
    Environment("all closed", in_process=_closed(0, 1, 2)),
    Environment("a full stdout", in_process=_to("/dev/full")),
    Environment("a broken pipe as stdout", in_process=_broken_pipe),
    Environment("a stdout that raises", before=f"{_RAISING}sys.stdout = Raising()"),
    Environment("a stderr that raises", before=f"{_RAISING}sys.stderr = Raising()"),
    Environment("sys.stdout is None", before="sys.stdout = None"),
    Environment("closed sys.stdout", before="sys.stdout.close()"),
    Environment("ascii", env={"LANG": "C", "LC_ALL": "C", "PYTHONIOENCODING": "ascii:strict"}),
    Environment(
        "C locale", env={"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    ),
    Environment("an own print", before="import builtins; builtins.print = None"),
    Environment(
        "showwarning that raises", before="import warnings; warnings.showwarning = lambda *_: 1 / 0"
    ),
    Environment("a log handler that raises", before=_LOGS),
    Environment("logging disabled", before="import logging; logging.disable()"),
    Environment("an own excepthook", before="sys.excepthook = lambda *_: os._exit(7)"),
)
_PLACES = (
    Environment("umask 000", in_process=lambda: os.umask(0)),
    Environment("umask 077", in_process=lambda: os.umask(0o077)),
    Environment("umask 777", in_process=lambda: os.umask(0o777)),
    Environment("deleted working directory", meanwhile=_DELETED),
    Environment("working directory changes", meanwhile="os.chdir('/')"),
    Environment("relative folder", before="os.chdir(SCRATCH)", dirpath="'graphs'"),
    Environment("a folder of CJK letters", dirpath="SCRATCH + '/' + '\\u6f22' * 80"),
    Environment("a name too long", dirpath="SCRATCH + '/' + '\\u6f22' * 90", has_files=False),
    Environment("a path too long", dirpath="SCRATCH + '/abcdefgh' * 600", has_files=False),
    Environment("a folder in /proc", dirpath="'/proc/graphs'", has_files=False),
    Environment("a folder below a file", dirpath="SCRATCH + '/train.py/graphs'", has_files=False),
    Environment("a file", dirpath="SCRATCH + '/train.py'", refused="it is a file"),
    Environment(
        "a link to nothing",
        before="os.path.lexists(SCRATCH + '/link') or os.symlink('/nowhere', SCRATCH + '/link')",
        dirpath="SCRATCH + '/link'",
        refused="a link to nothing",
    ),
    Environment("NUL", dirpath="SCRATCH + '/a\\0b'", refused="a NUL character"),
    Environment("no HOME", env={"HOME": None}),
    Environment("a HOME that is not there", env={"HOME": "/nowhere"}),
    Environment("no PATH", env={"PATH": None}),
    Environment("TMPDIR is missing", env={"TMPDIR": "/nowhere"}),
    Environment("TMPDIR is a file", env={"TMPDIR": "/etc/hostname"}),
    Environment("no folder for temporary files", before="import tempfile; tempfile.tempdir = '/0'"),
    Environment("a file size limit of 0", limits={"RLIMIT_FSIZE": 0}, has_files=False),
    Environment("a file size limit of 3,000", limits={"RLIMIT_FSIZE": 3_000}, has_files=False),
    Environment("a file size limit of 20,000", limits={"RLIMIT_FSIZE": 20_000}, has_files=False),
    Environment("12 open files", limits={"RLIMIT_NOFILE": 12}, has_files=False),
    Environment("64 open files", limits={"RLIMIT_NOFILE": 64}),
)
_CODE = (
    Environment("recursion limit 260", before="sys.setrecursionlimit(260)", has_files=False),
    Environment("no fork", before="del os.fork"),
    Environment("no processes", before="import subprocess; subprocess.Popen = None"),
    Environment("in a thread", run=_THREAD.replace("DAEMON", "False")),
    Environment("in a daemon thread", run=_THREAD.replace("DAEMON", "True")),
    Environment("in a forked child", run=_FORK),
    Environment("spawned", run=_SPAWN.replace("HOW", "spawn")),
    Environment("fork server", run=_SPAWN.replace("HOW", "forkserver")),
    Environment("asyncio", run="import asyncio\nasyncio.run(asyncio.to_thread(train))"),
    Environment("in a coroutine", run="import asyncio\nasync def go(): train()\nasyncio.run(go())"),
    Environment("closed atexit", close="import atexit; atexit.register(hook.close)"),
    Environment("never closed", close="pass", has_files=False),
    Environment("os.wait", before=_WAITS, meanwhile="wait()"),
    Environment(
        "SIGCHLD ignored", before="import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN)"
    ),
    Environment(
        "SIGPIPE ends", before="import signal; signal.signal(signal.SIGPIPE, signal.SIG_DFL)"
    ),
    Environment(
        "a timer's signals",
        before="import signal; signal.signal(signal.SIGALRM, lambda *_: None)\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)",
    ),
    Environment("settrace", before="sys.settrace(lambda *_: None)"),
    Environment("setprofile", before="sys.setprofile(lambda *_: None)"),
    Environment("traced line by line", before="def f(*_): return f\nsys.settrace(f)"),
    Environment("cProfile", run="import cProfile; cProfile.run('train()', os.devnull)"),
    Environment("no collector", before="import gc; gc.disable()"),
    Environment("collector all the time", before="import gc; gc.set_threshold(50)"),
    Environment("faulthandler", ("-X", "faulthandler")),
    Environment("tracemalloc", ("-X", "tracemalloc=5")),
    Environment("malloc checks", env={"PYTHONMALLOC": "debug"}),
    Environment("hash seed", env={"PYTHONHASHSEED": "0"}),
    Environment("an odd zone", env={"TZ": "Nowhere/Else"}),
    Environment("the clock stands still", before="time.time = lambda: 0.0"),
    Environment("no time for sockets", before="import socket; socket.setdefaulttimeout(0.001)"),
    Environment("float64", before="torch.set_default_dtype(torch.float64)"),
    Environment("a default device", before="torch.set_default_device('cpu')"),
    Environment("deterministic", before="torch.use_deterministic_algorithms(True)"),
    Environment("anomalies", before="torch.autograd.set_detect_anomaly(True)"),
    Environment("CUDA_VISIBLE_DEVICES", env={"CUDA_VISIBLE_DEVICES": "nonsense,-7"}),
    Environment("TORCH_LOGS", env={"TORCH_LOGS": "+all"}),
    Environment(
        "proxies", env=dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), "http://[::1]:1")
    ),
    Environment("a huge variable", env={"HUGE": "x" * 100_000}),
    Environment("variables of MLflow", env={"MLFLOW_HTTP_REQUEST_TIMEOUT": "never"}),
    Environment("an odd store", env={"MLFLOW_TRACKING_URI": "nonsense://"}),
    Environment("a rank", env={"LOCAL_RANK": "x", "RANK": "", "WORLD_SIZE": "0"}),
)
ENVIRONMENTS = (*_STARTED, *_OUTPUT, *_PLACES, *_CODE)


def _start(one: Environment, folder: Path, is_watched: bool, wait_s: float) -> list[str]:
    """Writes the program and says how it is started."""
    from site import getsitepackages

    graphs = one.dirpath or "SCRATCH + '/graphs'"
    text = _PROGRAM
    for name, code in (
        ("PATHS", repr([_ROOT, *getsitepackages()])),
        ("BEFORE", one.before),
        ("MEANWHILE", one.meanwhile or "pass"),
        ("RUN", one.run),
        ("CLOSE", one.close),
        ("IS_WATCHED", repr(is_watched)),
        ("WAIT_S", repr(wait_s)),
        ("WEIGHTS", repr(str(folder / f"weights-{is_watched}"))),
        ("SAID", "if __name__ == '__main__' and sys.stdout is not None: print('trained')"),
        ("DIRPATH", graphs),
        ("SCRATCH", repr(str(folder))),
    ):
        text = text.replace(name, code)
    script = folder / "train.py"
    script.write_text(text, encoding="utf-8")
    again = f"import runpy; runpy.run_path({str(script)!r}, {{}}, '__main__')"
    python = [sys.executable, *one.flags]
    if one.started == "zip":
        with zipfile.ZipFile(folder / "app.pyz", "w") as archive:
            archive.writestr("__main__.py", text)
        return [*python, str(folder / "app.pyz")]
    return {
        "script": [*python, str(script)],
        "stdin": [*python, "-"],
        "-c": [*python, "-c", text],
        "-m": [*python, "-m", "train"],
        "runpy": [*python, "-c", again],
    }[one.started]


def _run(
    one: Environment, folder: Path, is_watched: bool, tag: str, wait_s: float
) -> subprocess.CompletedProcess[bytes]:
    command = _start(one, folder, is_watched, wait_s)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", _TAG: tag}
    for name, value in one.env.items():
        environment.pop(name, None)
        environment |= {} if value is None else {name: value}

    def prepare() -> None:
        for name, limit in one.limits.items():
            resource.setrlimit(getattr(resource, name), (limit, limit))
        if one.in_process is not None:
            one.in_process()

    program = (folder / "train.py").read_bytes() if one.started == "stdin" else b""
    return subprocess.run(
        command,
        env=environment,
        input=program,
        capture_output=True,
        cwd=folder,
        preexec_fn=prepare,
        timeout=600,
        check=False,
    )


def faults_of(one: Environment, wait_s: float) -> list[str]:
    """What is not with a hook as it is without, and what is missing or left."""
    tag = uuid.uuid4().hex
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch)
        expected = _run(one, folder, False, tag, 0.0)
        found = _run(one, folder, True, tag, wait_s)
        end = time.monotonic() + LIMIT_S
        while processes_with(tag) and time.monotonic() < end:
            time.sleep(0.1)
        faults = [f"process {pid} is left" for pid in processes_with(tag)]
        for pid in processes_with(tag):
            end_process(pid)
        errors = found.stderr.decode(errors="replace")
        if one.refused:
            is_said = one.refused in errors and "OptionError" in errors
            return [*faults, *([] if is_said else [f"not refused: {errors[-300:]}"])]
        faults += _differences(one, expected, found, folder)
        faults += [f"half a file: {line}" for line in broken_files(folder)]
        faults += [f"left: {name}" for name in leftovers(folder)]
        made = {path.name for path in folder.rglob("*")}
        if one.has_files and not made >= FILES:
            faults.append(f"no {', '.join(sorted(FILES - made))}: {errors[-300:]}")
        if errors.count("part(s) are missing") > 1:
            faults.append("more than one warning")
    return faults


def _differences(one: Environment, expected: Any, found: Any, folder: Path) -> list[str]:
    faults = []
    if found.returncode != expected.returncode:
        said = found.stderr.decode(errors="replace")[-300:]
        faults.append(f"exit status {found.returncode}, not {expected.returncode}: {said}")
    lines = found.stdout.splitlines()
    if [x for x in lines if not x.startswith(b"modelviz: ")] != expected.stdout.splitlines():
        faults.append(f"other output: {found.stdout[-300:]!r}, not {expected.stdout[-300:]!r}")
    weights = [folder / f"weights-{watched}" for watched in (False, True)]
    without, with_hook = (path.read_bytes() if path.exists() else None for path in weights)
    if without != with_hook or (without is None and "RLIMIT_FSIZE" not in one.limits):
        faults.append(f"weights {with_hook!r}, not {without!r}")
    return faults


def main(arguments: list[str]) -> int:
    """Tries the environments named, or all; the exit status says whether all was as it should be.

    A name may be a part of one.
    """
    wanted = [
        (number, one)
        for number, one in enumerate(ENVIRONMENTS)
        if not arguments or any(name in one.name for name in arguments)
    ]
    bad = 0
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = pool.map(lambda x: (x[1], faults_of(x[1], 0.0 if x[0] % 4 else WAIT_S)), wanted)
        for one, faults in found:
            bad += bool(faults)
            print(f"{one.name:32s} {'; '.join(faults) or 'as it should be'}", flush=True)
    print(f"{len(wanted)} environments; not as they should be: {bad}")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
