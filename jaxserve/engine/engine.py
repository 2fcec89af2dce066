"""Engine.step(): plan, execute, apply. No threads, no strings; one call, one step."""

import time
from collections import deque
from typing import Any, Protocol

from jaxserve.engine.plan import StepMasks, StepPlan, StepResult
from jaxserve.engine.request import Request
from jaxserve.engine.roofline import Roofline
from jaxserve.engine.scheduler import Scheduler
from jaxserve.engine.stats import RequestGroup
from jaxserve.outputs import FinishReason, StatsSnapshot, TokenOutput


class RunnerProtocol(Protocol):
    """What a step needs of a runner; tests bring their own."""

    def forward(self, plan: StepPlan) -> Any: ...

    def sample(self, handle: Any, masks: StepMasks) -> Any: ...

    def fetch(self, handle: Any) -> StepResult: ...

    def close(self) -> None: ...


class Engine:
    """The loop's body. With overlap, a step is enqueued before the one before it is read.

    Then the device finds its next work waiting when it is done, and Python's time is hidden behind it.
    With a roofline the work of every step is counted, and the device's time for it.
    """

    def __init__(
        self, scheduler: Scheduler, runner: RunnerProtocol, *, overlap: bool, roofline: Roofline | None = None
    ) -> None:
        self.scheduler, self.runner = scheduler, runner
        self._depth = 1 if overlap else 0
        self._in_flight: deque[tuple[StepPlan, Any, float]] = deque()
        self._roofline = roofline
        self._last_result_s = 0.0  # when the newest result came
        self._plan_host_s = 0.0  # what planning and enqueueing the newest step took

    @property
    def has_work(self) -> bool:
        return self.scheduler.has_work or bool(self._in_flight)

    def add(self, request: Request, group: RequestGroup | None = None) -> None:
        self.scheduler.add(request, group)

    def finish(self, request_id: int, reason: FinishReason = FinishReason.ABORT) -> None:
        self.scheduler.finish(request_id, reason)

    def step(self) -> list[TokenOutput]:
        """Enqueues the next step, if there is one, and applies the oldest one that must be home by now.

        Where a draw needs to know the tokens before it, these are read while its logits are computed.
        """
        started = time.monotonic()
        plan = self.scheduler.plan()
        outputs, waited_s = [], 0.0
        if plan:
            enqueued = time.monotonic()
            work = self.runner.forward(plan)
            while plan.needs_previous_tokens and self._in_flight:
                waiting = time.monotonic()
                outputs += self._apply_oldest()
                waited_s += time.monotonic() - waiting
            ticket = self.runner.sample(work, self.scheduler.make_masks(plan))
            self._in_flight.append((plan, ticket, enqueued))
        self._plan_host_s = time.monotonic() - started - waited_s
        if self._in_flight and (not plan or len(self._in_flight) > self._depth):
            outputs += self._apply_oldest()
        return outputs

    def _apply_oldest(self) -> list[TokenOutput]:
        oldest, ticket, enqueued = self._in_flight.popleft()
        result = self.runner.fetch(ticket)
        fetched = time.monotonic()
        if self._roofline is not None:
            begun = max(enqueued, self._last_result_s)  # it waited for the one before
            self.scheduler.stats.on_step_cost(self._roofline.estimate(oldest), fetched - begun)
        self._last_result_s = fetched
        outputs = self.scheduler.apply(oldest, result)
        self.scheduler.stats.on_step(oldest.num_prompt_tokens, self._plan_host_s + time.monotonic() - fetched)
        return outputs

    def fail_all(self, error: Exception) -> list[TokenOutput]:
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
