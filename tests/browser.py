"""Real browsers without a screen, and servers for it to look at, on loopback."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

_STARTS_WITHIN_S = 120

_PROGRAMS = {
    "chromium": ("chromium", "chromium-browser", "google-chrome"),
    "firefox": ("firefox-esr", "firefox"),
}
_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def free_port() -> int:
    """A port on 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def open_browser(kind: str = "chromium") -> Iterator[Browser]:
    """A running browser without a screen, closed at the end.

    Args:
        kind: ``"chromium"`` or ``"firefox"``, as the system's packages bring it.

    Raises:
        RuntimeError: There is none on this machine, and it runs continuous integration.
            Elsewhere the test is skipped then, with how to get one.
    """
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, _PROGRAMS[kind])), None)
    if path is None:
        missing = f"no {kind} on the path: `make browser` installs Debian's (apt-get, as root)"
        if "CI" in os.environ:
            raise RuntimeError(missing)
        pytest.skip(missing)
    with sync_playwright() as playwright:
        if kind == "firefox":
            # Over WebDriver BiDi, which an unchanged Firefox speaks. Playwright up to 1.60 asks
            # nothing of it that Debian's does not know.
            browser = playwright.firefox.launch(executable_path=path, channel="moz-firefox")
        else:
            browser = playwright.chromium.launch(executable_path=path, args=_FLAGS)
        try:
            yield browser
        finally:
            browser.close()


# The window of each browser that pages share.
_WINDOWS: WeakKeyDictionary[Browser, BrowserContext] = WeakKeyDictionary()


def new_tab(browser: Browser) -> Page:
    """A page beside others in one window: to open a window takes as long as to draw a graph.

    What pages keep (cookies, storage) they share; what wants none of that takes a window of its
    own (``browser.new_page()``).
    """
    if browser not in _WINDOWS:
        _WINDOWS[browser] = browser.new_context()
        _WINDOWS[browser].new_page()  # without a page the window closes
    return _WINDOWS[browser].new_page()


@contextlib.contextmanager
def serve(command: Sequence[str], port: int, log: Path, path: str = "/") -> Iterator[str]:
    """Runs a server until the end of the block.

    Args:
        command: What to run; it must listen on this port of 127.0.0.1.
        port: The port to wait for.
        log: Where its output goes.
        path: What must answer with a status below 500 before it counts as started.

    Yields:
        Its address, without a slash at the end.

    Raises:
        RuntimeError: It did not start; the message holds the end of its output.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        _wait(process, port, log, path)
        yield f"http://127.0.0.1:{port}"
    finally:
        # It may have children (TensorBoard's data server); they are in the session made for it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait(process: subprocess.Popen[bytes], port: int, log: Path, path: str) -> None:
    end = time.monotonic() + _STARTS_WITHIN_S
    while time.monotonic() < end and process.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("GET", path)
            if connection.getresponse().status < 500:
                return
        connection.close()
        time.sleep(0.1)
    raise RuntimeError(
        f"{process.args!r} did not start:\n{log.read_text(errors='replace')[-3000:]}"
    )
