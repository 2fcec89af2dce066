"""Fits the number of connections to the limit of open files: each connection is one."""

from __future__ import annotations

import logging
import os
import resource
from contextlib import suppress
from typing import NamedTuple

from jaxserve import StartupError

log = logging.getLogger(__name__)

MAX_EXCESS = 256  # connections above the limit that may ask for the server's health
RESERVED_FILES = 64  # for worker processes, logs and whatever else the process opens
MIN_FREE_FILES = 8  # without which nothing could be served
MAX_UNLIMITED = 1 << 20  # files, where there is no limit
DESCRIPTORS = "/dev/fd"  # the process's own, on Linux and macOS


class ConnectionLimits(NamedTuple):
    """Numbers of connections that the limit of open files allows.

    max_connections   That are served.
    max_excess        More of them, which may only ask for the server's health.
    """

    max_connections: int
    max_excess: int


def fit_connections(wanted: int) -> ConnectionLimits:
    """Raise the limit of open files as far as the system allows, and divide what is left of it.

    A quarter of the free files, at most RESERVED_FILES, is for the process itself; an eighth, at most MAX_EXCESS, for
    excess connections. If fewer than `wanted` connections are possible, a line of the log says so.

    Raises StartupError if fewer than MIN_FREE_FILES are free.
    """
    limit = _raise_file_limit()
    free = limit - len(os.listdir(DESCRIPTORS))
    if free < MIN_FREE_FILES:
        raise StartupError(
            f"The limit of open files is {limit}, and only {max(0, free)} are left for connections; "
            "raise it before the start: ulimit -n 4096."
        )
    max_excess = min(MAX_EXCESS, free // 8)
    possible = free - min(RESERVED_FILES, free // 4) - max_excess
    if possible < wanted:
        log.warning(
            "max_connections is %d, and the limit of open files (%d) leaves %d; ulimit -n raises it",
            wanted,
            limit,
            possible,
        )
    return ConnectionLimits(min(wanted, possible), max_excess)


def _raise_file_limit() -> int:
    """Raise the soft limit to the hard one, and return the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MAX_UNLIMITED if limit == resource.RLIM_INFINITY else limit
