"""The parent's side of one worker process, which it talks to through a socket pair."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

STARTUP_S = 60.0
MAX_REPLY_BYTES = 1 << 30
# SIGKILL is the system's that is short of memory. A task may not send signals, and its own errors have others.
SIGNALS_FROM_OUTSIDE = frozenset((signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
PASSED_VARIABLES = ("PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "SYSTEMROOT")
# -I: neither the current directory nor variables nor the user's site-packages add to the path, which is given instead.
PROGRAM = """
import json, sys
path, parent_id, *modules = sys.argv[1:]
sys.path[:] = json.loads(path)
from jaxserve.workers.worker import main
main(int(parent_id), modules)
"""


class WorkerExited(Exception):
    """The worker process did not become ready, or somebody else ended it: no task is to blame."""


class TaskKilled(Exception):
    """The task exceeded a limit or ended its process. The message names the limit."""


class WorkerProcess:
    """A process that runs one task at a time. It starts at once; the first task waits until it is ready.

    modules       imported by the process before its first task
    setup         a task, JSON text, that it runs before all others; None: there is none
    protections   those of confine.PROTECTIONS that it has, once it has run a task

    The process ends with the thread that makes this object.
    """

    def __init__(self, modules: Sequence[str], setup: bytes | None = None) -> None:
        self.protections: frozenset[str] = frozenset()
        ours, theirs = socket.socketpair()
        with theirs, ExitStack() as on_failure:
            on_failure.callback(ours.close)
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-B", "-c", PROGRAM, _path(), str(os.getpid()), *modules],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=_environment(),
                start_new_session=True,  # the terminal's Ctrl-C is for the server, which then drains
            )
            on_failure.pop_all()
        self._connection = Connection(ours.detach())
        self._setup = setup
        self._has_started = self._is_ready = False
        self._ready_lock = threading.Lock()
        self._failure: str | None = None  # why it never became ready

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether the process has not ended."""
        return self._process.poll() is None

    @property
    def has_started(self) -> bool:
        """Whether the interpreter has started and told its protections."""
        return self._has_started

    @property
    def rss_bytes(self) -> int:
        """Resident memory now; 0 when the process has ended."""
        try:
            # Not its own ru_maxrss: across vfork and exec that starts at the resident memory of the server.
            return psutil.Process(self.pid).memory_info().rss
        except psutil.Error:
            return 0

    def run(self, task: bytes, wall_s: float) -> dict[str, Any]:
        """Send a task, JSON text, and return the worker's reply.

        Raises TaskKilled if it took longer than `wall_s` or ended the process, WorkerExited if something else did.
        """
        self.prepare()
        return json.loads(self._exchange(task, wall_s))

    def prepare(self) -> None:
        """Wait until the process is ready for a task. Idempotent; several threads may call it.

        Raises WorkerExited if it does not become ready.
        """
        with self._ready_lock:
            if not self._is_ready and self._failure is None:
                self._failure = self._finish_start()
            if self._failure is not None:
                raise WorkerExited(f"it could not be prepared: {self._failure}")
            self._is_ready = True

    def _finish_start(self) -> str | None:
        """Wait for the process to be confined and set up; return why it cannot be, or None."""
        try:
            self.protections = frozenset(self._exchange(None, STARTUP_S).decode().split())
            self._has_started = True
            if self._setup is None or "value" in json.loads(self._exchange(self._setup, STARTUP_S)):
                return None
        except (TaskKilled, WorkerExited) as error:
            return str(error)
        self.kill()
        return "its setup failed"

    def kill(self) -> None:
        """Kill the process and wait for its end. Idempotent; another thread may be in `run`, which then raises."""
        self._process.kill()
        self._process.wait()  # the connection stays open: a thread that reads from it gets EOFError

    def _exchange(self, message: bytes | None, wall_s: float) -> bytes:
        """Send a message, if there is one, and receive a reply. A timer kills the process after `wall_s`."""
        decided = threading.Lock()  # taken by the reply or by the timer, whichever comes first; so it is never both

        def kill() -> None:
            if decided.acquire(blocking=False):
                self._process.kill()

        timer = threading.Timer(wall_s, kill)
        timer.daemon = True
        timer.start()
        try:
            if message is not None:
                self._connection.send_bytes(message)
            reply = self._connection.recv_bytes(MAX_REPLY_BYTES)
        except (EOFError, OSError):
            reply = None
        is_in_time = decided.acquire(blocking=False)
        timer.cancel()
        if reply is not None and is_in_time:
            return reply
        self.kill()
        raise self._exit_error() if is_in_time else TaskKilled(f"it took longer than {wall_s:g} s")

    def _exit_error(self) -> TaskKilled | WorkerExited:
        code = self._process.returncode
        if -code in SIGNALS_FROM_OUTSIDE:
            return WorkerExited(f"it was ended by {signal.Signals(-code).name}")
        if code == -signal.SIGXCPU:
            return TaskKilled("it needed too much processor time")
        return TaskKilled("it needed too much memory, or ended the process it ran in")


def _environment() -> dict[str, str]:
    """The variables that an interpreter needs to start. Keys and tokens of the server are not passed on."""
    passed = {name: os.environ[name] for name in PASSED_VARIABLES if name in os.environ}
    return passed | {"MALLOC_ARENA_MAX": "1"}


def _path() -> str:
    """Return, as JSON, where this process imports from, and jaxserve's own directory, without the current directory."""
    own = str(Path(__file__).resolve().parents[2])
    try:
        current = os.getcwd()  # `python -m` puts it on the path by its name
    except FileNotFoundError:
        current = ""
    entries = [entry for entry in sys.path if os.path.isabs(entry) and (entry == own or entry != current)]
    return json.dumps(entries if own in entries else [own, *entries])
