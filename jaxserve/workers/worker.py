"""The program of a worker process: one task after another, each under its own limits of memory and processor time.

The socket is standard input. The modules are imported, then the process is confined, then the names of the protections
that it has are sent, separated by spaces. A task is JSON: {"function": "module:name", "data": …, "cpu_s": …,
"memory_bytes": …}. The reply is {"value": …}, {"refused": [message, param]} for a RequestError, or {"failed": name of
the exception}. The value of a task with "is_setup" stays here: it is the first argument of the tasks that follow.
"""

import json
import resource
import sys
from collections.abc import Sequence
from importlib import import_module
from math import ceil
from multiprocessing.connection import Connection
from typing import Any

from jaxserve.errors import RequestError
from jaxserve.workers.confine import confine, end_with_parent

MAX_MEMORY_BYTES = 2 << 30  # of any task
MAX_CPU_S = 24 * 3600  # of all tasks together


def main(parent_id: int, modules: Sequence[str]) -> None:
    """Import modules, confine the process, then run tasks until the other end of the socket is closed."""
    end_with_parent(parent_id)
    connection = Connection(sys.stdin.fileno())
    for module in modules:
        import_module(module)
    connection.send_bytes(" ".join(confine(MAX_MEMORY_BYTES, MAX_CPU_S)).encode())
    resident: tuple[Any, ...] = ()
    while True:
        try:
            task = json.loads(connection.recv_bytes())
        except EOFError:
            return
        reply = _run(task, resident)
        if task.get("is_setup") and "value" in reply:
            resident, reply = (reply["value"],), {"value": None}
        connection.send_bytes(json.dumps(reply).encode())


def _run(task: dict[str, Any], resident: tuple[Any, ...]) -> dict[str, Any]:
    _set_limits(task["cpu_s"], task["memory_bytes"])
    module, _, name = task["function"].partition(":")
    try:
        return {"value": getattr(import_module(module), name)(*resident, task["data"])}
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
