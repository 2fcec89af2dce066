"""The order among callers: each gets its turn, whoever has queued how much.

Start-time fair queueing (Goyal, Vin and Cheng, 1996) with requests of equal cost. A request's turn is one more than
that of its caller's request before it, but not less than the turn that is served now. One caller alone is served in the
order of arrival, and a request waits for at most as many others as there are callers, times its place among its own.
"""

MAX_CALLERS = 1024  # whose turns are kept; of more, only those that have queued several requests


class CallerTurns:
    """The turns of requests, which are served from the lowest on."""

    def __init__(self) -> None:
        self._now = 0
        self._next: dict[str, int] = {}

    def assign(self, caller: str) -> int:
        """Return the turn of a caller's next request."""
        turn = max(self._now, self._next.get(caller, 0))
        self._next[caller] = turn + 1
        if len(self._next) > MAX_CALLERS:
            self._forget(turn + 1)
        return turn

    def on_start(self, turn: int) -> None:
        """Take note of a request that starts."""
        if turn > self._now:
            self._now = turn
            self._forget(turn)

    def _forget(self, turn: int) -> None:
        """Forget callers whose next turn is not behind this one: where all are new, no turn is ever served."""
        self._next = {caller: following for caller, following in self._next.items() if following > turn}
