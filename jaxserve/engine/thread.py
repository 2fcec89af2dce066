"""One thread, one inbox, one callback a step. What crosses the wall is plain and frozen."""

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from jaxserve.engine.engine import Engine
from jaxserve.engine.request import Request
from jaxserve.engine.stats import Family
from jaxserve.errors import EngineStopped
from jaxserve.outputs import FinishReason, TokenOutput

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Add:
    """Requests of one caller, to be queued together."""

    requests: tuple[Request, ...]
    family: Family


@dataclass(frozen=True, slots=True)
class End:
    """Requests to end now: nobody waits for them any more, or a stop string has ended their text."""

    request_ids: tuple[int, ...]
    reason: FinishReason = FinishReason.ABORT


@dataclass(frozen=True, slots=True)
class Reject:
    """A request was refused at the door because of a queue limit; counted here, where the numbers live."""

    reason: str


@dataclass(frozen=True, slots=True)
class _Stop:
    pass


Command = Add | End | Reject | _Stop


class EngineThread:
    """Runs an engine until stopped. deliver gets each step's outputs, on this thread, and must not block.

    When a step raises, every live request is told, `error` is set, and the thread ends: what the step had been
    given for keeps is gone, so there is nothing to go on with.
    """

    def __init__(self, engine: Engine, deliver: Callable[[list[TokenOutput]], None]) -> None:
        self.engine = engine
        self.error: Exception | None = None
        self._deliver = deliver
        self._inbox: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._stopping = False
        self._beat_s = time.monotonic()
        self._idle = True
        self._thread = threading.Thread(target=self._run, name="jaxserve-engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, command: Command) -> None:
        """Leaves a command for the next step. After the engine's death an Add is answered with its error."""
        self._inbox.put(command)
        if not self._thread.is_alive():
            self._drain_dead()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive() and self.error is None

    def is_responsive(self, within_s: float) -> bool:
        """Alive, and either idle or past its last step for less than within_s."""
        return self.is_alive and (self._idle or time.monotonic() - self._beat_s < within_s)

    def stop(self, timeout_s: float = 30.0) -> None:
        """Ends the thread after the current step; live requests are told that the engine has stopped."""
        if self._thread.is_alive():
            self._inbox.put(_Stop())
            self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._obey(block=not self.engine.has_work)
                if self.engine.has_work and not self._stopping:
                    self._deliver(self.engine.step())
                    if not self.engine.has_work:
                        self.engine.audit()
            self._deliver(self.engine.fail(EngineStopped("The engine was stopped before this request was finished.")))
        except Exception as error:
            log.exception("the engine has died")
            self.error = error
            self._deliver(self.engine.fail(EngineStopped("The engine has died; restart the server.")))
        self._drain_dead()

    def _obey(self, *, block: bool) -> None:
        """Takes every command that is there; with block, waits for the first."""
        self._beat_s = time.monotonic()
        self._idle = block
        try:
            while True:
                command = self._inbox.get(block=block)
                self._beat_s = time.monotonic()
                self._idle = block = False
                self._do(command)
        except queue.Empty:
            return

    def _do(self, command: Command) -> None:
        match command:
            case Add(requests, family):
                for request in requests:
                    self.engine.add(request, family)
            case End(request_ids, reason):
                for request_id in request_ids:
                    self.engine.end(request_id, reason)
            case Reject(reason):
                self.engine.scheduler.stats.on_reject(reason)
            case _Stop():
                self._stopping = True

    def _drain_dead(self) -> None:
        """Answers what still arrives when nobody steps any more; several threads may be here at once."""
        try:
            while True:
                self._do(self._inbox.get(block=False))
        except queue.Empty:
            pass
        outputs = self.engine.fail(EngineStopped("The engine has stopped; no request can be served."))
        if outputs:
            self._deliver(outputs)
