"""One helper as its owner sees it: a process behind a socket."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

import psutil

STARTUP_S = 60.0
MAX_ANSWER_BYTES = 1 << 30
KEPT_VARIABLES = ("PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "SYSTEMROOT")


class WorkerExited(Exception):
    """The process is gone; the text says why."""


class WorkerProcess:
    """A process that answers one task at a time. It starts at once, and is waited for by the first task."""

    def __init__(self, modules: Sequence[str]) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "jaxserve.workers.worker", *modules],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=_environment(),
                start_new_session=True,  # the terminal's Ctrl-C is for the server, which then drains
            )
        self._channel = Connection(ours.detach())
        self._is_ready = False

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    @property
    def rss_bytes(self) -> int:
        """What it holds in memory now; 0 when it has ended."""
        try:
            # Not its own ru_maxrss: across vfork and exec that begins with what the server holds.
            return psutil.Process(self.pid).memory_info().rss
        except psutil.Error:
            return 0

    def run(self, task: bytes, wall_s: float) -> dict[str, Any]:
        """The answer to a task. Raises WorkerExited when it took longer than wall_s, or the process ended."""
        if not self._is_ready:
            self._talk(None, STARTUP_S)
            self._is_ready = True
        return json.loads(self._talk(task, wall_s))

    def kill(self) -> None:
        """Kills the process, which has nothing to save, and waits for it. Idempotent, and safe beside `ask`."""
        self._process.kill()
        self._process.wait()  # the channel stays: another thread may be reading from it, and hears of the end there

    def _talk(self, message: bytes | None, wall_s: float) -> bytes:
        """Sends, unless there is nothing to, and receives. A clock kills the process, which ends the waiting."""
        first = threading.Lock()  # taken by whoever is first, the answer or the clock; so it is never both

        def kill() -> None:
            if first.acquire(blocking=False):
                self._process.kill()

        clock = threading.Timer(wall_s, kill)
        clock.daemon = True
        clock.start()
        try:
            if message is not None:
                self._channel.send_bytes(message)
            answer = self._channel.recv_bytes(MAX_ANSWER_BYTES)
        except (EOFError, OSError):
            answer = None
        in_time = first.acquire(blocking=False)
        clock.cancel()
        if answer is not None and in_time:
            return answer
        self.kill()
        raise WorkerExited(f"it took longer than {wall_s:g} s" if not in_time else self._why())

    def _why(self) -> str:
        if self._process.returncode == -signal.SIGXCPU:
            return "it needed too much processor time"
        return "it needed too much memory, or ended the process it ran in"


def _environment() -> dict[str, str]:
    """What an interpreter needs to start. Keys and tokens in the server's environment are not passed on."""
    kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    return kept | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "MALLOC_ARENA_MAX": "1"}
