"""A server of a tiny model in a process of its own: started, asked, and looked at from outside."""

import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from scripts.benchmarks.attacks import reference_tokens
from scripts.benchmarks.server_process import Watched, free_port

READY_WITHIN_S = 300.0
IDLE_WITHIN_S = 30.0
LOOK_S = 0.02
SMALL = ("--max-model-len", "512", "--max-num-seqs", "4", "--max-num-batched-tokens", "64", "--block-size", "16")
FEW_PAGES = ("--num-gpu-blocks-override", "400")  # so few that the prefix cache is full soon, and memory flat
GAUGES = {
    "running": r'jaxserve_requests{.*state="running"}',
    "waiting": r'jaxserve_requests{.*state="waiting"}',
    "preempted": r'jaxserve_requests{.*state="preempted"}',
    "active_pages": r'jaxserve_kv_pages{.*state="active"}',
}


@dataclass(frozen=True, slots=True)
class Resources:
    """What a process holds: resident bytes, open descriptors, threads and child processes."""

    rss_bytes: int
    num_files: int
    num_threads: int
    num_children: int


class Served:
    """A server that is ready within the block of `start`.

    url       Its address.
    log       The file with all that it prints.
    process   Its process.
    """

    def __init__(self, port: int, watched: Watched, log: Path) -> None:
        self.port, self.url, self.log = port, f"http://127.0.0.1:{port}", log
        self._watched = watched
        self.process = psutil.Process(watched.pid)

    @property
    def has_ended(self) -> bool:
        """Whether the process has ended."""
        return self._watched.has_ended()

    def status(self, path: str) -> int:
        """Return the status of a GET; 0 without an answer."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=30) as reply:
                return reply.status
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def wait_ready(self) -> float:
        """Wait until /health is 200 and return the seconds that it took; raises RuntimeError if it never is."""
        started = time.monotonic()
        while time.monotonic() - started < READY_WITHIN_S:
            if self.has_ended:
                break
            if self.status("/health") == 200:
                return time.monotonic() - started
            time.sleep(LOOK_S)
        raise RuntimeError(f"the server was not ready: {self._watched.last_words()}")

    def reference(self) -> list[int]:
        """Return the tokens of a harmless request."""
        return reference_tokens(self.url)

    def metric(self, pattern: str) -> float:
        """Return the sum of the series whose names and labels match."""
        with urllib.request.urlopen(self.url + "/metrics", timeout=30) as reply:
            text = reply.read().decode()
        return sum(float(value) for value in re.findall(rf"^{pattern} (\S+)$", text, re.MULTILINE))

    def busy(self) -> dict[str, float]:
        """Return the gauges that are not zero; none: nothing runs or waits, and no page is held."""
        return {name: value for name, pattern in GAUGES.items() if (value := self.metric(pattern))}

    def wait_idle(self) -> tuple[float, dict[str, float]]:
        """Wait until nothing runs and no page is held; return the seconds, and what was left when time ran out."""
        started = time.monotonic()
        while (busy := self.busy()) and time.monotonic() - started < IDLE_WITHIN_S:
            time.sleep(LOOK_S)
        return time.monotonic() - started, busy

    def resources(self) -> Resources:
        """Return what the process holds now."""
        with self.process.oneshot():
            return Resources(
                self.process.memory_info().rss,
                self.process.num_fds(),
                self.process.num_threads(),
                len(self.process.children(recursive=True)),
            )


class Start:
    """A server's process, ready or not, which ends with the block: `with Start(model, folder, flags) as served`."""

    def __init__(
        self, model: Path | str, folder: Path, flags: Sequence[str] = SMALL, cache: Path | None = None
    ) -> None:
        self._port = free_port()
        self._log = folder / f"server-{self._port}.log"
        command = [sys.executable, "-m", "server", "serve", str(model), "--host", "127.0.0.1"]
        command += ["--port", str(self._port), *flags]
        command += ["--compilation-cache-dir", str(cache)] if cache else []
        self._watched = Watched(command, {}, self._log)

    def __enter__(self) -> Served:
        self._watched.__enter__()
        return Served(self._port, self._watched, self._log)

    def __exit__(self, *error: Any) -> None:
        self._watched.__exit__(*error)
