"""The table of scripts/bench attacks: what hostile requests cost everybody else."""

import json
from pathlib import Path

from scripts.benchmarks.attacks import run_attacks
from scripts.reliability_checks.outcome import Outcome
from scripts.reliability_checks.served import SMALL, Start

MAX_LIVE_MS = 250


def run(share: float, model: Path, folder: Path, seed: int) -> Outcome:
    """Run every attack once, whatever the share is."""
    outcome = Outcome("attacks")
    vocab_size = json.loads((model / "config.json").read_text())["vocab_size"]
    with Start(model, folder, SMALL) as served:
        served.wait_ready()
        for cost in run_attacks(served.url, served.process.pid, vocab_size):
            outcome.figures[cost.name] = f"{cost.status}, /live {cost.max_live_ms} ms, +{cost.rss_mib} MiB"
            outcome.expect(cost.same_tokens, f"other tokens after {cost.name!r}")
            outcome.expect(cost.max_live_ms < MAX_LIVE_MS, f"/live took {cost.max_live_ms} ms during {cost.name!r}")
    return outcome
