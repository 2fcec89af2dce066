"""A small pool of worker processes. Everything here blocks: call it from threads that may wait."""

import json
import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from jaxserve.errors import EngineStopped, GenerationFailed, InvalidParameter, Overloaded
from jaxserve.faults import Faults
from jaxserve.workers.confine import PROTECTIONS
from jaxserve.workers.process import STARTUP_S, TaskKilled, WorkerExited, WorkerProcess
from jaxserve.workers.worker import MAX_MEMORY_BYTES

log = logging.getLogger(__name__)

MIB = 1 << 20
BROKEN_AFTER_S = 60.0  # of failed starts, in which a lack of memory or descriptors may pass


@dataclass(frozen=True, slots=True)
class TaskLimits:
    """Limits of one task.

    wall_s         wall-clock seconds until the worker is killed; it may use one more second of processor time
    memory_bytes   address space of the worker while it runs the task. A worker whose resident memory is above half of
                   this afterwards is replaced.
    """

    wall_s: float
    memory_bytes: int = 512 * MIB


SETUP_LIMITS = TaskLimits(STARTUP_S, MAX_MEMORY_BYTES)


class TaskFailed(Exception):
    """The task's function raised an exception that is no RequestError. The message names it."""


class WorkerPool:
    """Up to `num_workers` worker processes, started when first needed and replaced when a task breaks them.

    modules        imported by each worker before its first task, so that no task's time is spent on it
    setup          a function, "module:name", and its argument, JSON: each worker calls it once, keeps the result and
                   passes it to every task as the first argument
    num_restarts   workers that were killed or exited during a task, and were replaced
    """

    def __init__(
        self,
        modules: tuple[str, ...] = (),
        num_workers: int = 2,
        faults: Faults | None = None,
        setup: tuple[str, Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.num_restarts = 0
        self._setup = None if setup is None else _to_message(*setup, SETUP_LIMITS, is_setup=True)
        self._faults = faults
        self._modules = modules
        self._lock = threading.Lock()
        self._alive: set[WorkerProcess] = set()
        self._is_closed = False
        self._starter = ThreadPoolExecutor(1, "jaxserve-workers")  # workers end with the thread that starts them
        self._has_told_protections = False
        self._clock, self._is_broken = clock, False
        self._failing_since_s: float | None = None  # when workers could not be started any more
        # None: a worker that has not been started yet. Last in, first out: few tasks start few workers.
        self._idle: queue.LifoQueue[WorkerProcess | None] = queue.LifoQueue()
        for _ in range(num_workers):
            self._idle.put(None)

    def run(self, function: str, data: Any, limits: TaskLimits) -> Any:
        """Run a function in a worker and return its result. Waits until a worker is idle.

        function   "module:name"; called with what the setup returned, if there is one, and `data`. `data` and the
                   result are JSON.

        Raises TaskKilled if the task exceeded its limits, InvalidParameter if the function raised a RequestError,
        TaskFailed if it raised anything else, GenerationFailed if the worker was lost by no fault of the task,
        Overloaded if no worker can be started, and EngineStopped after `close`.
        """
        message = _to_message(function, data, limits)
        worker = self._idle.get()
        try:
            worker = worker or self._start()
            if not _is_ready(worker):  # it ended before the task has begun: another one may not
                worker = self._replace(worker) or self._start()
            if self._faults is not None and self._faults.hit("helper_kill") is not None:
                worker.kill()
            reply = worker.run(message, limits.wall_s)
            self._failing_since_s, self._is_broken = None, False
            self._tell_missing_protections(worker)
            if worker.rss_bytes > limits.memory_bytes // 2:
                with suppress(Overloaded):  # the reply is there; the next task tries again
                    worker = self._replace(worker)
        except (TaskKilled, WorkerExited) as error:
            if worker is not None and not worker.has_started:
                self._count_failed_start(error)
            worker = self._replace(worker)
            with self._lock:
                if self._is_closed:
                    raise EngineStopped("The worker processes were closed.") from None
                self.num_restarts += 1
            if isinstance(error, TaskKilled):
                raise
            log.warning("a worker process was lost: %s", error)
            raise GenerationFailed(f"The worker process was lost: {error}.") from None
        finally:
            self._idle.put(worker)
        return _unpack(function, reply)

    @property
    def is_broken(self) -> bool:
        """Whether workers could not be started again and again, for at least BROKEN_AFTER_S."""
        return self._is_broken

    def close(self) -> None:
        """Kill all workers, whatever they are running. Idempotent."""
        with self._lock:
            self._is_closed = True
            workers, self._alive = self._alive, set()
        for worker in workers:
            worker.kill()
        self._starter.shutdown()

    def _tell_missing_protections(self, worker: WorkerProcess) -> None:
        if self._has_told_protections:
            return
        self._has_told_protections = True
        missing = [name for name in PROTECTIONS if name not in worker.protections]
        if missing:
            log.info("this system gives worker processes no %s", ", ".join(missing))

    def _start(self) -> WorkerProcess:
        with self._lock:
            if self._is_closed:
                raise EngineStopped("The worker processes are closed.")
            try:
                worker = self._starter.submit(WorkerProcess, self._modules, self._setup).result()
            except OSError as error:  # no memory, descriptors or processes are left
                self._count_failed_start(error)
                raise Overloaded("No worker process can be started at the moment; please try again later.") from None
            self._alive.add(worker)
        return worker

    def _count_failed_start(self, error: Exception) -> None:
        log.warning("a worker process cannot be started: %s", error)
        now = self._clock()
        self._failing_since_s = now if self._failing_since_s is None else self._failing_since_s
        self._is_broken = now - self._failing_since_s >= BROKEN_AFTER_S

    def _replace(self, worker: WorkerProcess | None) -> WorkerProcess | None:
        """Kill a worker and start another, so that no later task waits for the start; None after `close`."""
        if worker is not None:
            worker.kill()
        with self._lock:
            if worker is not None:
                self._alive.discard(worker)
            if self._is_closed:
                return None
        started = self._start()
        try:
            self._starter.submit(started.prepare)
        except RuntimeError:  # closed meanwhile
            return None
        return started


def _is_ready(worker: WorkerProcess) -> bool:
    """Wait until a worker is ready for a task; return False if it has ended."""
    try:
        worker.prepare()
    except WorkerExited:
        return False
    return worker.is_alive


def _to_message(function: str, data: Any, limits: TaskLimits, *, is_setup: bool = False) -> bytes:
    task = {"function": function, "data": data, "cpu_s": limits.wall_s + 1, "memory_bytes": limits.memory_bytes}
    return json.dumps(task | {"is_setup": is_setup}).encode()


def _unpack(function: str, reply: dict[str, Any]) -> Any:
    """Return the value in a worker's reply, or raise the error in it."""
    if "refused" in reply:
        message, param = reply["refused"]
        raise InvalidParameter(message, param)
    if "failed" in reply:
        raise TaskFailed(f"{function} raised {reply['failed']} in its worker process.")
    return reply["value"]
