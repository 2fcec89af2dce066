"""The heartbeat of an engine: whether its newest step takes longer than such a step should.

A step is late after twice the time that it may be expected to take, and a second more; health checks fail then. The
expected time is that of the longest step of the last minutes, or, for a step with more tokens than those had, its
number of tokens times the most seconds a token of these steps; so neither a loaded machine nor a first long prompt is
taken for a hung device. Before any step has ended nothing is expected, and only the timeout counts.

A step is stuck after the timeout; then the engine is dead.
"""

import time
from collections.abc import Callable

FACTOR, GRACE_S = 2.0, 1.0
PERIOD_S = 300.0  # steps of this period and of the one before it are recent


class Heartbeat:
    """The beginning of an engine's newest step, and the time that it may take. The engine's thread alone changes it.

    timeout_s   The seconds after which a step is stuck.
    clock       Monotonic seconds.
    """

    def __init__(self, timeout_s: float = 120.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._timeout_s, self._clock = timeout_s, clock
        self._began_s: float | None = None  # None: nothing is to be done
        self._limit_s = timeout_s
        self._num_tokens = self._num_newest_tokens = 0  # of the step that is waited for and the one behind it
        self._period_began_s = clock()
        self._recent = self._before = (0.0, 0.0)  # of a period: its longest step, and its most seconds a token

    def rest(self) -> None:
        """Wait for work, for as long as it may take."""
        self._began_s = None

    def begin(self) -> None:
        """Begin a step."""
        self._began_s = self._clock()

    def expect(self, num_tokens: int) -> None:
        """Take note of the number of tokens that the step, which has begun, enqueues; it may wait for those before."""
        self._num_tokens = num_tokens + self._num_newest_tokens
        self._num_newest_tokens = num_tokens
        self._limit_s = self._compute_limit()

    def end(self) -> None:
        """End the step."""
        now, began = self._clock(), self._began_s
        if began is None:
            return
        if now - self._period_began_s > PERIOD_S:
            self._before, self._recent, self._period_began_s = self._recent, (0.0, 0.0), now
        longest, slowest = self._recent
        seconds = now - began
        self._recent = max(longest, seconds), max(slowest, seconds / max(1, self._num_tokens))

    @property
    def is_late(self) -> bool:
        """Whether the newest step takes longer than expected. Safe in any thread, like `is_stuck`."""
        return self._age_s > self._limit_s

    @property
    def is_stuck(self) -> bool:
        """Whether the newest step has not ended within the timeout."""
        return self._age_s > self._timeout_s

    @property
    def _age_s(self) -> float:
        began = self._began_s
        return 0.0 if began is None else self._clock() - began

    def _compute_limit(self) -> float:
        longest, slowest = map(max, zip(self._recent, self._before, strict=True))
        if not longest:
            return self._timeout_s
        return min(self._timeout_s, FACTOR * max(longest, slowest * self._num_tokens) + GRACE_S)
