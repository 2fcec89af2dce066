"""The output of a start: phases with their seconds, and at the end a table of what is served and a command to try.

On a terminal each phase has a progress bar; elsewhere each phase is one line, printed when it is finished.
"""

import json
import shlex
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from jaxserve import EngineConfig
from server.config import ServerConfig
from server.listen import ALL_INTERFACES

MIN_TOTAL_BYTES = 1 << 20  # a total this large is in bytes; smaller ones are numbers of items
MIN_TOTAL_GB = 10**9  # a total this large is written in GB
# Of 118 questions that were tried on the default model, this is among those whose right answer has the largest margin:
# its best token leads the next by 0.97 nats or more at every step ("capital of France": by 0.08).
FIRST_QUESTION = "What is the capital of Japan?"
BETTER_MODEL, BETTER_BYTES = "Qwen/Qwen2.5-1.5B-Instruct", 3_087_467_144
KEY_LINE = "export JAXSERVE_API_KEY='your key'"
FILE_WIDTH = 140  # columns, when the output is not a terminal


def make_console() -> Console:
    """Make a console on standard error, so that standard output can be piped."""
    plain = Console(stderr=True, highlight=False)
    return plain if plain.is_terminal else Console(stderr=True, highlight=False, width=FILE_WIDTH)


@dataclass(slots=True)
class _RunningPhase:
    """A phase that has begun and is not finished. total: 0 if it is not known."""

    started_s: float
    task: TaskID | None
    amount: str = ""
    total: float = 0
    done: float = 0

    @property
    def seconds(self) -> str:
        return f"{time.perf_counter() - self.started_s:.1f} s"


