"""The long profile of tests/engine/test_scheduler_life.py: 2,000 lives of 100 steps of scheduler and cache."""

import os
import subprocess
import sys
import time
from pathlib import Path

from scripts.reliability_checks.outcome import Outcome

REPO = Path(__file__).parents[2]
TEST = "tests/engine/test_scheduler_life.py"


def run(share: float, model: Path, folder: Path, seed: int) -> Outcome:
    """Run all of the long profile, whatever the share is."""
    outcome, started = Outcome("state machine"), time.monotonic()
    command = [sys.executable, "-m", "pytest", "-q", "-x", TEST, "--hypothesis-seed", str(seed), "--timeout", "0"]
    done = subprocess.run(
        command, cwd=REPO, env={**os.environ, "LONG_TESTS": "1"}, stdout=subprocess.PIPE, text=True, check=False
    )
    outcome.expect(done.returncode == 0, done.stdout[-3000:])
    outcome.figures |= {
        "seed": seed,
        "last line": done.stdout.strip().rpartition("\n")[2],
        "seconds": round(time.monotonic() - started),
    }
    return outcome
