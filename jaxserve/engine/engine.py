"""The engine's step: plan, execute, apply. No threads and no strings; one call is one step."""

import logging
import time
from collections import deque
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from jaxserve.engine.heartbeat import Heartbeat
from jaxserve.engine.plan import StepMasks, StepPlan, StepResult
from jaxserve.engine.profiler import StepProfiler
from jaxserve.engine.request import Request
from jaxserve.engine.roofline import Roofline, StepCost
from jaxserve.engine.scheduler import Scheduler
from jaxserve.engine.stats import RequestGroup
from jaxserve.engine_snapshot import InspectedEngine, StatsSnapshot
from jaxserve.outputs import FinishReason, TokenOutput

log = logging.getLogger(__name__)


class RunnerProtocol(Protocol):
    """The methods that Engine needs of a runner (runner.Runner); tests have fakes."""

    def forward(self, plan: StepPlan) -> Any:
        """Enqueue the computation of a step's logits; return a handle for `sample`."""
        ...

    def sample(self, handle: Any, masks: StepMasks) -> Any:
        """Enqueue the sampling of a step's tokens; return a handle for `fetch`."""
        ...

    def fetch(self, handle: Any) -> StepResult:
        """Wait for the results of a step."""
        ...

    def reset(self) -> None:
        """Make the device state anew after a call that raised; what it held is lost."""
        ...

    def close(self) -> None:
        """Free the device memory."""
        ...


@dataclass(frozen=True, slots=True)
class StepInFlight:
    """A step whose results are not on the host yet.

    plan         Its plan.
    handle       The runner's handle for `fetch`.
    enqueued_s   When it was enqueued, monotonic seconds.
    cost         What it reads and computes, if there is a roofline.
    """

    plan: StepPlan
    handle: Any
    enqueued_s: float
    cost: StepCost | None


