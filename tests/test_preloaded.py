"""What is forked for a test is what a new interpreter would be, imports aside."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.preloaded import Server
from tests.waiting import PATIENCE_S, wait_for

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux only"),
]

# Says who made it, reads what it is given, and ends with a status of its own.
TELLS = """
import os, sys
made_by = "the server" if b"-m" in open("/proc/self/cmdline", "rb").read().split(bytes(1)) else "me"
print(made_by, os.getcwd(), os.environ.get("OF_THE_TEST"), sys.stdin.read(), sys.orig_argv[1:2])
print("an error", file=sys.stderr)
sys.exit(3)
"""


@pytest.fixture
def started() -> Iterator[Server]:
    server = Server(imported=())
    wait_for(lambda: server.is_ready)
    yield server
    server.end()


def run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OF_THE_TEST": "given"}
    return subprocess.run(
        [sys.executable, "-c", code],
        input="an order",
        capture_output=True,
        text=True,
        env=environment,
        cwd=folder,
        timeout=PATIENCE_S,
        check=False,
    )


def test_it_has_what_the_other_was_started_with_and_ends_so(
    started: Server, tmp_path: Path
) -> None:
    done = run(started.code(TELLS), tmp_path)
    assert done.stdout == f"the server {tmp_path} given an order ['-c']\n"
    assert done.stderr == "an error\n"
    assert done.returncode == 3


def test_where_no_server_answers_the_other_does_it_itself(started: Server, tmp_path: Path) -> None:
    started._address += " of nobody"
    done = run(started.code(TELLS), tmp_path)
    assert done.stdout == f"me {tmp_path} given an order ['-c']\n"
    assert done.returncode == 3


def test_a_worker_that_starts_itself_anew_stays_the_same_process(
    started: Server, tmp_path: Path
) -> None:
    code = "import os; os.environ['MODELVIZ_WORKER_STATE'] = ''; print(os.getpid(), flush=True)"
    anew = started.code("import os; print(os.getpid())")
    code += f"; import sys; os.execv(sys.executable, [sys.executable, '-c', {anew!r}])"
    first, second = run(started.code(code), tmp_path).stdout.split()
    assert first == second


def test_it_ends_with_the_other_where_that_is_killed(started: Server, tmp_path: Path) -> None:
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    with subprocess.Popen(
        [sys.executable, "-c", started.code(code)], stdout=subprocess.PIPE, text=True, cwd=tmp_path
    ) as asking:
        assert asking.stdout is not None
        pid = int(asking.stdout.readline())
        asking.kill()
    wait_for(lambda: not Path(f"/proc/{pid}").exists())
