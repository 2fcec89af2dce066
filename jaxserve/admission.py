"""AdmissionQueue: a limit on the choices of requests that are prepared, run or answered at the same time."""

import threading
from collections import Counter
from types import TracebackType
from typing import Self

from jaxserve.errors import InvalidParameter, Overloaded

RESERVED_PART = 4  # the reserve for new callers is this part of the queue


class QueueSlot:
    """The places of one admitted request in the queue, until `release` or the end of a `with` block.

    num_choices   The number of its places.
    caller        Who has sent it; "" where nobody tells callers apart.
    label         What its client calls it; "" until `name` tells it.
    is_timed      Its outputs tell their times.
    """

    def __init__(self, queue: "AdmissionQueue", num_choices: int, caller: str) -> None:
        self.num_choices, self.caller, self.label, self.is_timed = num_choices, caller, "", False
        self._queue: AdmissionQueue | None = queue

    @property
    def is_released(self) -> bool:
        """Whether the places were given back."""
        return self._queue is None

    def name(self, label: str, is_timed: bool = False) -> None:
        """Tell what the client calls the request, and whether its times are wanted, before it is started."""
        self.label, self.is_timed = label, is_timed

    def release(self) -> None:
        """Give the places back. Idempotent."""
        queue, self._queue = self._queue, None
        if queue is not None:
            queue.release(self.num_choices, self.caller)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


class AdmissionQueue:
    """The places of a queue. Safe in any thread.

    A quarter more places than max_choices are for callers that have none: who fills the queue does not lock others out.

    max_choices          The number of places: choices of requests.
    max_waiting_tokens   With more prompt tokens waiting no request is admitted.
    """

    def __init__(self, max_choices: int, max_waiting_tokens: int) -> None:
        self._max_choices, self._max_waiting_tokens = max_choices, max_waiting_tokens
        self._lock = threading.Lock()
        self._num_taken = 0
        self._taken_by_caller: Counter[str] = Counter()
        self._rejected = {"max_num_queued_reqs": 0, "max_num_queued_tokens": 0}

    def admit(self, num_choices: int, num_waiting_tokens: int, caller: str = "") -> QueueSlot:
        """Admit a request with so many choices.

        num_waiting_tokens   The prompt tokens that wait now.
        caller               Who sends it.

        Raises InvalidParameter if the queue could never hold so many choices, Overloaded if it is full.
        """
        if num_choices > self._max_choices:
            raise InvalidParameter(
                f"The request asks for {num_choices} generations; at most {self._max_choices} may be queued at once.",
                "n",
            )
        with self._lock:
            reserve = 0 if self._taken_by_caller.get(caller) else self._max_choices // RESERVED_PART
            if self._num_taken + num_choices > self._max_choices + reserve:
                self._rejected["max_num_queued_reqs"] += 1
                raise Overloaded(
                    f"The queue is full: {self._num_taken} of {self._max_choices} places are taken. Try again later."
                )
            if num_waiting_tokens > self._max_waiting_tokens:
                self._rejected["max_num_queued_tokens"] += 1
                raise Overloaded(f"{num_waiting_tokens} prompt tokens are waiting; please try again later.")
            self._num_taken += num_choices
            self._taken_by_caller[caller] += num_choices
        return QueueSlot(self, num_choices, caller)

    def release(self, num_choices: int, caller: str) -> None:
        """Take places back from a slot, which alone calls this."""
        with self._lock:
            self._num_taken -= num_choices
            self._taken_by_caller[caller] -= num_choices
            if not self._taken_by_caller[caller]:
                del self._taken_by_caller[caller]

    @property
    def num_taken(self) -> int:
        """The number of places that are taken."""
        return self._num_taken

    def rejected(self) -> dict[str, int]:
        """Return the number of requests that were refused, by the limit that refused them."""
        return dict(self._rejected)
