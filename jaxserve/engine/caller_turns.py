"""The order among callers: each gets its turn, whoever has queued how much.

Start-time fair queueing (Goyal, Vin and Cheng, 1996) with requests of equal cost. A request's turn is one more than
that of its caller's request before it, but not less than the turn that is served now. One caller alone is served in the
order of arrival, and a request waits for at most as many others as there are callers, times its place among its own.

New callers could come for ever, so age counts, too: after every MAX_OVERTAKES starts, the next is the request that has
waited longest. So at most MAX_OVERTAKES later ones start before a request, and as many for each older one that waits.
"""

MAX_OVERTAKES = 32
MAX_CALLERS = 1024  # whose turns are kept; of more, only those that have queued several requests


class CallerTurns:
    """The turns of requests, which are served from the lowest on."""

    def __init__(self) -> None:
        self._now = 0
        self._next: dict[str, int] = {}
        self._num_starts = 0

    def assign(self, caller: str) -> int:
        """Return the turn of a caller's next request."""
        turn = max(self._now, self._next.get(caller, 0))
        self._next[caller] = turn + 1
        if len(self._next) > MAX_CALLERS:
            self._forget(turn + 1)
        return turn

    def on_start(self, turn: int) -> bool:
        """Take note of a request that starts; return whether the one that has waited longest is the next."""
        self._num_starts += 1
        if turn > self._now:
            self._now = turn
            self._forget(turn)
        return self._num_starts % MAX_OVERTAKES == 0

    def _forget(self, turn: int) -> None:
        """Forget callers whose next turn is not behind this one: where all are new, no turn is ever served."""
        self._next = {caller: following for caller, following in self._next.items() if following > turn}
