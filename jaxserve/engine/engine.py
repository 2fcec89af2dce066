"""Engine.step(): plan, execute, apply. No threads, no strings; one call, one step."""

import time
from collections import deque
from typing import Any, Protocol

from jaxserve.engine.plan import StepPlan, StepResult
from jaxserve.engine.request import Request
from jaxserve.engine.roofline import Roofline
from jaxserve.engine.scheduler import Scheduler
from jaxserve.engine.stats import Family
from jaxserve.outputs import FinishReason, StatsSnapshot, TokenOutput


class Device(Protocol):
    """What a step needs of a runner; tests bring their own."""

    def execute(self, plan: StepPlan) -> Any: ...

    def fetch(self, ticket: Any) -> StepResult: ...

    def close(self) -> None: ...


class Engine:
    """The loop's body. With overlap, a step is enqueued before the one before it is read.

    Then the device finds its next work waiting when it is done, and Python's time is hidden behind it.
    With a roofline the work of every step is counted, and the device's time for it.
    """

    def __init__(
        self, scheduler: Scheduler, runner: Device, *, overlap: bool, roofline: Roofline | None = None
    ) -> None:
        self.scheduler, self.runner = scheduler, runner
        self._depth = 1 if overlap else 0
        self._in_flight: deque[tuple[StepPlan, Any, float]] = deque()
        self._roofline = roofline
        self._home_s = 0.0  # when the newest result came

    @property
    def has_work(self) -> bool:
        return self.scheduler.has_work or bool(self._in_flight)

    def add(self, request: Request, family: Family | None = None) -> None:
        self.scheduler.add(request, family)

    def end(self, request_id: int, reason: FinishReason = FinishReason.ABORT) -> None:
        self.scheduler.end(request_id, reason)

    def step(self) -> list[TokenOutput]:
        """Enqueues the next step, if there is one, and applies the oldest one that must be home by now."""
        started = time.monotonic()
        plan = self.scheduler.plan()
        if plan:
            enqueued = time.monotonic()
            self._in_flight.append((plan, self.runner.execute(plan), enqueued))
        planned = time.monotonic()
        if not self._in_flight or (plan and len(self._in_flight) <= self._depth):
            return []
        oldest, ticket, enqueued = self._in_flight.popleft()
        result = self.runner.fetch(ticket)
        fetched = time.monotonic()
        if self._roofline is not None:
            begun = max(enqueued, self._home_s)  # it waited for the one before
            self.scheduler.stats.on_work(self._roofline.work(oldest), fetched - begun)
        self._home_s = fetched
        outputs = self.scheduler.apply(oldest, result)
        host_s = (planned - started) + (time.monotonic() - fetched)
        self.scheduler.stats.on_step(oldest.num_tokens, host_s)
        return outputs

    def fail(self, error: Exception) -> list[TokenOutput]:
        """Ends every live request with this error; the steps under way are forgotten."""
        self._in_flight.clear()
        return self.scheduler.fail_all(error)

    def stats(self) -> StatsSnapshot:
        scheduler = self.scheduler
        return scheduler.stats.snapshot(
            num_running=scheduler.num_running,
            num_waiting=scheduler.num_waiting,
            num_preempted=scheduler.num_preempted,
            pool=scheduler.pool,
        )

    def audit(self) -> None:
        """Checks the books; when idle, nobody may hold a page or a row."""
        self.scheduler.audit()

    def close(self) -> None:
        self._in_flight.clear()
        self.runner.close()
