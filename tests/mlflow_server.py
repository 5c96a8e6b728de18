"""A real MLflow server on loopback, and a proxy that makes it have a bad day."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

# Far more than it takes: other programs may keep the cores busy.
_STARTS_WITHIN_S = 600


@dataclass(frozen=True)
class MlflowServer:
    """A running server.

    Attributes:
        uri: Its tracking URI.
        port: Its port on 127.0.0.1.
        artifacts: The folder in which it keeps artifacts.
    """

    uri: str
    port: int
    artifacts: Path


def free_port() -> int:
    """A port on 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running_server(folder: Path) -> Iterator[MlflowServer]:
    """Run ``mlflow server`` with a sqlite store and artifacts that go through the server.

    Args:
        folder: Where its store, its artifacts and its log are kept.
    """
    port = free_port()
    artifacts = folder / "artifacts"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'server.db'}", "--workers", "1"]
    command += ["--artifacts-destination", str(artifacts)]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    environment |= {"MLFLOW_DISABLE_TELEMETRY": "true"}
    # Else it starts further Pythons, for jobs that nobody here gives it.
    environment |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    # Its workers are processes of their own, in the session that was started for it. Should this
    # process be killed, the line to the guard ends, and the guard ends them.
    command = ["sh", "-c", f"cat > /dev/null; kill -KILL -{process.pid}"]
    guard = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    try:
        _wait_until_healthy(process, port, log)
        yield MlflowServer(f"http://127.0.0.1:{port}", port, artifacts)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        guard.communicate()
        process.wait()


def _wait_until_healthy(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + _STARTS_WITHIN_S
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer,
        ):
            if answer.status == 200:
                return
        time.sleep(0.2)
    raise RuntimeError(f"mlflow server did not start:\n{log.read_text(errors='replace')[-3000:]}")


# What a server may do to a request, besides refusing connections.
MISBEHAVIOURS = (
    *("401", "403", "413", "500", "busy", "hang", "drops", "garbage", "no json"),
    *("slow", "slow answers", "redirects", "redirects away", "no uploads"),
)

# A page of an error as a proxy in front of a server may send it, with an address in it.
_PAGE = b"<html>no entry for http://ann:s3cret-pw@host/ " + b"token-" * 10_000 + b"</html>"
_JUNK = b"\x00\xff\x16\x03 this is no HTTP at all \r\n\r\n" * 20


class Proxy:
    """Stands in front of a server and passes on what it is told to.

    Attributes:
        uri: The tracking URI to give to a client.
        behaviour: What it does with a request now: ``"pass"``, or one of `MISBEHAVIOURS`:
            ``"401"``, ``"403"``, ``"413"`` (uploads only) and ``"500"`` answer so, the first
            three with a page of 60 kB; ``"busy"`` answers 503, come back in an hour; ``"hang"``
            accepts and never answers; ``"drops"`` cuts the connection half-way through each
            answer; ``"garbage"`` answers what is no HTTP; ``"no json"`` answers 200 with a page;
            ``"slow"`` answers one byte a second; ``"slow answers"`` does so with a good answer's
            body; ``"redirects"`` sends everybody round in a circle, ``"redirects away"`` to a
            port where nobody is; ``"no uploads"`` answers uploads with 500, passes the rest.
        dies_after_uploads: So many uploads pass; the next is cut off half-way and from then on
            connections are refused. None: it does not die.
        requests: Method and path of every request that came in.
    """

    def __init__(self, upstream_port: int) -> None:
        self._upstream_port = upstream_port
        self._released = threading.Event()
        self._server: _Listener | None = None
        self._port = 0
        self.behaviour = "pass"
        self.dies_after_uploads: int | None = None
        self.requests: list[tuple[str, str]] = []
        self.accept()
        self.uri = f"http://127.0.0.1:{self._port}"

    def accept(self) -> None:
        """Listen, on the same port as before."""
        self._server = _Listener(("127.0.0.1", self._port), _Handler)
        self._server.proxy = self
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def refuse(self) -> None:
        """Stop listening: connections are refused until ``accept``."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()

    def recover_after(self, seconds: float) -> None:
        """Be a good server again after a while."""

        def recover() -> None:
            time.sleep(seconds)
            self.behaviour = "pass"
            self.dies_after_uploads = None
            if self._server is None:
                self.accept()

        threading.Thread(target=recover, daemon=True).start()

    def close(self) -> None:
        """Let everybody go."""
        self._released.set()
        self.refuse()

    def wait_for_end(self, seconds: float | None = None) -> bool:
        """Hold a request until the proxy is closed, or for so long; whether it is closed."""
        return self._released.wait(seconds)

    def uploads(self) -> list[str]:
        """Paths of the uploads that were tried, in order."""
        return [path for method, path in self.requests if method == "PUT"]

    def cuts_this_upload(self) -> bool:
        """Whether the upload that has just come in is the one to die with."""
        limit = self.dies_after_uploads
        return limit is not None and len(self.uploads()) > limit

    def forward(self, method: str, path: str, headers: Any, body: bytes) -> tuple[int, Any, bytes]:
        """Ask the server behind; status, headers and body of its answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self._upstream_port, timeout=60)
        try:
            passed_on = {k: v for k, v in headers.items() if k.lower() != "transfer-encoding"}
            connection.request(method, path, body, passed_on)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    proxy: Proxy


