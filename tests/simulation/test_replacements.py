"""No module that serves requests reads a clock or starts a thread behind the simulation's back."""

import ast
from pathlib import Path

from tests.simulation.replacements import REPLACED
from tests.sources import REPO, modules

USES = {
    "time": {"monotonic", "perf_counter", "time", "sleep"},
    "threading": {"Thread", "Timer", "Event", "Condition"},
    "queue": {"Queue", "SimpleQueue"},
    "concurrent.futures": {"ThreadPoolExecutor", "ProcessPoolExecutor"},
}
NOT_SIMULATED = {
    **dict.fromkeys(("build", "compile", "roofline"), "runs while the server starts"),
    **dict.fromkeys(("heartbeat", "request_table", "scheduler"), "is given its clock"),
}
NOT_SIMULATED = {f"jaxserve.engine.{name}": reason for name, reason in NOT_SIMULATED.items()} | {
    "jaxserve.adapter_registry": "no simulated server has adapters",
    "jaxserve.engine.event_publisher": "no simulated server publishes events",
    "jaxserve.loading": "runs while the server starts",
    "jaxserve.workers.pool": "simulated requests need no worker processes",
    "jaxserve.workers.process": "simulated requests need no worker processes",
    "server.cli": "runs while the server starts",
    "server.local_server": "runs a server beside a program of its user",
    "server.tracing": "no simulated server sends spans",
    "server.startup": "runs while the server starts",
}
OTHER_PROGRAMS = (
    "jaxserve.weights.",
    "jaxserve.doctor",
    "jaxserve.blocking_client",
    "jaxserve.model_store",
    "server.chat.",
)


def _has_use(path: Path) -> bool:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.attr in USES.get(node.value.id, ()):
                return True
        elif isinstance(node, ast.ImportFrom) and USES.get(node.module or "", set()) & {one.name for one in node.names}:
            return True
    return False


def test_whatever_serves_has_the_time_and_the_threads_of_the_simulation():
    users = {name for name, path in modules(REPO).items() if _has_use(path) and not name.startswith(OTHER_PROGRAMS)}
    real = users - REPLACED.keys()
    assert real == NOT_SIMULATED.keys() & real, "replace its time or threads, or say why not"
    assert NOT_SIMULATED.keys() <= users, "it needs no exception any more"
