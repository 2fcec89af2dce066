"""An engine, a runner and a cache manager that fail on purpose (jaxserve/faults.py), and a disk that is full."""

import errno
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from jaxserve.cache.manager import CacheManager
from jaxserve.engine.engine import Engine, RunnerProtocol
from jaxserve.engine.plan import DecodeBatch, SampledTokens, StepMasks, StepPlan, StepResult
from jaxserve.engine.request import Request
from jaxserve.engine.stats import RequestGroup
from jaxserve.faults import Faults, InjectedFault
from jaxserve.sampling.sampler import NO_TOKEN


class EngineWithFaults(Engine):
    """An engine that tells the faults which requests their clients have named."""

    def __init__(self, *args: Any, faults: Faults, **options: Any) -> None:
        super().__init__(*args, **options)
        self._faults = faults

    def add(self, request: Request, group: RequestGroup | None = None) -> None:
        """Queue a request."""
        self._faults.name(request.output_ids, request.label)
        super().add(request, group)


class RunnerWithFaults:
    """A runner that passes the points of a step: those of the forward pass, then nan_row. Handles bring their plan."""

    def __init__(self, runner: RunnerProtocol, faults: Faults) -> None:
        self._runner, self._faults = runner, faults

    def forward(self, plan: StepPlan) -> Any:
        """Enqueue a forward pass.

        Raises InjectedFault for step_raise, then the device state is of no use, and SystemExit for engine_exit.
        """
        hit, ids = self._faults.hit, plan.request_ids
        if (seconds := hit("clock_jump", ids)) is not None:
            _shift_clock(seconds)
        if (seconds := hit("step_hang", ids)) is not None:
            time.sleep(seconds)
        if (milliseconds := hit("slow_step_ms", ids)) is not None:
            time.sleep(milliseconds / 1000)
        if hit("engine_exit", ids) is not None:
            raise SystemExit("injected fault")
        handle = self._runner.forward(plan)
        if hit("step_raise", ids) is not None:
            raise InjectedFault("step_raise")
        return plan, handle

    def sample(self, handle: Any, masks: StepMasks) -> Any:
        """Enqueue the sampling of a step's tokens."""
        plan, logits = handle
        return plan, self._runner.sample(logits, masks)

    def fetch(self, handle: Any) -> StepResult:
        """Wait for the results of a step."""
        plan, tokens = handle
        result = self._runner.fetch(tokens)
        if plan.decode is None or result.decode is None:
            return result
        return replace(result, decode=self._spoil(plan.decode, result.decode))

    def _spoil(self, batch: DecodeBatch, sampled: SampledTokens) -> SampledTokens:
        """Return the results without tokens for the rows that nan_row takes."""
        indices = self._faults.named("nan_row", batch.request_ids)
        if self._faults.hit("nan_row") is not None:
            indices.append(0)
        if not indices:
            return sampled
        token_BK = sampled.token_BK.copy()
        token_BK[indices, 0] = NO_TOKEN
        return replace(sampled, token_BK=token_BK)

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


def limit_disk(faults: Faults) -> None:
    """Let every file that this process keeps pass disk_full: whatever is kept is written aside and then renamed."""
    rename, num_left = os.replace, 0.0

    def rename_if_there_is_room(source: Any, target: Any, **options: Any) -> None:
        nonlocal num_left
        num_left = faults.hit("disk_full") or num_left
        if num_left > 0:
            num_left -= 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        rename(source, target, **options)

    os.replace = rename_if_there_is_room


def _shift_clock(seconds: float) -> None:
    """Let the system's clock, as this process reads it, jump."""
    read = time.time
    time.time = lambda: read() + seconds
