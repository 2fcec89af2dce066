"""Makes a failing plan smaller: drops actions, and what is special about those that are left, while it fails alike."""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from tests.simulation.plan import Action, Plan
from tests.simulation.simulation import Report, simulate

KIND_CHARS = 40
PLAIN_LINK = {"latency_s": 0.001, "bytes_per_s": 1e7, "segment_bytes": 1460, "window_bytes": 65536}
PLAIN_SETTINGS: dict[str, Any] = {
    **dict.fromkeys(("queue_timeout_s", "request_timeout_s", "drain_timeout_s"), 0.0),
    **dict.fromkeys(("overlap", "has_keys", "isolate_cache_per_key"), False),
    **{"windows": [None], "num_states": 0, "max_tokens_per_row": 1, "scheduling_policy": "fcfs", "stream_interval": 1},
}


def shrink(plan: Plan, failure: str, limit_s: float, run: Callable[[Plan], Report] = simulate) -> Plan:
    """Return a smaller plan that fails as `failure` says, the smallest that is found within limit_s of real time."""
    deadline_s, kind = time.monotonic() + limit_s, kind_of(failure)

    def fails(candidate: Plan) -> bool:
        return time.monotonic() < deadline_s and kind_of(run(candidate).failure or "") == kind

    plan = _drop_actions(plan, fails)
    for candidate in _simplify_settings(plan):
        if fails(candidate):
            plan = candidate
    is_smaller = True
    while is_smaller and time.monotonic() < deadline_s:
        is_smaller = False
        for index in range(len(plan.actions)):
            for action in _simplify(plan.actions[index]):
                candidate = plan.keep([*plan.actions[:index], action, *plan.actions[index + 1 :]])
                if fails(candidate):
                    plan, is_smaller = candidate, True
                    break
    return plan


def kind_of(failure: str) -> str:
    """Return what was violated: the beginning of a failure, with # for numbers."""
    return re.sub(r"\d+", "#", failure)[:KIND_CHARS]


def _drop_actions(plan: Plan, fails: Callable[[Plan], bool]) -> Plan:
    """Delta debugging of the list of actions: drop large parts first, then single ones."""
    actions, size = list(plan.actions), max(1, len(plan.actions) // 2)
    while True:
        start, has_dropped = 0, False
        while start < len(actions):
            rest = actions[:start] + actions[start + size :]
            if fails(plan.keep(rest)):
                actions, has_dropped = rest, True
            else:
                start += size
        if size == 1 and not has_dropped:
            return plan.keep(actions)
        size = max(1, size // 2)


def _simplify_settings(plan: Plan) -> Iterator[Plan]:
    settings = dict(plan.settings)
    for name, value in PLAIN_SETTINGS.items():
        if settings.get(name, value) != value:  # older plans lack some
            yield replace(plan, settings={**settings, name: value})


def _simplify(action: Action) -> Iterator[Action]:
    """Yield simpler forms of an action."""
    if action["kind"] != "call":
        return
    if len(action["requests"]) > 1:
        yield {**action, "requests": action["requests"][:1]}
        yield {**action, "requests": action["requests"][-1:]}
    if action["link"] != PLAIN_LINK:
        yield {**action, "link": PLAIN_LINK}
    if action["manner"]["how"] != "read":
        yield {**action, "manner": {"how": "read"}}
    for index, request in enumerate(action["requests"]):
        body = request["body"] if isinstance(request["body"], dict) else {}
        for name in sorted(body.keys() - {"prompt", "messages", "seed", "return_token_ids", "stream"}):
            fewer = {key: value for key, value in body.items() if key != name}
            requests = list(action["requests"])
            requests[index] = {**request, "body": fewer}
            yield {**action, "requests": requests}
