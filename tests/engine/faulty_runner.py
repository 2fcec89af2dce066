"""A fake device that fails: at one call, or at every step with some requests."""

from typing import Any

from jaxserve.engine.plan import StepMasks, StepPlan, StepResult
from tests.fake_runner import FakeLogits, FakeRunner

STAGES = ("forward", "sample", "fetch")


class DeviceFault(RuntimeError):
    """The step that was running is lost, and all that it was given."""


class FaultyRunner(FakeRunner):
    """A FakeRunner that raises DeviceFault.

    calls_left   By stage: the call after so many calls fails, once.
    culprits     By request id: the stage at which every step with this request fails.
    num_faults   The faults so far.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.calls_left: dict[str, int] = {}
        self.culprits: dict[int, str] = {}
        self.num_faults = 0

    def forward(self, plan: StepPlan) -> FakeLogits:
        self._fail_if_due("forward", plan)
        return super().forward(plan)

    def sample(self, handle: FakeLogits, masks: StepMasks) -> Any:
        self._fail_if_due("sample", handle[0])
        return handle[0], super().sample(handle, masks)

    def fetch(self, handle: Any) -> StepResult:
        plan, result = handle
        self._fail_if_due("fetch", plan)
        return result

    def _fail_if_due(self, stage: str, plan: StepPlan) -> None:
        left = self.calls_left.pop(stage, None)
        if left:
            self.calls_left[stage] = left - 1
        if left == 0 or any(self.culprits.get(request_id) == stage for request_id in plan.request_ids):
            self.num_faults += 1
            self.reset()
            raise DeviceFault(stage)
