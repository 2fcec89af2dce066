"""A runner and a cache manager that fail on purpose (jaxserve/faults.py)."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from jaxserve.cache.manager import CacheManager
from jaxserve.engine.engine import RunnerProtocol
from jaxserve.engine.plan import SampledTokens, StepMasks, StepPlan, StepResult
from jaxserve.faults import Faults, InjectedFault
from jaxserve.sampling.sampler import NO_TOKEN


class RunnerWithFaults:
    """A runner that passes the points of a step: those of the forward pass, then nan_row."""

    def __init__(self, runner: RunnerProtocol, faults: Faults) -> None:
        self._runner, self._faults = runner, faults

    def forward(self, plan: StepPlan) -> Any:
        """Enqueue a forward pass.

        Raises InjectedFault for step_raise, then the device state is of no use, and SystemExit for engine_exit.
        """
        hit = self._faults.hit
        if (seconds := hit("clock_jump")) is not None:
            _shift_clock(seconds)
        if (seconds := hit("step_hang")) is not None:
            time.sleep(seconds)
        if (milliseconds := hit("slow_step_ms")) is not None:
            time.sleep(milliseconds / 1000)
        if hit("engine_exit") is not None:
            raise SystemExit("injected fault")
        handle = self._runner.forward(plan)
        if hit("step_raise") is not None:
            raise InjectedFault("step_raise")
        return handle

    def sample(self, handle: Any, masks: StepMasks) -> Any:
        """Enqueue the sampling of a step's tokens."""
        return self._runner.sample(handle, masks)

    def fetch(self, handle: Any) -> StepResult:
        """Wait for the results of a step."""
        result = self._runner.fetch(handle)
        if result.decode is not None and self._faults.hit("nan_row") is not None:
            return replace(result, decode=_without_token(result.decode))
        return result

    def reset(self) -> None:
        """Make the device state anew."""
        self._runner.reset()

    def close(self) -> None:
        """Free the device memory."""
        self._runner.close()


class CacheManagerWithFaults(CacheManager):
    """A cache manager whose allocations pass alloc_fail."""

    def __init__(self, *args: Any, faults: Faults, **options: Any) -> None:
        super().__init__(*args, **options)
        self._faults = faults

    def _allocate(self, nums: Sequence[int], watermarks: Sequence[int] | None = None) -> tuple[list[int], ...] | None:
        if any(nums) and self._faults.hit("alloc_fail") is not None:
            return None
        return super()._allocate(nums, watermarks)


def _without_token(sampled: SampledTokens) -> SampledTokens:
    """Return the results with a first row for which no token could be sampled."""
    token_BK = sampled.token_BK.copy()
    token_BK[0] = NO_TOKEN
    return replace(sampled, token_BK=token_BK)


def _shift_clock(seconds: float) -> None:
    """Let the system's clock, as this process reads it, jump."""
    read = time.time
    time.time = lambda: read() + seconds
