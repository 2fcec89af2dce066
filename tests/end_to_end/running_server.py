"""`jaxserve serve` as a separate process, started by its command line."""

import re
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

SMALL_SERVER_FLAGS = (
    "--max-model-len",
    "512",
    "--max-num-seqs",
    "4",
    "--max-num-batched-tokens",
    "64",
    "--block-size",
    "16",
)
SMALLEST_SERVER_FLAGS = ("--max-model-len", "64", "--max-num-seqs", "1", "--max-num-batched-tokens", "16")
QUICK_TO_COMPILE = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"  # slow to run
TIMEOUT_S = 300


class RunningServer:
    """A server that is ready inside the `with` block and stopped at its end.

    url       the address that it printed
    started   the lines that it printed before it was ready
    """

    def __init__(self, model: Path | str, *words: str) -> None:
        command = [sys.executable, "-m", "server", "serve", str(model), "--host", "127.0.0.1", "--port", "0", *words]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, bufsize=1)
        self.started: list[str] = []
        self.url = ""

    def __enter__(self) -> Self:
        assert self._process.stderr
        for line in self._process.stderr:
            self.started.append(line.rstrip())
            if match := re.match(r"address +(http://\S+)", line):
                self.url = match[1]
            if "Running on" in line:
                return self
        raise AssertionError(f"the server ended with {self._process.wait()}:\n" + "\n".join(self.started))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self.stop()

    @property
    def pid(self) -> int:
        """The process id of the server."""
        return self._process.pid

    def stop(self) -> tuple[int, str]:
        """Send SIGTERM and return the exit code and what was printed since the start."""
        self._process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> tuple[int, str]:
        """Wait for the end and return the exit code and what was printed since the start."""
        rest = self._process.communicate(timeout=TIMEOUT_S)[1]
        return self._process.returncode, rest
