"""Round after round, everybody's turn once in each; and the circumstances in which that happened."""

import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from jaxserve.processor import has_feature, read_processor
from scripts.benchmarks.client import Failed
from scripts.benchmarks.peers.contenders import REPO, Contender
from scripts.benchmarks.peers.measure import Loads, Prompts, second_opinion, turn

PACKAGES = ("jaxserve", "jax", "flax", "numpy", "torch", "transformers")
VERSION_WITHIN_S = 120


def race(
    everybody: Sequence[Contender],
    loads: Loads,
    rounds: int,
    *,
    model: str,
    logs: Path,
    results: Path,
    within_s: float = math.inf,
) -> dict[str, Any]:
    """Measure all contenders in turns. The record is written to `results` after every turn, so that nothing gets lost.

    Who fails once is not asked again, and stands under not_run with the reason. logs: a directory for what the
    programs print. within_s: no further round begins if it would end later than that, taking as long as the longest.
    """
    found: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "command": " ".join(["scripts/bench", *sys.argv[1:]]),
        "model": model,
        "machine": machine(),
        "versions": versions(everybody),
        "loads": asdict(loads),
        "not_run": {one.name: one.missing for one in everybody if one.missing},
        "turns": [],
        "second_opinions": [],
    }
    prompts, began, longest_s = Prompts(loads), time.perf_counter(), 0.0
    for number in range(1, rounds + 1):
        round_began = time.perf_counter()
        if round_began - began + longest_s > within_s:
            say(f"no round {number}: it would end after more than {within_s / 60:.0f} minutes")
            break
        for contender in everybody:
            if contender.name not in found["not_run"]:
                _take(contender, number, prompts, logs, found)
                _keep(found, results)
        longest_s = max(longest_s, time.perf_counter() - round_began)
    for contender in everybody if loads.has_long_prompts else ():
        if contender.bench_command and contender.name not in found["not_run"]:
            _ask_again(contender, loads, found)
    _keep(found, results)
    return found


def _keep(found: dict[str, Any], results: Path) -> None:
    """Without the name of whoever ran it: a home directory becomes ~."""
    text = json.dumps(found, indent=1).replace(str(Path.home()), "~")
    results.write_text(text + "\n", encoding="utf-8")


def _take(contender: Contender, number: int, prompts: Prompts, logs: Path, found: dict[str, Any]) -> None:
    began, load_before = time.perf_counter(), os.getloadavg()[0]
    try:
        result = turn(contender, prompts, logs)
    except Failed as error:
        found["not_run"][contender.name] = f"round {number}: {error}"
        say(f"{contender.name} not run: {error}")
        return
    took_s = time.perf_counter() - began
    about = {"contender": contender.name, "round": number, "took_s": took_s, "load_average_before": load_before}
    found["turns"].append(about | result)
    rates = ", ".join(f"{one['output_throughput']:.0f} tok/s at {one['max_concurrency']}" for one in result["serving"])
    say(f"round {number}, {contender.name}: {rates} ({took_s:.0f} s)")


def _ask_again(contender: Contender, loads: Loads, found: dict[str, Any]) -> None:
    try:
        found["second_opinions"].append(second_opinion(contender, loads))
    except Failed as error:
        found["not_run"][f"second opinion on {contender.name}"] = str(error)


def say(words: str) -> None:
    print(f"bench peers: {words}", file=sys.stderr, flush=True)


VECTORS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile")


def machine() -> dict[str, Any]:
    """Describe this machine for readers of the results."""
    return {
        "cpu": read_processor()[0],
        "cores": os.cpu_count(),
        "vectors": [name for name in VECTORS if has_feature(name)],
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def versions(everybody: Sequence[Contender]) -> dict[str, str]:
    """Collect the versions of the packages here and of the other servers."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    commit = _says("git", "-C", str(REPO), "describe", "--always", "--dirty")
    found["jaxserve"] += f", commit {commit}"
    for one in everybody:
        if one.version_command and not one.missing:
            found[one.name] = _says(*one.version_command)
    return found


def _says(*command: str) -> str:
    """The first line that says something, wherever the program writes it."""
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=VERSION_WITHIN_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"unknown: {error}"
    return next((line.strip() for line in (ended.stdout + ended.stderr).splitlines() if line.strip()), "unknown")
