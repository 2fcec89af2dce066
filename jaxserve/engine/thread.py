"""The thread that runs the engine: a queue of commands in, one callback with outputs a step out.

Commands and outputs are immutable plain values, so that nothing is shared between threads.
"""

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any

from jaxserve.engine.engine import Engine
from jaxserve.engine.request import Request
from jaxserve.engine.stats import RequestGroup
from jaxserve.errors import EngineStopped
from jaxserve.outputs import FinishReason, TokenOutput

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AddRequests:
    """Queue choices of one client request, together. Further ones may follow, up to num_choices."""

    requests: tuple[Request, ...]
    num_choices: int


@dataclass(frozen=True, slots=True)
class FinishRequests:
    """End requests: their client is gone, or a stop string has ended their text.

    If the first choice of a client request is aborted, even one that has ended, no further ones follow.
    """

    request_ids: tuple[int, ...]
    reason: FinishReason = FinishReason.ABORT


@dataclass(frozen=True, slots=True)
class _Stop:
    pass


class Order(StrEnum):
    """An order that an engine follows between two steps, with the type of its answer.

    It is followed even if its answer has been cancelled, except INSPECT, whose answer is all that it is for.
    """

    INSPECT = "inspect"  # an InspectedEngine; one for all who ask between the same two steps
    PAUSE = "pause"  # None; no step is planned until RESUME
    RESUME = "resume"  # None
    RESET_PREFIX_CACHE = "reset_prefix_cache"  # whether it is empty now: not while requests run
    RECOMPUTE_ALL = "recompute_all"  # True: the prefix cache is empty, and running requests are computed again


@dataclass(frozen=True, slots=True)
class Ask:
    """An order, and where its answer goes."""

    order: Order
    answer: "Future[Any]"


Command = AddRequests | FinishRequests | Ask | _Stop


