"""Loads or compiles all programs at start-up, in parallel.

A program is looked up in the store by its key, which needs no tracing, then by what its function lowers to, and is
compiled if the store has neither. A compiled program refuses arguments of other shapes, so nothing can be compiled
unnoticed afterwards.
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
from jaxserve.private_files import OTHERS_MAY_WRITE, NotPrivate, make_private_directory
from jaxserve.processor import read_processor

log = logging.getLogger(__name__)

ProgressCallback = Callable[[str, float, float], None]  # phase, done, total


def use_compilation_cache(setting: str | None) -> Path | None:
    """Return the directory of this machine's compiled programs, and create it; None if the setting is "none".

    A directory that cannot be created, or a default one below a directory of others, is logged as a warning and there
    is no cache. JAX's own compilation cache is left as it is: programs that come from it could not be saved in the
    store.

    Raises BadConfig if others can change a directory that `setting` names, or may write to the default one: a cached
    program is trusted like the code itself.
    """
    if setting == "none":
        return None
    directory = (Path(setting) if setting else cache_dir("programs")) / machine_key()
    try:
        return make_private_directory(directory)
    except NotPrivate as error:
        if setting or directory.stat().st_mode & OTHERS_MAY_WRITE:
            raise BadConfig(f"compilation_cache_dir: {error}") from None
        log.warning("compiled programs are not kept: %s", error)
    except OSError as error:
        log.warning("compiled programs cannot be kept in %s: %s", directory, error)
    return None


def machine_key() -> str:
    """Return a directory name for this kind of processor and these versions of JAX and its backend.

    A program for another processor may hold instructions that this one lacks.
    """
    kind = sha256("\n".join([platform.machine(), *read_processor()]).encode()).hexdigest()[:12]
    return f"jax-{jax.__version__}-{jax.default_backend()}-{kind}"


class CompileCounter:
    """A counter of compilations and cache hits in this process, from JAX's events and the program store.

    compiled     The programs that were compiled or came from a cache.
    cache_hits   The programs that came from JAX's cache or the store.
    seconds      The seconds spent on both.

    There is one instance for the process, compile_counter, because JAX's listeners cannot be removed.
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
        """Return compilations without cache hits, their seconds (reading cached programs included), and cache hits."""
        with self._lock:
            return {
                "compilations": self.compiled - self.cache_hits,
                "compilation_seconds": self.seconds,
                "compilation_cache_hits": self.cache_hits,
            }

    def on_store_hit(self, seconds: float) -> None:
        """Count a program that came from the store, which took this many seconds."""
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
        """The number of programs that came from JAX's cache in this thread."""
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
    """Load every program from the store, or lower, compile and save it; return the programs by the keys of `lowerings`.

    lowerings   For each key a function that lowers the program; those that compile slowest should come first.
    store       The programs of earlier starts.
    progress    Called after every program, with the number of programs so far and of all.
    """
    hits_before = compile_counter.cache_hits

    def load_or_compile(key: Hashable) -> Program:
        started = time.perf_counter()
        loaded = store.load(key)
        if loaded is None:
            with store.placement.as_default():
                lowered = lowerings[key]()
            started = time.perf_counter()
            loaded = store.load_lowered(key, lowered)
        if loaded is not None:
            compile_counter.on_store_hit(time.perf_counter() - started)
            return loaded
        hits = compile_counter.hits_of_this_thread
        compiled = lowered.compile(compiler_options=store.compiler_options)
        if hits == compile_counter.hits_of_this_thread:
            store.save(key, lowered, compiled)
        return compiled

    programs: dict[Hashable, Program] = {}
    with ThreadPoolExecutor(max_workers=max(1, min(8, os.cpu_count() or 1))) as pool:
        jobs = {pool.submit(load_or_compile, key): key for key in lowerings}
        for done, job in enumerate(as_completed(jobs), start=1):
            programs[jobs[job]] = job.result()
            if progress:
                progress(f"compile {compile_counter.cache_hits - hits_before} cached", done, len(jobs))
    if compile_counter.cache_hits - hits_before < len(jobs):
        store.delete_excess()
    return programs