class StartupProgress:
    """A context that shows the progress of a start; `report` is given to whatever reports progress.

    A phase is named by the first word reported ("compile"), the rest is detail ("8 cached"). Several may be running at
    a time. One with a total is finished when that is reached, one without when another begins; at the end of the
    context all are.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started_s = time.perf_counter()
        self._lock = threading.Lock()
        self._running: dict[str, _RunningPhase] = {}
        self._finished: dict[str, float] = {}
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description:<9}"),
            BarColumn(bar_width=28),
            TextColumn("{task.fields[amount]}"),
            TextColumn("[dim]{task.fields[seconds]}"),
            console=console,
        )

    @property
    def seconds(self) -> float:
        """Seconds since this object was made."""
        return time.perf_counter() - self._started_s

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            for name in list(self._running):
                self._end(name)
        if self._console.is_terminal:
            self._progress.stop()

    def report(self, phase: str, done: float, total: float) -> None:
        """Report that `done` of `total` is finished, in bytes or items; total 0: not known. Any thread may call it."""
        name, _, detail = phase.partition(" ")
        with self._lock:
            if name not in self._running:
                if 0 < total <= done and self._finished.get(name) == total:
                    return  # told once more: who watches a download goes on until its process has ended
                self._start(name)
            running = self._running[name]
            running.done, running.total = done, total
            parts = (
                format_amount(done, total),
                format_rate(done, total, time.perf_counter() - running.started_s),
                detail,
            )
            running.amount = "  ".join(filter(None, parts))
            if running.task is not None:
                self._progress.update(
                    running.task, completed=done, total=total or None, amount=running.amount, seconds=running.seconds
                )
            if 0 < total <= done:
                self._end(name)

    def _start(self, name: str) -> None:
        for other in [other for other, running in self._running.items() if not running.total]:
            self._end(other)
        task = None
        if self._console.is_terminal:
            task = self._progress.add_task(name, total=None, amount="", seconds="")
        self._running[name] = _RunningPhase(time.perf_counter(), task)

    def _end(self, name: str) -> None:
        running = self._running.pop(name)
        self._finished[name] = running.total
        if running.task is not None:
            total = running.total or 1
            self._progress.update(
                running.task, completed=total, total=total, amount=running.amount, seconds=running.seconds
            )
        else:
            self._console.print(f"{name:<9} {running.seconds:>8}  {running.amount}".rstrip())


def format_amount(done: float, total: float) -> str:
    """Write progress as '12.0 of 138.4 MB', '1.25 of 16.06 GB' or '3/14'; empty if there is no total or it is 1."""
    if total >= MIN_TOTAL_BYTES:
        scale, text = (1e9, "{:.2f}") if total >= MIN_TOTAL_GB else (1e6, "{:.1f}")
        total_text = f"{text.format(total / scale)} {'GB' if total >= MIN_TOTAL_GB else 'MB'}"
        return total_text if done >= total else f"{text.format(done / scale)} of {total_text}"
    return f"{done:.0f}/{total:.0f}" if total > 1 else ""


def format_rate(done: float, total: float, seconds: float) -> str:
    """Write speed as '135 MB/s' or '1.35 GB/s'; empty if no bytes are counted or less than 50 ms have passed."""
    if total < MIN_TOTAL_BYTES or seconds < 0.05:
        return ""
    rate = done / seconds
    return f"{rate / 1e9:.2f} GB/s" if rate >= 1e9 else f"{rate / 1e6:.0f} MB/s"


def format_address(config: ServerConfig) -> str:
    """Make the URL of the server for this machine. It has localhost only if IPv4 and IPv6 are both bound."""
    if config.uds:
        return "http://localhost"
    host = {"0.0.0.0": "127.0.0.1", **dict.fromkeys(ALL_INTERFACES, "localhost")}.get(config.host, config.host)
    host = f"[{host}]" if ":" in host else host
    return f"{'https' if config.ssl_certfile else 'http'}://{host}:{config.port}{config.root_path}"


def describe_reach(config: ServerConfig, addresses: Sequence[str]) -> str:
    """Describe who can connect, and whether a key is needed. addresses: those that are bound."""
    if config.uds:
        return f"this machine only, through the socket {config.uds}"
    if all(ip_address(host.partition("%")[0]).is_loopback for host in addresses):
        return "this machine only (--host 0.0.0.0 listens on every network interface)"
    families = {"0.0.0.0": " (IPv4 only; --host :: adds IPv6)", "::": " (IPv4 and IPv6)"}
    places = [f"every network interface{families[host]}" if host in families else host for host in addresses]
    if config.api_key:
        return f"{', '.join(places)}; a key is needed"
    return (
        f"{', '.join(places)}; WARNING: without a key. Whoever reaches port {config.port} can use this server: "
        "set --api-key, or listen on --host 127.0.0.1"
    )


def make_ready_table(description: Mapping[str, str], address: str, reach: str, seconds: float) -> Table:
    """Make the table of what is served, at which address, and who can reach it. seconds: duration of the start."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0), title_justify="left", title_style="bold green")
    table.title = f"Ready in {seconds:.1f} s"
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in description.items():
        table.add_row(name.replace("_", " "), Text(value.replace(str(Path.home()), "~")))
    if description.get("model") == EngineConfig().model:
        table.add_row("better answers", f"jaxserve serve {BETTER_MODEL} ({BETTER_BYTES / 1e9:.1f} GB to fetch)")
    table.add_row("address", Text(f"{address}  (chat page)   {address}/v1  (OpenAI API)"))
    table.add_row("reachable from", Text(reach, style="bold yellow" if "WARNING" in reach else ""))
    return table


def make_curl_command(address: str, has_key: bool, uds: str | None = None) -> str:
    """Make a shell command that asks this server a question.

    has_key: the command reads the key from JAXSERVE_API_KEY, which KEY_LINE sets; the key itself is not printed.
    uds: the Unix socket that is bound instead of a port.
    """
    question = {"role": "user", "content": FIRST_QUESTION}
    body = json.dumps({"messages": [question], "temperature": 0, "max_tokens": 100})
    key = ' -H "Authorization: Bearer $JAXSERVE_API_KEY"' if has_key else ""
    socket = f"--unix-socket {shlex.quote(uds)} " if uds else ""
    return f"curl {socket}{address}/v1/chat/completions -H 'Content-Type: application/json'{key} -d '{body}'"
