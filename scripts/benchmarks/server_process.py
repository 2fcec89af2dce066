"""One server at a time: started in a process group of its own, watched, and ended before the next one starts."""

import asyncio
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from scripts.benchmarks.client import Failed, Server

READY_WITHIN_S = 600
END_WITHIN_S = 30
KNOCK_S = 0.05
LOOK_S = 0.5


class Watched:
    """A program and its children, in a process group of their own. What they print goes to `log`."""

    def __init__(self, command: Sequence[str], environment: dict[str, str], log: Path) -> None:
        self._log = log
        self._peak_bytes = 0
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                command,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._ended = threading.Event()
        self._watch = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        self._watch.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._watch.join()
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(END_WITHIN_S)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # whoever of the group is left
        self._process.wait()

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait(self) -> int:
        return self._process.wait()

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def last_words(self) -> str:
        """The last line that says something."""
        lines = [line.strip() for line in self._log.read_text(encoding="utf-8", errors="replace").splitlines()]
        return next((line for line in reversed(lines) if line), "it said nothing")[-300:]

    def peak_bytes(self) -> int:
        """The largest sum of resident sets, looked at twice a second and now; what two of them share counts twice."""
        self._peak_bytes = max(self._peak_bytes, _resident_bytes(self._process.pid))
        return self._peak_bytes

    def _look(self) -> None:
        self.peak_bytes()
        while not self._ended.wait(LOOK_S):
            self.peak_bytes()


def _resident_bytes(pid: int) -> int:
    try:
        root = psutil.Process(pid)
        family = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    total = 0
    for process in family:
        with suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return total


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


async def ready(watched: Watched, port: int, *, generates: bool = True) -> tuple[Server, float]:
    """Wait for a server, and return it with the seconds until a first question had a token.

    generates: its model does; else it is asked no question.

    Raises Failed if it ended, or was not ready in time.
    """
    began, url = time.perf_counter(), f"http://127.0.0.1:{port}"
    while time.perf_counter() - began < READY_WITHIN_S:
        if watched.has_ended():
            raise Failed(f"it ended before it was ready: {watched.last_words()}")
        try:
            server = await Server(url, "", None).named()
            if not generates:
                return server, time.perf_counter() - began
            line = await server.timed([{"role": "user", "content": "Hello"}], 1)
            if line.error is None:
                return server, time.perf_counter() - began
        except (OSError, Failed, ValueError, asyncio.IncompleteReadError):
            pass
        await asyncio.sleep(KNOCK_S)
    raise Failed(f"it was not ready within {READY_WITHIN_S} s: {watched.last_words()}")
