"""Workers and uploads without their imports: forked from a process that has made these.

A worker that makes a few files computes for half a second, and imports torch, its exporter and
MLflow for three. Where a test is not about how these processes start (``tests/jobs`` is), a small
Python hands what it was started with (code, environment, folder, standard streams) to a server,
which forks; it ends as what was forked ends, and takes that along if it is killed. Where there is
no server, or not yet, it does everything itself.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

# What workers and uploads import, the exporter's table of translations aside.
IMPORTED = (
    "torch._dynamo",
    "torch.onnx._internal.exporter._core",
    "onnxscript.function_libs.torch_lib.ops",
    "mlflow.tracking",
    "tensorboard.compat.proto.event_pb2",
    "modelviz_callbacks.jobs.run_job",
    "modelviz_callbacks.jobs.upload_process",
    "modelviz_callbacks.writers.html",
    "modelviz_callbacks.writers.svg",
    "modelviz_callbacks.writers.onnx.trained",
)


class Server:
    """The server, as its tests have it; it ends with the process that started it."""

    def __init__(self, imported: Sequence[str] = IMPORTED) -> None:
        """Starts it; it answers as soon as everything is imported.

        Args:
            imported: Which modules.
        """
        self._folder = tempfile.TemporaryDirectory()
        self._address = str(Path(self._folder.name) / "line")
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.preloaded", self._address, *imported],
            cwd=Path(__file__).parent.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    @property
    def is_ready(self) -> bool:
        """Whether it answers."""
        return Path(self._address).exists()

    def code(self, code: str) -> str:
        """What does the same as a new interpreter's code, in a fork where that is possible."""
        root = str(Path(__file__).parent.parent)
        return (
            f"import sys; sys.path.insert(0, {root!r}); from tests.forking import ask; "
            f"exec('' if ask({self._address!r}, {code!r}) else {code!r})"
        )

    def end(self) -> None:
        """Ends it; what was forked goes on."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._folder.cleanup()


def _prepare(imported: Sequence[str]) -> None:
    for name in imported:
        importlib.import_module(name)
    if imported:
        from modelviz_callbacks.writers.onnx.exporter_internals import registry

        registry()
    gc.collect()
    gc.freeze()


def _serve(address: str) -> dict[str, Any]:
    """Forks for each who asks, until standard input ends; returns in what was forked only."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forked here
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{address}.new")
        listener.listen(64)
        Path(f"{address}.new").rename(address)  # from now on it answers
        while True:
            ready, _, _ = select.select([listener, sys.stdin], [], [])
            if listener not in ready:
                sys.exit()
            line, _ = listener.accept()
            if os.fork() == 0:
                break
            line.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _, streams, _, _ = socket.recv_fds(line, 1, 3)
    with line.makefile("rb") as reader:
        order: dict[str, Any] = json.loads(reader.readline())
    child = os.fork()
    if child:
        _attend(child, line)
    line.close()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    return order


def _attend(child: int, line: socket.socket) -> None:
    """Tells who asked how what was forked has ended, and ends that if the other is gone first."""
    end = os.pidfd_open(child)
    ready, _, _ = select.select([line, end], [], [])
    if end not in ready:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    try:
        line.sendall(bytes([os.waitstatus_to_exitcode(status) % 256]))
    finally:
        os._exit(0)


def _become(order: dict[str, Any]) -> None:
    """Puts what was forked where a new interpreter would be."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(order["environment"])
    os.chdir(order["folder"])
    sys.argv = ["-c"]
    sys.orig_argv = [sys.executable, "-c", order["code"]]  # a worker starts itself anew so
    random.seed()


def _run(code: str) -> NoReturn:
    """Runs code and ends the process, without taking apart what others still share."""
    status = 0
    try:
        exec(code, {"__name__": "__main__"})
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _prepare(sys.argv[2:])
    given = _serve(sys.argv[1])
    _become(given)
    _run(given["code"])
