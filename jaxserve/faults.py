"""Faults on purpose, for tests of what a server does when something fails; none without --allow-fault-injection.

A fault is `point@n` or `point@n:argument`: the n-th time that the point is passed, from 1 on, it fails. Each replica
counts for itself. The points of steps and outputs may name a request instead, `point@label` with its X-Request-Id or
request_id: they fail whenever they are passed with that request.

    step_raise         a step raises, and the device state is lost
    step_hang          a step takes `argument` seconds longer (an hour)
    slow_step_ms       a step takes `argument` milliseconds longer (1000)
    nan_row            the logits of a step's first decode row, or those of the named request, are not finite
    engine_exit        the engine's thread ends in a step
    clock_jump         the system's clock jumps by `argument` seconds (an hour) in a step
    detok_raise        the text of an output raises
    alloc_fail         an allocation of pages fails as if none were free
    helper_kill        a worker process is killed before its task
    disk_full          `argument` files (all) cannot be kept, as if the disk were full, from the n-th on
"""

import logging
import re
import threading
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence

from jaxserve.config import EngineConfig
from jaxserve.errors import BadConfig

log = logging.getLogger(__name__)

REQUEST_POINTS = ("step_raise", "step_hang", "slow_step_ms", "nan_row", "engine_exit", "clock_jump", "detok_raise")
DEFAULT_ARGUMENTS = {
    **dict.fromkeys((*REQUEST_POINTS, "alloc_fail", "helper_kill"), 1.0),
    **{"step_hang": 3600.0, "slow_step_ms": 1000.0, "clock_jump": 3600.0, "disk_full": float("inf")},
}
FAULT = re.compile(r"(?P<point>\w+)@((?P<number>\d+)|(?P<label>[\w.-]+))(:(?P<argument>-?\d+(\.\d+)?))?", re.ASCII)


class InjectedFault(RuntimeError):
    """A fault on purpose."""


class Faults:
    """The faults that are due, by point and occurrence. Safe in any thread.

    faults   As above.

    Raises BadConfig for one that cannot be read.
    """

    def __init__(self, faults: Sequence[str]) -> None:
        self._lock = threading.Lock()
        self._passed: Counter[str] = Counter()
        self._by_number: dict[tuple[str, int], float] = {}
        self._by_label: dict[tuple[str, str], float] = {}
        self._named: defaultdict[str, set[int]] = defaultdict(set)  # label → requests that have it
        for fault in faults:
            match = FAULT.fullmatch(fault)
            if match is None or match["point"] not in DEFAULT_ARGUMENTS:
                points = ", ".join(DEFAULT_ARGUMENTS)
                raise BadConfig(f"fault={fault!r} is not point@n or point@n:argument; points are {points}.")
            argument = float(match["argument"] or DEFAULT_ARGUMENTS[match["point"]])
            if match["number"]:
                self._by_number[match["point"], int(match["number"])] = argument
            elif match["point"] in REQUEST_POINTS:
                self._by_label[match["point"], match["label"]] = argument
            else:
                requests = ", ".join(REQUEST_POINTS)
                raise BadConfig(f"fault={fault!r} names a request; those that may are {requests}.")

    @classmethod
    def from_config(cls, config: EngineConfig) -> "Faults | None":
        """Return the faults of a configuration; None, as always in production, if there are none."""
        return cls(config.fault) if config.fault else None

    def name(self, request_ids: Collection[int], label: str) -> None:
        """Tell which requests a client has sent under this label; it is kept only if a fault names it."""
        with self._lock:
            if any(label == named for _, named in self._by_label):
                self._named[label].update(request_ids)

    def hit(self, point: str, request_ids: Collection[int] = ()) -> float | None:
        """Pass a point with these requests; return the argument of the fault that is due there now, or None."""
        with self._lock:
            self._passed[point] += 1
            argument = self._by_number.get((point, self._passed[point]))
            for (named_point, label), labelled in self._by_label.items():
                if named_point == point and not self._named[label].isdisjoint(request_ids):
                    argument = labelled
        if argument is not None:
            log.warning("injected fault: %s", point)
        return argument

    def named(self, point: str, request_ids: Sequence[int]) -> list[int]:
        """Return the indices of the requests for which a fault of this point is due whenever it is passed."""
        with self._lock:
            labels = [label for named_point, label in self._by_label if named_point == point]
            ids = set().union(*(self._named[label] for label in labels))
        return [index for index, request_id in enumerate(request_ids) if request_id in ids]