class Engine:
    """The loop body of inference: the scheduler's plans run on a runner, step by step.

    scheduler   Plans the steps and applies their results.
    runner      Runs them on the device.
    overlap     Enqueue a step before the results of the step before it are read, so that the device never waits for the
                host: the host plans and applies while the device computes.
    roofline    Count the cost of every step, and the device's time for it, in the metrics.
    profiler    Write a trace of some steps.
    heartbeat   Is told how many tokens each step has; whoever calls `step` tells it when that begins and ends.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        runner: RunnerProtocol,
        *,
        overlap: bool,
        roofline: Roofline | None = None,
        profiler: StepProfiler | None = None,
        heartbeat: Heartbeat | None = None,
    ) -> None:
        self.scheduler, self.runner, self.heartbeat = scheduler, runner, heartbeat or Heartbeat()
        self._depth = 1 if overlap else 0
        self._in_flight: deque[StepInFlight] = deque()
        self._plan: StepPlan | None = None  # the newest; None while it is made
        self._outputs: list[TokenOutput] = []  # of the newest step, until they are returned
        self._roofline, self._profiler = roofline, profiler
        self._events = scheduler.cache.events
        self._last_result_s = 0.0  # when the newest result was on the host
        self._plan_host_s = 0.0  # the time for planning and enqueueing the newest step

    @property
    def has_work(self) -> bool:
        """Whether a request is live or a step in flight."""
        return self.scheduler.has_work or bool(self._in_flight)

    def add(self, request: Request, group: RequestGroup | None = None) -> None:
        """Queue a request. group: the choices that it belongs to, for the metrics."""
        self.scheduler.add(request, group)

    def finish(self, request_id: int, reason: FinishReason = FinishReason.ABORT) -> None:
        """End a request without further output; an unknown or finished id changes nothing."""
        self.scheduler.finish(request_id, reason)

    def step(self) -> list[TokenOutput]:
        """Enqueue the next step, if there is one, and return the outputs of the steps whose results are due.

        If a step raises, the device state is made anew and all requests are computed again, from their tokens on the
        host. Raises what the step has raised if this happens too often, or what the second attempt raises; `fail_all`
        then returns the outputs of the results that were applied before.
        """
        try:
            self._step(self._outputs)
        except Exception as error:
            self._rebuild(error)
        if self._events is not None:
            self._events.flush()
        return self._take_outputs() + self.scheduler.take_failed()

    def _take_outputs(self) -> list[TokenOutput]:
        outputs, self._outputs = self._outputs, []
        return outputs

    def _step(self, outputs: list[TokenOutput]) -> None:
        """Enqueue the next step and append the outputs of the steps whose results are due.

        Where a mask depends on the tokens before it, their results are read while the logits of the step are computed.
        """
        started, waited_s = time.monotonic(), 0.0
        self._plan = None
        self._plan = plan = self.scheduler.plan()
        self.heartbeat.expect(plan.max_tokens)
        if plan:
            if self._profiler is not None:
                self._profile_step(self._profiler)
            cost = None if self._roofline is None else self._roofline.estimate(plan)
            enqueued = time.monotonic()
            forward = self.runner.forward(plan)
            while plan.needs_previous_tokens and self._in_flight:
                waiting = time.monotonic()
                self._apply_oldest(outputs)
                waited_s += time.monotonic() - waiting
            handle = self.runner.sample(forward, self.scheduler.make_masks(plan))
            self._in_flight.append(StepInFlight(plan, handle, enqueued, cost))
        self._plan_host_s = time.monotonic() - started - waited_s
        if self._in_flight and (not plan or len(self._in_flight) > self._depth):
            self._apply_oldest(outputs)

    def _rebuild(self, error: Exception) -> None:
        """Go on after a step that has raised: none of the arrays that it was given is left."""
        log.error("a step has failed; making the device state anew", exc_info=error)
        plans = [step.plan for step in self._in_flight] + [self._plan or StepPlan()]
        self._in_flight.clear()
        # A plan that was not finished may have failed for any request.
        self.scheduler.restart(
            set().union(*(plan.request_ids for plan in plans)) if self._plan is not None else (), error
        )
        self.runner.reset()

    def _profile_step(self, profiler: StepProfiler) -> None:
        profiler.before_step()
        if profiler.is_over:
            self._profiler = None

    def _apply_oldest(self, outputs: list[TokenOutput]) -> None:
        step = self._in_flight[0]
        result = self.runner.fetch(step.handle)
        self._in_flight.popleft()
        fetched = time.monotonic()
        if step.cost is not None:
            started = max(step.enqueued_s, self._last_result_s)  # on the device, after the step before it
            self.scheduler.stats.on_step_cost(step.cost, fetched - started)
        self._last_result_s = fetched
        self.scheduler.apply(step.plan, result, outputs)
        host_s = self._plan_host_s + time.monotonic() - fetched
        self.scheduler.stats.on_step(step.plan.num_prompt_tokens, host_s)

    def fail_all(self, error: Exception) -> list[TokenOutput]:
        """End every live request with this error and drop the steps in flight; return the last outputs.

        First are those that the last step has not returned because it raised: their requests may be live no more.
        """
        self._in_flight.clear()
        return self._take_outputs() + self.scheduler.fail_all(error)

    def stats(self) -> StatsSnapshot:
        """Return a snapshot of the metrics. Safe in any thread."""
        scheduler = self.scheduler
        snapshot = scheduler.stats.snapshot(
            num_running=scheduler.num_running,
            num_waiting=scheduler.num_waiting,
            num_preempted=scheduler.num_preempted,
            cache=scheduler.cache,
        )
        running, waiting = scheduler.list_adapters()
        return replace(snapshot, running_adapters=running, waiting_adapters=waiting)

    def check_invariants(self) -> dict[str, Literal[True] | str]:
        """Evaluate the invariants of the state between two steps: each holds, or a sentence says what is wrong."""
        return self.scheduler.check_invariants(self._plans_in_flight)

    def inspect(self) -> InspectedEngine:
        """Return a view of the state between two steps."""
        return self.scheduler.inspect(self._plans_in_flight)

    def audit(self) -> None:
        """Raise CacheInvariantError if an invariant does not hold."""
        self.scheduler.audit(self._plans_in_flight)

    def audit_leftovers(self) -> None:
        """Raise CacheInvariantError if no request is live and something is kept for one. It walks over no pages."""
        self.scheduler.audit_leftovers()

    @property
    def _plans_in_flight(self) -> list[StepPlan]:
        return [step.plan for step in self._in_flight]

    def close(self) -> None:
        """Drop the steps in flight and free the device memory."""
        self._in_flight.clear()
        if self._profiler is not None:
            self._profiler.close()
        self.runner.close()
