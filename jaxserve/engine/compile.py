"""Finds or compiles every shape before the doors open, in parallel.

The store is asked by key, which needs no tracing, then by what the function was lowered to, then the compiler. A
compiled shape refuses any other, so a surprise compile cannot pass quietly.
"""

import logging
import os
import platform
import threading
import time
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from hashlib import sha256
from pathlib import Path
from typing import Any

import jax

from jaxserve.config import cache_dir
from jaxserve.engine.programs import Program, ProgramStore
from jaxserve.errors import BadConfig

log = logging.getLogger(__name__)

ProgressCallback = Callable[[str, float, float], None]


def use_compilation_cache(setting: str | None) -> Path | None:
    """The directory in which this machine's programs are kept, made if need be; "none" is no directory.

    JAX's own cache stays as it is: what it hands out could not be kept in our store.

    A cached program is as trusted as the code itself, so a directory that others may write is refused (BadConfig).
    One that cannot be made costs a warning and the cache.
    """
    if setting == "none":
        return None
    directory = (Path(setting) if setting else cache_dir("programs")) / machine_key()
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        log.warning("compiled programs cannot be kept in %s: %s", directory, error)
        return None
    if os.name == "posix" and directory.stat().st_mode & 0o022:
        raise BadConfig(f"compilation_cache_dir: others may write {directory}; run chmod 700 on it, or name another.")
    return directory


def machine_key() -> str:
    """What compiled programs depend on beside JAX's own key: this kind of processor, and the versions.

    A program for another processor may hold instructions that this one lacks.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        facts = sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))})
    except OSError:
        facts = [platform.processor()]
    kind = sha256("\n".join([platform.machine(), *facts]).encode()).hexdigest()[:12]
    return f"jax-{jax.__version__}-{jax.default_backend()}-{kind}"


class CompileCounter:
    """Counts compiles and cache hits of this process, by JAX's own events and what the store found.

    One for the life of the process.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread_local = threading.local()
        self.compiled = 0
        self.cache_hits = 0
        self.seconds = 0.0
        jax.monitoring.register_event_listener(self._on_event)
        jax.monitoring.register_event_duration_secs_listener(self._on_duration)

    def counters(self) -> dict[str, float]:
        """Programs that were really compiled, seconds spent on it (reading cached ones included), and cache hits."""
        with self._lock:
            return {
                "compilations": self.compiled - self.cache_hits,
                "compilation_seconds": self.seconds,
                "compilation_cache_hits": self.cache_hits,
            }

    def on_store_hit(self, seconds: float) -> None:
        """A program came from our own store, and reading it took so long."""
        with self._lock:
            self.compiled += 1
            self.cache_hits += 1
            self.seconds += seconds

    def _on_event(self, event: str, **_: Any) -> None:
        if event == "/jax/compilation_cache/cache_hits":
            self._thread_local.hits = self.hits_of_this_thread + 1
            with self._lock:
                self.cache_hits += 1

    @property
    def hits_of_this_thread(self) -> int:
        """Programs that JAX's own cache gave to this thread."""
        return getattr(self._thread_local, "hits", 0)

    def _on_duration(self, event: str, duration_secs: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            with self._lock:
                self.compiled += 1
                self.seconds += duration_secs


compile_counter = CompileCounter()


def compile_all(
    lowerings: Mapping[Hashable, Callable[[], Any]], store: ProgramStore, progress: ProgressCallback | None
) -> dict[Hashable, Program]:
    """Finds every program, or runs its lowering, compiles and keeps it; the slowest kinds should come first.

    Keys are kept.
    """
    hits_before = compile_counter.cache_hits

    def program(key: Hashable) -> Program:
        began = time.perf_counter()
        found = store.load(key)
        if found is None:
            lowered = lowerings[key]()
            began = time.perf_counter()
            found = store.load_lowered(key, lowered)
        if found is not None:
            compile_counter.on_store_hit(time.perf_counter() - began)
            return found
        hits = compile_counter.hits_of_this_thread
        compiled = lowered.compile()
        if hits == compile_counter.hits_of_this_thread:
            store.save(key, lowered, compiled)
        return compiled

    programs: dict[Hashable, Program] = {}
    with ThreadPoolExecutor(max_workers=max(1, min(8, os.cpu_count() or 1))) as pool:
        jobs = {pool.submit(program, key): key for key in lowerings}
        for done, job in enumerate(as_completed(jobs), start=1):
            programs[jobs[job]] = job.result()
            if progress:
                progress(f"compile {compile_counter.cache_hits - hits_before} cached", done, len(jobs))
    if compile_counter.cache_hits - hits_before < len(jobs):
        store.delete_expired()
    return programs
