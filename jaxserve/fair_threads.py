"""Threads that work for callers in turn, so that nobody's many tasks delay another's one."""

import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from jaxserve.errors import Overloaded

MAX_WAITING_PER_CALLER = 256
T = TypeVar("T")
Task = tuple["Future[Any]", Callable[[], Any]]


class FairThreads:
    """A pool of threads. Of the callers whose tasks wait, each gets the next thread in turn; its own tasks keep order.

    num_threads   The number of threads.
    name          The beginning of their names.
    """

    def __init__(self, num_threads: int, name: str) -> None:
        self._threads = ThreadPoolExecutor(num_threads, name)
        self._lock = threading.Lock()
        self._waiting: OrderedDict[str, deque[Task]] = OrderedDict()  # the caller whose turn it is first

    def submit(self, function: Callable[[], T], caller: str = "") -> "Future[T]":
        """Queue a task. Cancelling its future before it begins drops it.

        Raises Overloaded if MAX_WAITING_PER_CALLER tasks of the caller wait, RuntimeError after `shutdown`.
        """
        future: Future[T] = Future()
        with self._lock:
            tasks = self._waiting.setdefault(caller, deque())
            if len(tasks) >= MAX_WAITING_PER_CALLER:  # those that were cancelled wait no longer
                tasks = self._waiting[caller] = deque(task for task in tasks if not task[0].cancelled())
            if len(tasks) >= MAX_WAITING_PER_CALLER:
                raise Overloaded(f"{len(tasks)} of your requests wait to be read; please try again later.")
            tasks.append((future, function))
        self._threads.submit(self._run_next)
        return future

    def shutdown(self) -> None:
        """End the threads after the tasks that they are at; the others are cancelled."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            waiting, self._waiting = self._waiting, OrderedDict()
        for tasks in waiting.values():
            for future, _ in tasks:
                future.cancel()

    def _run_next(self) -> None:
        with self._lock:
            if not self._waiting:  # shut down
                return
            caller, tasks = self._waiting.popitem(last=False)
            future, function = tasks.popleft()
            if tasks:
                self._waiting[caller] = tasks
        if not future.set_running_or_notify_cancel():
            return
        try:
            result = function()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)
