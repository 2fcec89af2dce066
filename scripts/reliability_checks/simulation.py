"""Many seeds of tests/simulation: the whole server on a virtual clock and network."""

import json
import subprocess
import sys
from pathlib import Path

from scripts.reliability_checks.outcome import Outcome

NUM_SEEDS = 1000
REPO = Path(__file__).parents[2]


def run(share: float, model: Path, folder: Path, seed: int) -> Outcome:
    """Simulate NUM_SEEDS × share seeds, from `seed` on, each for its minute of virtual load."""
    outcome, figures = Outcome("simulation"), folder / "simulation.json"
    seeds = f"{seed}:{seed + max(1, round(NUM_SEEDS * share))}"
    command = [sys.executable, "-m", "tests.simulation", "--seeds", seeds, "--json", str(figures)]
    done = subprocess.run(command, cwd=REPO, stdout=subprocess.PIPE, text=True, check=False)
    if not figures.is_file():
        outcome.expect(False, f"it ended with {done.returncode}: {done.stdout[-500:]}")
        return outcome
    summary = json.loads(figures.read_text())
    reports = summary.pop("reports")
    for report in reports:
        outcome.expect(report["failure"] is None, f"seed {report['seed']}: {str(report['failure'])[:500]}")
    outcome.figures |= summary
    return outcome
