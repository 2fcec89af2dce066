"""Tasks that worker processes run in tests: harmless ones, and ones that break a limit."""

import ctypes
import importlib
import os
import platform
import resource
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from jaxserve.errors import InvalidParameter

kept: list[bytes] = []


def double(data: Any) -> Any:
    return data * 2


def set_up(data: Any) -> list[Any]:
    """A setup: what each worker keeps for its tasks."""
    return [os.getpid(), data]


def with_kept(kept: list[Any], data: Any) -> list[Any]:
    kept.append(data)
    return kept


def pid(_: Any) -> int:
    return os.getpid()


def loaded(_: Any) -> list[str]:
    return sorted(sys.modules)


def environment(_: Any) -> dict[str, str]:
    return dict(os.environ)


def limits(_: Any) -> list[int]:
    return [resource.getrlimit(resource.RLIMIT_AS)[0], resource.getrlimit(resource.RLIMIT_CPU)[0]]


def refuse(data: Any) -> None:
    raise InvalidParameter(data["message"], data["param"])


def fail(_: Any) -> float:
    return 1 / 0


def burn(_: Any) -> int:
    return 3 ** (10**9)


def loop(_: Any) -> None:
    while True:
        pass


def allocate(num_bytes: int) -> int:
    return len(bytearray(num_bytes))


def keep(num_bytes: int) -> int:
    kept.append(b"x" * num_bytes)
    return len(kept)


def leave(_: Any) -> None:
    os._exit(3)


def import_by_name(name: str) -> str:
    return str(importlib.import_module(name).__file__)


def escape(way: str) -> str:
    """Try a way out of a worker; return what came of it: the name of an error, or "out"."""
    try:
        WAYS[way]()
    except OSError as error:
        return type(error).__name__
    except ValueError as error:
        return str(error)
    return "out"


def _raise_limits() -> None:
    for kind in (resource.RLIMIT_CPU, resource.RLIMIT_FSIZE):
        _, hard = resource.getrlimit(kind)
        if hard == resource.RLIM_INFINITY:
            return
    raise ValueError("all limits are hard")


def _fill_descriptors() -> None:
    opened = []
    for _ in range(1000):
        opened.append(os.dup(0))


def _fork() -> None:
    if os.fork() == 0:
        os._exit(0)


def _signal_thread() -> None:
    number = {"x86_64": 234, "aarch64": 131}[platform.machine()]  # tgkill
    if ctypes.CDLL(None, use_errno=True).syscall(number, os.getppid(), os.getppid(), signal.SIGCONT):
        raise OSError(ctypes.get_errno(), "tgkill")


WAYS = {
    "connect": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
    "unix socket": lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM),
    "program": lambda: subprocess.run(["/bin/true"], check=True),
    "replace itself": lambda: os.execv("/bin/true", ["true"]),
    "fork": _fork,
    "signal": lambda: os.kill(os.getppid(), signal.SIGCONT),
    "signal to a thread": _signal_thread,
    "limits of the parent": lambda: resource.prlimit(os.getppid(), resource.RLIMIT_CORE, (0, 0)),
    "processors of the parent": lambda: os.sched_setaffinity(os.getppid(), os.sched_getaffinity(0)),
    "priority of the parent": lambda: os.setpriority(os.PRIO_PROCESS, os.getppid(), 0),
    "memory of the parent": lambda: Path(f"/proc/{os.getppid()}/mem").open("rb").close(),
    "environment of the parent": lambda: Path(f"/proc/{os.getppid()}/environ").read_bytes(),
    "a file": lambda: Path("/etc/hostname").read_bytes(),
    "a new file": lambda: Path("/tmp/jaxserve-worker-was-here").write_bytes(b"x"),
    "a file of here": lambda: Path("here").write_bytes(b"x"),
    "descriptors": _fill_descriptors,
    "limits": _raise_limits,
}


def thread(_: Any) -> int:
    done: list[int] = []
    one = threading.Thread(target=done.append, args=(1,))
    one.start()
    one.join()
    return len(done)


def privileges(_: Any) -> int:
    return int(ctypes.CDLL(None).prctl(39, 0, 0, 0, 0))  # PR_GET_NO_NEW_PRIVS
