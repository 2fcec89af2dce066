"""What the simulation replaces in the sources: time, threads, random ids, and the loading of a model.

The table names each module that is served from and reads a clock or starts a thread; test_replacements.py finds those
that are not in it. Everything else of the server and the library is the real thing.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from random import Random
from types import SimpleNamespace
from typing import Any

from tests.simulation.virtual_threads import QueueModule, ThreadingModule, TimeModule, VirtualPool, VirtualThreads

TIME, THREADING, QUEUE, POOL, SECRETS, PROCESS = "time", "threading", "queue", "ThreadPoolExecutor", "secrets", "os"
REPLACED: dict[str, tuple[str, ...]] = {
    "jaxserve.engine.engine": (TIME,),
    "jaxserve.engine.fault_injection": (TIME,),
    "jaxserve.engine.thread": (THREADING, QUEUE),
    "jaxserve.engine_client": (TIME,),
    "jaxserve.fair_threads": (POOL,),
    "jaxserve.text.deadline": (TIME,),
    "server.lifecycle": (THREADING, PROCESS),
    "server.middleware": (TIME,),
    "server.replies": (TIME, SECRETS),
    "server.responses.store": (TIME,),
}


@contextmanager
def replaced(
    threads: VirtualThreads,
    time_module: TimeModule,
    load_engines: Callable[..., Any],
    end_process: Callable[[int], None],
) -> Iterator[None]:
    """Let the sources use virtual time and threads within the block. end_process: takes the place of os._exit."""
    rng = Random(1)

    substitutes: dict[str, Any] = {
        TIME: time_module,
        THREADING: ThreadingModule(threads),
        QUEUE: QueueModule(threads),
        POOL: lambda num_threads, name: VirtualPool(threads, num_threads),
        SECRETS: SimpleNamespace(token_hex=lambda num_bytes: rng.randbytes(num_bytes).hex()),
        PROCESS: SimpleNamespace(_exit=end_process),
    }
    places = [(module, name, substitutes[name]) for module, names in REPLACED.items() for name in names]
    places.append(("jaxserve.engine_client", "load_engines", load_engines))
    before = [(import_module(module), name, getattr(import_module(module), name)) for module, name, _ in places]
    try:
        for module, name, substitute in places:
            setattr(import_module(module), name, substitute)
        yield
    finally:
        for module, name, original in before:
            setattr(module, name, original)
