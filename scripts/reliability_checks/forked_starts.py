"""Starts of `jaxserve serve` up to the compilation of programs, in processes forked from one that has imported all.

An import costs 2.7 s of CPU, a start after it 0.1 s. As a program it reads the path of a model from each line of its
standard input, and answers with a line of JSON: the fields of StartResult.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from server import cli

REPO = Path(__file__).parents[2]
FLAGS = ("--host", "127.0.0.1", "--port", "0", "--no-roofline", "--compilation-cache-dir", "none")
FLAGS += ("--template-timeout-s", "2")  # for a template that never ends
SIZES = ("--max-model-len", "64", "--max-num-seqs", "2", "--max-num-batched-tokens", "32", "--block-size", "16")
WOULD_START = 0  # only the compilation of programs is left
CPU_LIMIT_S, LIMIT_S = 30, 120
LOOK_S = 0.002


@dataclass(frozen=True, slots=True)
class StartResult:
    """How a start ended.

    code        exit code of the process; WOULD_START: nothing was wrong; negative: the signal that ended it
    output      all that it printed
    cpu_s       CPU seconds of the process and its children
    rss_bytes   the largest resident set of the process or of one of its children
    """

    code: int
    output: str
    cpu_s: float
    rss_bytes: int

    @property
    def sentence(self) -> str:
        """The last line that was printed, without the program's name; "" if it is not an error of ours."""
        line = self.output.strip().rpartition("\n")[2]
        return line.removeprefix("jaxserve: ") if line.startswith("jaxserve: ") else ""


class ForkedStarts:
    """The process that has imported all, within a block: `with ForkedStarts(folder) as starts`."""

    def __init__(self, folder: Path) -> None:
        """folder: where it may write a file."""
        self._command = [sys.executable, "-m", __spec__.name, str(folder / "start.log")]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command, cwd=REPO, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.communicate()

    def start(self, model: Path) -> StartResult:
        """Start with a model, and return how it ended. Raises EOFError if the process that forks has ended."""
        assert self._process.stdin is not None and self._process.stdout is not None
        print(model, file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise EOFError("the process that has imported all has ended")
        return StartResult(**json.loads(line))


def start_really(model: Path) -> tuple[int, str]:
    """Start in a process of its own from the beginning, which must fail; return the exit code and the last line."""
    command = [sys.executable, "-m", "server", "serve", str(model), *FLAGS, *SIZES]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    return done.returncode, done.stderr.strip().rpartition("\n")[2]


class WouldStart(BaseException):
    """The model is read; only the compilation of programs is left."""


def _serve(model: str) -> int:
    """Run `jaxserve serve` without programs, and return the exit code."""
    from jaxserve.engine import build as build_module
    from jaxserve.engine.opened_model import OpenedModel
    from jaxserve.weights.load import load_params

    def load(model: OpenedModel, *_: object) -> None:
        load_params(model.checkpoint, model.leaves, model.shapes)
        raise WouldStart

    build_module._executor = lambda *_: None  # type: ignore[assignment]
    build_module._load = load  # type: ignore[assignment]
    try:
        return cli.main(["serve", model, *FLAGS, *SIZES])
    except WouldStart:
        return WOULD_START


def _run_child(model: str, log: Path) -> None:
    os.setsid()  # its workers are ended with it
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_LIMIT_S, CPU_LIMIT_S))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for standard in (1, 2):
        os.dup2(file, standard)
    code = 1
    try:
        code = _serve(model)
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _wait(pid: int) -> tuple[int, resource.struct_rusage]:
    """Wait for a process, at most LIMIT_S; whatever its group has left is ended."""
    started, ended = time.monotonic(), 0
    while not ended:
        ended, status, usage = os.wait4(pid, os.WNOHANG)
        if not ended and time.monotonic() - started > LIMIT_S:
            os.killpg(pid, signal.SIGKILL)
        time.sleep(0 if ended else LOOK_S)
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(status), usage


def main(log: Path) -> None:
    """Import all, then start with each model whose path is read. No thread and no device of JAX may exist before."""
    import server.lifecycle
    import server.startup_checks
    from jaxserve import AsyncLLM

    assert AsyncLLM and server.lifecycle and server.startup_checks
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _run_child(line.rstrip("\n"), log)
        code, usage = _wait(pid)
        output = log.read_text(errors="replace") if log.exists() else ""
        result = StartResult(code, output, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)
        print(json.dumps(asdict(result)), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
