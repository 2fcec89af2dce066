"""The program of a worker process: one task after another, each under its own limits of memory and processor time.

Run as `python -m jaxserve.workers.worker MODULE…` with the socket as standard input; the modules are imported before
READY is sent. A task is JSON: {"function": "module:name", "data": …, "cpu_s": …, "memory_bytes": …}. The reply is
{"value": …}, {"refused": [message, param]} for a RequestError, or {"failed": name of the exception}.
"""

import json
import resource
import sys
from importlib import import_module
from math import ceil
from multiprocessing.connection import Connection
from typing import Any

from jaxserve.errors import RequestError

READY = b"ready"


def main() -> None:
    """Import the modules named on the command line, then run tasks until the other end of the socket is closed."""
    connection = Connection(sys.stdin.fileno())
    for module in sys.argv[1:]:
        import_module(module)
    connection.send_bytes(READY)
    while True:
        try:
            task = connection.recv_bytes()
        except EOFError:
            return
        connection.send_bytes(json.dumps(_run(json.loads(task))).encode())


def _run(task: dict[str, Any]) -> dict[str, Any]:
    _set_limits(task["cpu_s"], task["memory_bytes"])
    module, _, name = task["function"].partition(":")
    try:
        return {"value": getattr(import_module(module), name)(task["data"])}
    except RequestError as error:
        return {"refused": [str(error), error.param]}
    except Exception as error:
        return {"failed": type(error).__name__}


def _set_limits(cpu_s: float, memory_bytes: int) -> None:
    """Set soft limits only, so that the next task may have higher ones. The system ends the process beyond cpu_s."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    _set_soft_limit(resource.RLIMIT_CPU, ceil(usage.ru_utime + usage.ru_stime + cpu_s))
    _set_soft_limit(resource.RLIMIT_AS, memory_bytes)


def _set_soft_limit(kind: int, limit: int) -> None:
    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


if __name__ == "__main__":
    main()
