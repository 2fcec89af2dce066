"""Faults on purpose, for tests of what a server does when something fails; none without --allow-fault-injection.

A fault is `point@n` or `point@n:argument`: the n-th time that the point is passed, from 1 on, it fails. Each replica
counts for itself.

    step_raise         a step raises, and the device state is lost
    step_hang          a step takes `argument` seconds longer (an hour)
    slow_step_ms       a step takes `argument` milliseconds longer (1000)
    nan_row            the logits of the first decode row of a step are not finite
    alloc_fail         an allocation of pages fails as if none were free
    engine_exit        the engine's thread ends in a step
    clock_jump         the system's clock jumps by `argument` seconds (an hour) in a step
    detok_raise        the text of an output raises
    helper_kill        a worker process is killed before its task
"""

import logging
import re
import threading
from collections import Counter
from collections.abc import Sequence

from jaxserve.config import EngineConfig
from jaxserve.errors import BadConfig

log = logging.getLogger(__name__)

DEFAULT_ARGUMENTS = {
    **dict.fromkeys(("step_raise", "nan_row", "alloc_fail", "engine_exit", "detok_raise", "helper_kill"), 1.0),
    **{"step_hang": 3600.0, "slow_step_ms": 1000.0, "clock_jump": 3600.0},
}
FAULT = re.compile(r"(?P<point>\w+)@(?P<number>\d+)(:(?P<argument>-?\d+(\.\d+)?))?", re.ASCII)


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
        self._arguments: dict[tuple[str, int], float] = {}
        for fault in faults:
            match = FAULT.fullmatch(fault)
            if match is None or match["point"] not in DEFAULT_ARGUMENTS:
                points = ", ".join(DEFAULT_ARGUMENTS)
                raise BadConfig(f"fault={fault!r} is not point@n or point@n:argument; points are {points}.")
            argument = float(match["argument"] or DEFAULT_ARGUMENTS[match["point"]])
            self._arguments[match["point"], int(match["number"])] = argument

    @classmethod
    def from_config(cls, config: EngineConfig) -> "Faults | None":
        """Return the faults of a configuration; None, as always in production, if there are none."""
        return cls(config.fault) if config.fault else None

    def hit(self, point: str) -> float | None:
        """Pass a point; return the argument of the fault that is due there now, or None."""
        with self._lock:
            self._passed[point] += 1
            argument = self._arguments.get((point, self._passed[point]))
        if argument is not None:
            log.warning("injected fault: %s", point)
        return argument