class EngineThread:
    """A thread that runs an engine until it is stopped.

    engine      The engine, which nothing else may use afterwards except for its stats.
    on_output   Called on the thread with the outputs of each step. It must not block.
    error       The exception that has ended the engine; else None.

    When the engine raises, which recovers from most failed steps itself, every live request ends with an error, `error`
    is set and the thread ends.
    """

    def __init__(self, engine: Engine, on_output: Callable[[list[TokenOutput]], None]) -> None:
        self.engine = engine
        self.error: Exception | None = None
        self._on_output = on_output
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._stopping = False
        self._has_ended = False  # nothing is processed any more but by `_fail_remaining`
        # By the id of the first choice, with the number of choices to come.
        self._groups: dict[int, tuple[RequestGroup, int]] = {}
        self._inspections: list[Future[Any]] = []  # the answers that the next inspection is for
        self._thread = threading.Thread(target=self._run, name="jaxserve-engine", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def submit(self, command: Command) -> None:
        """Queue a command, which is processed before the next step. Safe in any thread.

        If the thread has ended, requests of AddRequests end with EngineStopped at once.
        """
        self._commands.put(command)
        # A thread is alive for a moment after its last look at the queue.
        if self._has_ended or not self._thread.is_alive():
            self._fail_remaining()

    def ask(self, order: Order) -> "Future[Any]":
        """Queue an order and return the future of its answer, which is EngineStopped if the thread has ended.

        Nothing waits for it but the next step. Safe in any thread.
        """
        answer: Future[Any] = Future()
        self.submit(Ask(order, answer))
        return answer

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs, the engine has not died, and no step is stuck."""
        return self._thread.is_alive() and self.error is None and not self.engine.heartbeat.is_stuck

    @property
    def is_responsive(self) -> bool:
        """Whether the thread is alive and its step is not late."""
        return self.is_alive and not self.engine.heartbeat.is_late

    def stop(self, timeout_s: float = 30.0) -> None:
        """End the thread after the current step and wait for it; live requests end with EngineStopped.

        A step that is stuck is not waited for.
        """
        if self._thread.is_alive():
            self._commands.put(_Stop())
            self._thread.join(0.0 if self.engine.heartbeat.is_stuck else timeout_s)

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._process_commands(block=not self.engine.has_work)
                self._inspect()
                if self.engine.has_work and not self._stopping:
                    self._on_output(self.engine.step())
                    self.engine.heartbeat.end()
                    if not self.engine.has_work:
                        self.engine.audit_leftovers()
            self._on_output(
                self.engine.fail_all(EngineStopped("The engine was stopped before this request was finished."))
            )
        except Exception as error:
            log.exception("the engine has died")
            self.error = error
            self._on_output(self.engine.fail_all(EngineStopped("The engine has died; restart the server.")))
        self._has_ended = True
        self._fail_remaining()

    def _process_commands(self, *, block: bool) -> None:
        """Run all queued commands; with block, wait for the first."""
        heartbeat = self.engine.heartbeat
        if block:
            heartbeat.rest()
        else:
            heartbeat.begin()
        try:
            while True:
                command = self._commands.get(block=block)
                if block:
                    heartbeat.begin()
                    block = False
                self._process(command)
        except queue.Empty:
            return

    def _process(self, command: Command) -> None:
        match command:
            case AddRequests(requests, num_choices):
                group = self._group_of(requests, num_choices)
                for request in requests:
                    self.engine.add(request, group)
            case FinishRequests(request_ids, reason):
                for request_id in request_ids:
                    self.engine.finish(request_id, reason)
                    if reason is FinishReason.ABORT:
                        self._groups.pop(request_id, None)
            case Ask(Order.INSPECT, answer):
                self._inspections.append(answer)
            case Ask(order, answer):
                self._follow(order, [answer])
            case _Stop():
                self._stopping = True

    def _group_of(self, requests: Sequence[Request], num_choices: int) -> RequestGroup:
        """Return the group of a client's choices. It is kept while further ones may come."""
        group_id = requests[0].parent_id or requests[0].request_id
        group, num_to_come = self._groups.pop(group_id, (RequestGroup(num_choices), num_choices))
        num_to_come -= sum(len(request.output_ids) for request in requests)
        if num_to_come:
            self._groups[group_id] = group, num_to_come
        return group

    def _inspect(self) -> None:
        """Inspect the engine once for all who have asked. That is no step, and the heartbeat does not count it.

        Whoever asks again when answered waits for the next step, so that nobody can keep the engine from its steps.
        """
        asked, self._inspections = [each for each in self._inspections if not each.cancelled()], []
        if asked:
            self.engine.heartbeat.rest()
            self._follow(Order.INSPECT, asked)
            self.engine.heartbeat.begin()

    def _follow(self, order: Order, answers: "Sequence[Future[Any]]") -> None:
        """Follow an order. What it raises goes to those who still wait for an answer, and the engine goes on."""
        awaited = [answer for answer in answers if answer.set_running_or_notify_cancel()]
        scheduler = self.engine.scheduler
        actions: dict[Order, Callable[[], Any]] = {
            Order.INSPECT: self.engine.inspect,
            Order.PAUSE: scheduler.pause,
            Order.RESUME: scheduler.resume,
            Order.RESET_PREFIX_CACHE: scheduler.reset_prefix_cache,
            Order.RECOMPUTE_ALL: partial(scheduler.reset_prefix_cache, preempt_running=True),
        }
        try:
            result = actions[order]()
        except Exception as error:
            log.exception("the order %s has failed", order)
            for answer in awaited:
                answer.set_exception(error)
        else:
            for answer in awaited:
                answer.set_result(result)

    def _fail_remaining(self) -> None:
        """Fail the requests that arrive after the last step. Several threads may run this at once."""
        while self._inspections:
            self._refuse(self._inspections.pop())
        try:
            while True:
                command = self._commands.get(block=False)
                if isinstance(command, Ask):
                    self._refuse(command.answer)
                else:
                    self._process(command)
        except queue.Empty:
            pass
        outputs = self.engine.fail_all(EngineStopped("The engine has stopped; no request can be served."))
        if outputs:
            self._on_output(outputs)

    @staticmethod
    def _refuse(answer: "Future[Any]") -> None:
        if answer.set_running_or_notify_cancel():
            answer.set_exception(EngineStopped("The engine has stopped; it follows no orders."))
