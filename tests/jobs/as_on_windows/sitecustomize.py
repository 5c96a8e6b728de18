"""A Python with this folder on its path shows the package a Windows, with what that lacks.

Only the package's own modules see it. What the interpreter and other libraries chose as they were
built stays: they run on what is really there.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import os
import select
import signal
import socket
import subprocess
import sys
import types
from typing import Any

PACKAGE = "modelviz_callbacks"
# What the documentation of `os` and `signal` calls available on Unix only.
OF_OS = (
    "chown fchown lchown ctermid fork forkpty getegid geteuid getgid getgroups getloadavg getpgid "
    "getpgrp getpriority getsid getuid killpg mkfifo nice pathconf posix_spawn posix_spawnp pread "
    "pwrite register_at_fork sched_getaffinity sched_getparam sched_getscheduler sched_param "
    "sched_setaffinity sched_setparam sched_setscheduler sched_yield sendfile setegid seteuid "
    "setgid setgroups setpgid setpriority setsid setuid statvfs sysconf tcgetpgrp uname wait wait3 "
    "wait4 SCHED_IDLE SCHED_OTHER PRIO_PROCESS WNOHANG O_CLOEXEC O_DIRECTORY O_NOFOLLOW O_NONBLOCK"
)
OF_SIGNAL = (
    "SIGALRM SIGCHLD SIGCONT SIGHUP SIGIO SIGKILL SIGPIPE SIGQUIT SIGSTOP SIGTSTP SIGTTIN SIGTTOU "
    "SIGUSR1 SIGUSR2 alarm pause pthread_kill setitimer sigwait"
)


class _AsThere(types.ModuleType):
    """A module with some names missing and some changed."""

    def __init__(
        self, real: types.ModuleType, missing: str, changed: dict[str, Any] | None = None
    ) -> None:
        super().__init__(real.__name__)
        self.__dict__.update(changed or {}, _real=real, _missing=frozenset(missing.split()))

    def __getattr__(self, name: str) -> Any:
        if name in self._missing:
            raise AttributeError(f"module {self._real.__name__!r} has no attribute {name!r}")
        return getattr(self._real, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._real, name, value)


def _refused(*_: Any, **__: Any) -> Any:
    raise OSError(10038, "an operation was attempted on something that is not a socket")


def _ends_it(process: int, number: int) -> None:
    """Any signal that is not of the console ends the process there, with 0, too."""
    os.kill(process, signal.SIGKILL)


def _another_process(path: str, arguments: list[str]) -> None:
    """Another process takes over there, and this one is gone for whoever started it."""
    subprocess.Popen([path, *arguments[1:]], stdin=0)
    os._exit(0)


THERE = {
    "os": _AsThere(os, OF_OS, {"name": "nt", "kill": _ends_it, "execv": _another_process}),
    "select": _AsThere(select, "poll epoll", {"select": _refused}),
    "signal": _AsThere(signal, OF_SIGNAL),
    "socket": _AsThere(socket, "AF_UNIX MSG_NOSIGNAL"),
    "sys": _AsThere(sys, "", {"platform": "win32"}),
}


class _Loader(importlib.abc.Loader):
    """Loads a module of the package from its text, which then imports what is there on Windows."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType | None:
        created: types.ModuleType | None = self._loader.create_module(spec)
        return created

    def exec_module(self, module: types.ModuleType) -> None:
        builtins = dict(vars(__import__("builtins")))
        real = builtins["__import__"]

        def there(name: str, *args: Any, **kwargs: Any) -> Any:
            return THERE[name] if name in THERE else real(name, *args, **kwargs)

        module.__dict__["__builtins__"] = {**builtins, "__import__": there}
        exec(self._loader.get_code(module.__name__), module.__dict__)


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, name: str, path: Any = None, target: Any = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name.partition(".")[0] != PACKAGE:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = _Loader(spec.loader)
        return spec


sys.meta_path.insert(0, _Finder())