class _Handler(BaseHTTPRequestHandler):
    server: _Listener

    def _handle(self) -> None:
        proxy = self.server.proxy
        proxy.requests.append((self.command, self.path))
        if proxy.behaviour == "hang":
            proxy.wait_for_end()
            return
        length = int(self.headers.get("Content-Length") or 0)
        if self.command == "PUT" and proxy.cuts_this_upload():
            self.rfile.read(length // 2)
            threading.Thread(target=proxy.refuse, daemon=True).start()
            self.close_connection = True
            return
        body = self.rfile.read(length)
        answer = self._bad_answer(proxy.behaviour)
        if proxy.behaviour in ("garbage", "drops", "slow", "slow answers"):
            self._break_off(proxy, body)
        elif answer is not None:
            self._answer(*answer)
        else:
            self._answer(*proxy.forward(self.command, self.path, self.headers, body))

    def _bad_answer(self, behaviour: str) -> tuple[int, dict[str, str], bytes] | None:
        """An answer that is well-formed and of no use; None: the server's own."""
        is_upload = self.command == "PUT"
        if behaviour == "413":
            return (413, {}, _PAGE) if is_upload else None
        if behaviour == "no uploads":
            return (500, {}, b"the server has a bad day") if is_upload else None
        here = f"http://127.0.0.1:{self.server.server_address[1]}{self.path}"
        answers: dict[str, tuple[int, dict[str, str], bytes]] = {
            "401": (401, {"WWW-Authenticate": "Basic"}, _PAGE),
            "403": (403, {}, _PAGE),
            "500": (500, {}, b"the server has a bad day"),
            "busy": (503, {"Retry-After": "3600"}, b"come back in an hour"),
            "no json": (200, {"Content-Type": "text/html"}, _PAGE),
            "redirects": (307, {"Location": here}, b""),
            "redirects away": (307, {"Location": f"http://127.0.0.1:9{self.path}"}, b""),
        }
        return answers.get(behaviour)

    def _break_off(self, proxy: Proxy, body: bytes) -> None:
        """Answers what is no whole answer, or takes for ever to do so."""
        self.close_connection = True
        if proxy.behaviour == "garbage":
            self.wfile.write(_JUNK)
            return
        status, headers, content = proxy.forward(self.command, self.path, self.headers, body)
        kind = headers.get("Content-Type", "application/json")
        head = (
            f"HTTP/1.1 {status} OK\r\nContent-Type: {kind}\r\n"
            f"Content-Length: {len(content) + (proxy.behaviour == 'drops')}\r\n\r\n"
        ).encode()
        if proxy.behaviour == "drops":
            self.wfile.write(head + content[: len(content) // 2])
            return
        if proxy.behaviour == "slow answers":
            self.wfile.write(head)
            head = b""
        for byte in head + content:
            self.wfile.write(bytes([byte]))
            self.wfile.flush()
            if proxy.wait_for_end(1.0):
                return

    def _answer(self, status: int, headers: Any, body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def handle(self) -> None:
        """As ever, but for clients that go away: that is what they should do here."""
        with contextlib.suppress(OSError):
            super().handle()

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _handle

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the requests are kept."""


@contextlib.contextmanager
def misbehaving_proxy(upstream_port: int) -> Iterator[Proxy]:
    """A proxy in front of the server at a port, well-behaved until told otherwise."""
    proxy = Proxy(upstream_port)
    try:
        yield proxy
    finally:
        proxy.close()


@contextlib.contextmanager
def store_in_use(uri: str) -> Iterator[None]:
    """Lets MLflow use a store, as a script does that sets it."""
    import mlflow

    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
