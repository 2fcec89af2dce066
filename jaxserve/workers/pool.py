"""A few helpers, and who uses which. Everything here blocks: call it from threads that may wait."""

import json
import queue
import threading
from dataclasses import dataclass
from typing import Any

from jaxserve.errors import EngineStopped, GenerationFailed, InvalidParameter
from jaxserve.workers.process import WorkerExited, WorkerProcess

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class TaskLimits:
    """What one task may use. A helper that still holds more than half of memory_bytes afterwards is not used again."""

    wall_s: float
    memory_bytes: int = 512 * MIB


class TaskKilled(Exception):
    """The task used more than it may, and its helper was killed. The text says what of."""


class WorkerPool:
    """`size` places for helpers, which are started when first needed and replaced when a task breaks them.

    modules    imported by each helper before its first task, so that no task's time is spent on it
    restarts   helpers that were killed, or broke, and were replaced
    """

    def __init__(self, modules: tuple[str, ...] = (), num_workers: int = 2) -> None:
        self.size = num_workers
        self.num_restarts = 0
        self._modules = modules
        self._lock = threading.Lock()
        self._alive: set[WorkerProcess] = set()
        self._is_closed = False
        self._places: queue.LifoQueue[WorkerProcess | None] = queue.LifoQueue()  # None: nobody was needed here yet
        for _ in range(num_workers):
            self._places.put(None)

    def run(self, call: str, data: Any, limits: TaskLimits) -> Any:
        """What `call` ("module:function") returns for `data`, both of them JSON. Waits until a helper is free.

        Raises TaskKilled, InvalidParameter when the function raised a RequestError, GenerationFailed when it raised
        anything else, and EngineStopped after `close`.
        """
        task = {"call": call, "data": data, "cpu_s": limits.wall_s + 1, "memory_bytes": limits.memory_bytes}
        message = json.dumps(task).encode()
        helper = self._places.get()
        try:
            if helper is not None and not helper.is_alive:  # the system ended it while it had nothing to do
                helper = self._exchange(helper)
            helper = helper or self._start()
            answer = helper.run(message, limits.wall_s)
            if helper.rss_bytes > limits.memory_bytes // 2:
                helper = self._exchange(helper)
        except WorkerExited as ended:
            helper = self._exchange(helper)
            with self._lock:
                if self._is_closed:
                    raise EngineStopped("The helper processes were closed.") from None
                self.num_restarts += 1
            raise TaskKilled(str(ended)) from None
        finally:
            self._places.put(helper)
        return _value(call, answer)

    def close(self) -> None:
        """Kills all helpers, and whatever they do. Idempotent."""
        with self._lock:
            self._is_closed = True
            helpers, self._alive = self._alive, set()
        for helper in helpers:
            helper.kill()

    def _start(self) -> WorkerProcess:
        with self._lock:
            if self._is_closed:
                raise EngineStopped("The helper processes are closed.")
            helper = WorkerProcess(self._modules)
            self._alive.add(helper)
        return helper

    def _exchange(self, helper: WorkerProcess | None) -> WorkerProcess | None:
        """A fresh helper for a spent one, which starts while nobody waits for it; none when all is over."""
        if helper is not None:
            helper.kill()
        with self._lock:
            if helper is not None:
                self._alive.discard(helper)
            if self._is_closed:
                return None
        return self._start()


def _value(call: str, answer: dict[str, Any]) -> Any:
    if "refused" in answer:
        message, param = answer["refused"]
        raise InvalidParameter(message, param)
    if "failed" in answer:
        raise GenerationFailed(f"{call} raised {answer['failed']} in its helper.")
    return answer["value"]
