"""Lowers and compiles every shape before the doors open, in parallel, with JAX's persistent cache.

A compiled shape refuses any other, so a surprise compile cannot pass quietly.
"""

import os
import threading
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import jax

from jaxserve.config import cache_dir

Progress = Callable[[str, float, float], None]
Program = Any  # jax.stages.Compiled


def use_compilation_cache(setting: str | None) -> Path | None:
    """Switches JAX's persistent cache on, also for quick compiles; "none" leaves it off. Returns the directory.

    The directory is ours alone (0700): a cached program is as trusted as the code itself.
    """
    if setting == "none":
        return None
    directory = Path(setting) if setting else cache_dir("programs")
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return directory


class CompileCounter:
    """Counts compiles and cache hits of this process, by JAX's own events. One for the life of the process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.compiled = 0
        self.cache_hits = 0
        self.seconds = 0.0
        jax.monitoring.register_event_listener(self._on_event)
        jax.monitoring.register_event_duration_secs_listener(self._on_duration)

    def _on_event(self, event: str, **_: Any) -> None:
        if event == "/jax/compilation_cache/cache_hits":
            with self._lock:
                self.cache_hits += 1

    def _on_duration(self, event: str, duration_secs: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            with self._lock:
                self.compiled += 1
                self.seconds += duration_secs


def compile_all(lowerings: Mapping[Hashable, Callable[[], Any]], progress: Progress | None) -> dict[Hashable, Program]:
    """Runs every lowering and compiles it; the slowest kinds should come first. Keys are kept."""
    programs: dict[Hashable, Program] = {}
    with ThreadPoolExecutor(max_workers=max(1, min(8, os.cpu_count() or 1))) as pool:
        jobs = {pool.submit(lambda lower=lower: lower().compile()): key for key, lower in lowerings.items()}
        for done, job in enumerate(as_completed(jobs), start=1):
            programs[jobs[job]] = job.result()
            if progress:
                progress("compile", done, len(jobs))
    return programs
