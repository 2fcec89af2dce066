"""One thread, one inbox, one callback a step. What crosses the wall is plain and frozen."""

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from jaxserve.engine.engine import Engine
from jaxserve.engine.request import Request
from jaxserve.engine.stats import RequestGroup
from jaxserve.errors import EngineStopped
from jaxserve.outputs import FinishReason, TokenOutput

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AddRequests:
    """Requests of one caller, to be queued together."""

    requests: tuple[Request, ...]
    group: RequestGroup


@dataclass(frozen=True, slots=True)
class FinishRequests:
    """Requests to end now: nobody waits for them any more, or a stop string has ended their text."""

    request_ids: tuple[int, ...]
    reason: FinishReason = FinishReason.ABORT


@dataclass(frozen=True, slots=True)
class CountRejection:
    """A request was refused at the door because of a queue limit; counted here, where the numbers live."""

    reason: str


@dataclass(frozen=True, slots=True)
class _Stop:
    pass


Command = AddRequests | FinishRequests | CountRejection | _Stop


class EngineThread:
    """Runs an engine until stopped. deliver gets each step's outputs, on this thread, and must not block.

    When a step raises, every live request is told, `error` is set, and the thread ends: what the step had been
    given for keeps is gone, so there is nothing to go on with.
    """

    def __init__(self, engine: Engine, on_output: Callable[[list[TokenOutput]], None]) -> None:
        self.engine = engine
        self.error: Exception | None = None
        self._on_output = on_output
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._stopping = False
        self._last_active_s = time.monotonic()
        self._idle = True
        self._thread = threading.Thread(target=self._run, name="jaxserve-engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, command: Command) -> None:
        """Leaves a command for the next step. After the engine's death an Add is answered with its error."""
        self._commands.put(command)
        if not self._thread.is_alive():
            self._fail_remaining()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive() and self.error is None

    def is_responsive(self, within_s: float) -> bool:
        """Alive, and either idle or past its last step for less than within_s."""
        return self.is_alive and (self._idle or time.monotonic() - self._last_active_s < within_s)

    def stop(self, timeout_s: float = 30.0) -> None:
        """Ends the thread after the current step; live requests are told that the engine has stopped."""
        if self._thread.is_alive():
            self._commands.put(_Stop())
            self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._process_commands(block=not self.engine.has_work)
                if self.engine.has_work and not self._stopping:
                    self._on_output(self.engine.step())
                    if not self.engine.has_work:
                        self.engine.audit()
            self._on_output(
                self.engine.fail_all(EngineStopped("The engine was stopped before this request was finished."))
            )
        except Exception as error:
            log.exception("the engine has died")
            self.error = error
            self._on_output(self.engine.fail_all(EngineStopped("The engine has died; restart the server.")))
        self._fail_remaining()

    def _process_commands(self, *, block: bool) -> None:
        """Takes every command that is there; with block, waits for the first."""
        self._last_active_s = time.monotonic()
        self._idle = block
        try:
            while True:
                command = self._commands.get(block=block)
                self._last_active_s = time.monotonic()
                self._idle = block = False
                self._process(command)
        except queue.Empty:
            return

    def _process(self, command: Command) -> None:
        match command:
            case AddRequests(requests, group):
                for request in requests:
                    self.engine.add(request, group)
            case FinishRequests(request_ids, reason):
                for request_id in request_ids:
                    self.engine.finish(request_id, reason)
            case CountRejection(reason):
                self.engine.scheduler.stats.on_reject(reason)
            case _Stop():
                self._stopping = True

    def _fail_remaining(self) -> None:
        """Answers what still arrives when nobody steps any more; several threads may be here at once."""
        try:
            while True:
                self._process(self._commands.get(block=False))
        except queue.Empty:
            pass
        outputs = self.engine.fail_all(EngineStopped("The engine has stopped; no request can be served."))
        if outputs:
            self._on_output(outputs)
