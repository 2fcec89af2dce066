"""A plan: the settings of a server and what happens to it, as plain data made from a seed.

A simulation depends on its plan only, so that a failing one can be made smaller and kept (shrink.py, failures/).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from tests.simulation.requests import make_body

Action = dict[str, Any]
KEYS = ("key-a", "key-b", "key-c")
SYSTEMS = (
    "be kind. ",
    "you are a bot that says little. ",
    "rule one: be short. rule two: no lies. rule three: be kind. ",
)


@dataclass(frozen=True)
class Plan:
    """What a simulation does.

    seed       Decides durations: of steps, of tasks in threads, of segments.
    settings   Of the engine, the server and the fake device.
    actions    In any order; each has `at_s`, seconds from the start, and `kind`.
    """

    seed: int
    settings: dict[str, Any]
    actions: tuple[Action, ...]

    @property
    def end_s(self) -> float:
        """The time of the last action."""
        return max((action["at_s"] for action in self.actions), default=0.0)

    def keep(self, actions: Sequence[Action]) -> "Plan":
        """Return the plan with these actions only."""
        return replace(self, actions=tuple(actions))

    def save(self, path: Path) -> None:
        """Write the plan as JSON, one action a line."""
        actions = ",\n".join(json.dumps(action) for action in self.actions)
        path.write_text(
            f'{{"seed": {self.seed},\n"settings": {json.dumps(self.settings)},\n"actions": [\n{actions}\n]}}\n',
            encoding="utf-8",
        )

    @classmethod
    def load(cls, path: Path) -> "Plan":
        """Read a plan that `save` has written."""
        data = json.loads(path.read_text(encoding="utf-8"))
        return cls(data["seed"], data["settings"], tuple(data["actions"]))


def make_plan(seed: int, duration_s: float, calls_per_s: float = 1.0, fault_rate: float = 1.0) -> Plan:
    """Make the plan of a seed. fault_rate: of all faults; 1 is about eight a minute."""
    rng = Random(f"plan {seed}")
    settings = _make_settings(rng) | {"num_states": Random(f"states {seed}").choice([0, 0, 1])}
    settings["num_host_states"] = Random(f"host states {seed}").choice([0, 4])
    actions = [*_make_calls(rng, settings, duration_s, calls_per_s), *_make_faults(rng, duration_s, fault_rate)]
    return Plan(seed, settings, tuple(sorted(actions, key=lambda action: action["at_s"])))


def _make_settings(rng: Random) -> dict[str, Any]:
    num_pages = rng.choice([14, 20, 32, 64])
    max_num_seqs = rng.choice([2, 4, 8])
    windows = rng.choice([[None], [None], [None], [None, 6], [9, None], [5]])
    is_tight = rng.random() < 0.4
    return {
        "num_pages": num_pages,
        "max_model_len": min(96, (num_pages - 1) * 4),
        "max_num_seqs": max_num_seqs,
        "max_num_batched_tokens": max_num_seqs + 4 * rng.randint(1, 8),
        "chunk": rng.choice([4, 8, 16]),
        "windows": windows,
        "max_tokens_per_row": rng.choice([1, 1, 2, 5]),
        "enable_prefix_caching": rng.random() < 0.85,
        "overlap": rng.random() < 0.7,
        "scheduling_policy": rng.choice(["fcfs", "fcfs", "priority"]),
        "step_s": rng.choice([[0.002, 0.01], [0.005, 0.03], [0.01, 0.1]]),
        "step_timeout_s": rng.choice([8.0, 15.0]),
        "is_tight": is_tight,
        "max_num_queued_reqs": rng.choice([8, 16]) if is_tight else 4096,
        "max_num_queued_tokens": rng.choice([80, 400]) if is_tight else 100_000,
        "max_connections": rng.choice([4, 16]) if is_tight else 4096,
        "max_connections_per_ip": rng.choice([0, 3]) if is_tight else 0,
        "max_concurrency_per_key": rng.choice([0, 4]) if is_tight else 0,
        "max_unsent_bytes": rng.choice([4000, 1 << 20]) if is_tight else 1 << 29,
        "queue_timeout_s": rng.choice([0.0, 0.0, 2.0]),
        "request_timeout_s": rng.choice([0.0, 0.0, 10.0]),
        "send_stall_timeout_s": rng.choice([5.0, 20.0]),
        "body_timeout_s": 6.0,
        "drain_timeout_s": rng.choice([0.0, 1.0, 10.0]),
        "has_keys": rng.random() < 0.5,
        "isolate_cache_per_key": rng.random() < 0.3,
        "sse_keep_alive_interval": rng.choice([0.0, 0.5, 15.0]),
        "stream_interval": rng.choice([1, 1, 4]),
    }


def _make_calls(rng: Random, settings: dict[str, Any], duration_s: float, calls_per_s: float) -> list[Action]:
    calls: list[Action] = []
    now_s, number = 0.1, 0
    while now_s < duration_s:
        pace = rng.choice([0.3, 1.0, 1.0, 4.0, 20.0]) * calls_per_s / 2
        phase_s = rng.uniform(1.0, 12.0) if pace < 5 * calls_per_s else rng.uniform(0.2, 1.5)
        until_s = min(now_s + phase_s, duration_s)
        while (now_s := now_s + rng.expovariate(pace)) < until_s:
            number += 1
            calls.append(_make_call(rng, settings, round(now_s, 6), number))
    return calls


def _make_call(rng: Random, settings: dict[str, Any], at_s: float, number: int) -> Action:
    manner = _make_manner(rng)
    num_requests = rng.choice([1, 1, 1, 2, 3]) if manner["how"] == "read" else 1
    requests = [make_body(rng, settings, 8 * number + index, SYSTEMS) for index in range(num_requests)]
    key = rng.choice(KEYS) if settings["has_keys"] else None
    if settings["has_keys"] and rng.random() < 0.04:
        key = "wrong"
    latency_s = rng.choice([0.0005, 0.0005, 0.01, 0.1])
    return {
        "kind": "call",
        "at_s": at_s,
        "number": number,
        "address": f"10.0.1.{rng.randint(1, 6)}",
        "key": key,
        "link": {
            "latency_s": latency_s,
            "bytes_per_s": rng.choice([1e8, 1e6, 2e4]),
            "segment_bytes": rng.choice([1460, 1460, 60_000, 40]),
            "window_bytes": rng.choice([65536, 4096, 512]),
        },
        "manner": manner,
        "requests": requests,
    }


def _make_manner(rng: Random) -> Action:
    how = rng.choices(
        ["read", "slow", "stall", "reset", "close", "half_close", "pipelined", "slow_body", "cut_body", "silent"],
        [60, 6, 2, 8, 6, 3, 4, 3, 2, 1],
    )[0]
    manner: Action = {"how": how}
    if how in ("reset", "close", "half_close", "pipelined", "cut_body", "stall"):
        manner["after_s"] = rng.choice([0.0, 0.001, 0.02, 0.1, 0.5, 2.0])
    if how == "slow":
        manner |= {"read_bytes": rng.choice([20, 500]), "pause_s": rng.choice([0.01, 0.1])}
    if how == "slow_body":
        manner |= {"pieces": rng.randint(2, 6), "pause_s": rng.choice([0.01, 0.5, 2.0])}
    return manner


def _make_faults(rng: Random, duration_s: float, rate: float) -> list[Action]:
    points: dict[str, tuple[float, list[float]]] = {  # point: how often in a minute, and its arguments
        "alloc_fail": (3.0, [1]),
        "step_raise": (0.4, [1]),
        "nan_row": (0.7, [1]),
        "detok_raise": (0.7, [1]),
        "slow_step_ms": (1.0, [300, 1500]),
        "step_hang": (0.3, [2.5, 6.0, 40.0]),
        "engine_exit": (0.08, [1]),
        "clock_jump": (0.5, [-86400.0, 3600.0]),
    }
    actions: list[Action] = []
    for point, (per_minute, arguments) in points.items():
        now_s = rng.expovariate(rate * per_minute / 60)
        while now_s < duration_s:
            actions.append(
                {"kind": "fault", "at_s": round(now_s, 6), "point": point, "argument": rng.choice(arguments)}
            )
            now_s += rng.expovariate(rate * per_minute / 60)
    now_s = rng.expovariate(0.2 / 60)
    while now_s < duration_s:
        actions.append({"kind": "stop", "at_s": round(now_s, 6), "again_after_s": rng.choice([None, None, 0.3])})
        now_s += 20 + rng.expovariate(0.2 / 60)
    return actions
