"""Inside a helper: one task after the other, each under its own limits of memory and processor time.

Run as `python -m jaxserve.workers.worker MODULE…` with the socket as standard input; the modules are imported before
it says that it is ready. A task is JSON: {"call": "module:function", "data": …, "cpu_s": …, "memory_bytes": …}. The
answer is {"value": …}, {"refused": [message, param]} for a RequestError, or {"failed": name of the exception}.
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
    channel = Connection(sys.stdin.fileno())
    for module in sys.argv[1:]:
        import_module(module)
    channel.send_bytes(READY)
    while True:
        try:
            task = channel.recv_bytes()
        except EOFError:  # nobody is there any more
            return
        channel.send_bytes(json.dumps(_answer(json.loads(task))).encode())


def _answer(task: dict[str, Any]) -> dict[str, Any]:
    _limit(task["cpu_s"], task["memory_bytes"])
    module, _, function = task["call"].partition(":")
    try:
        return {"value": getattr(import_module(module), function)(task["data"])}
    except RequestError as error:
        return {"refused": [str(error), error.param]}
    except Exception as error:
        return {"failed": type(error).__name__}


def _limit(cpu_s: float, memory_bytes: int) -> None:
    """Only the soft limits are set, so the next task may have others. Beyond cpu_s the system ends the process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu = ceil(used.ru_utime + used.ru_stime + cpu_s)
    _set_soft(resource.RLIMIT_CPU, cpu)
    _set_soft(resource.RLIMIT_AS, memory_bytes)


def _set_soft(kind: int, limit: int) -> None:
    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


if __name__ == "__main__":
    main()
