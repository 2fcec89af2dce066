"""The search for the request that makes steps fail, by halves.

A failed step does not say which of its requests it failed for. All of them are computed again together, because most
faults do not come back. If a step with some of these fails again, they are tried half by half, until a step fails for
one of them alone: this one ends with an error.

While a group is on trial, no other request starts. Requests that run already go on, among them those of earlier groups,
so that a trial costs the others little: it is over when each request of the group has all the tokens that were lost in
the failed steps and one more, or has ended. A culprit among m requests costs up to log2(m) + 3 rebuilds.
"""

from collections import deque
from collections.abc import Collection

from jaxserve.engine.request_table import RequestTable
from jaxserve.engine.sequence import Sequence

MAX_SEARCHES = 3  # within PERIOD_S; after more the device itself is taken to be faulty
PERIOD_S = 600.0


class FaultSearch:
    """The requests suspected of making steps fail, in groups that are on trial one after another.

    requests   The live requests.
    """

    def __init__(self, requests: RequestTable) -> None:
        self._requests = requests
        self._groups: list[dict[int, int]] = []  # request id → progress with which it is cleared; the first is on trial
        self._started_s: deque[float] = deque(maxlen=MAX_SEARCHES)
        self._num_rebuilds_left = 0

    def suspect_ids(self) -> set[int]:
        """Return the ids of the requests that are on trial or wait for it."""
        return set().union(*self._groups)

    def is_held(self, sequence: Sequence) -> bool:
        """Whether a waiting sequence may not start yet, because others are on trial."""
        return bool(self._groups) and sequence.request.request_id not in self._groups[0]

    def advance(self) -> None:
        """Clear the requests that have ended or run without a fault; the next group is on trial after the last."""
        while self._groups:
            by_id = self._requests.by_id
            self._groups[0] = {
                request_id: target
                for request_id, target in self._groups[0].items()
                if request_id in by_id and self._requests.count_progress(by_id[request_id]) < target
            }
            if self._groups[0]:
                return
            del self._groups[0]

    def allows_rebuild(self, num_suspects: int) -> bool:
        """Count a rebuild of the device state; return whether it may be made.

        There may be MAX_SEARCHES searches within PERIOD_S, and within a search as many rebuilds as some culprits among
        num_suspects requests explain.
        """
        self.advance()
        if self._groups:
            self._num_rebuilds_left -= 1
            return self._num_rebuilds_left >= 0
        now = self._requests.clock()
        if len(self._started_s) == MAX_SEARCHES and now - self._started_s[0] < PERIOD_S:
            return False
        self._started_s.append(now)
        self._num_rebuilds_left = 4 * (1 + num_suspects.bit_length())
        return True

    def blame(self, request_ids: Collection[int]) -> int | None:
        """Suspect the requests of failed steps; return the id of the one that must be the culprit, or None.

        To be called before the lost tokens are forgotten.
        """
        by_id = self._requests.by_id
        suspects = {request_id: self._target(by_id[request_id]) for request_id in request_ids if request_id in by_id}
        group = self._groups.pop(0) if self._groups else {}
        on_trial = [request_id for request_id in group if request_id in suspects]
        # A request that has been ended since may be the cause: then nobody else is found guilty.
        is_certain = len(on_trial) == 1 and all(request_id in by_id for request_id in request_ids)
        others = {request_id: target for request_id, target in group.items() if request_id not in suspects}
        if not on_trial:  # the first failure, or one of requests that had been cleared
            groups = [list(suspects)]
        elif len(on_trial) > 1:
            middle = len(on_trial) // 2
            groups = [on_trial[:middle], on_trial[middle:]]
        else:
            groups = [] if is_certain else [on_trial]
        halves = [{request_id: suspects[request_id] for request_id in ids} for ids in groups]
        self._groups[:0] = [each for each in (*halves, others) if each]
        return on_trial[0] if is_certain else None

    def _target(self, sequence: Sequence) -> int:
        return self._requests.count_progress(sequence) + sequence.num_pending + 1
