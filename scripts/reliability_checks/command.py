"""Run the long checks of reliability: scripts/check_reliability [CHECK ...] [--share 0.01] [--json FILE]"""

import argparse
import json
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

from scripts.reliability_checks.outcome import Outcome, show

CHECKS = {  # name → its module, which has run(share, model, folder, seed) → Outcome
    "hostile-inputs": "hostile_inputs",
    "disconnects": "disconnects",
    "bad-files": "bad_files",
    "kills": "kills",
    "step-faults": "step_faults",
    "overload": "overload",
    "streams": "streams",
    "soak": "soak",
    "attacks": "attack_table",
    "state-machine": "state_machine",
    "simulation": "simulation",
}


def main(words: Sequence[str]) -> int:
    """Run the checks that are named, all without a name; return 1 if one found a fault."""
    from tests.models.tiny import write

    parser = argparse.ArgumentParser(prog="check_reliability", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checks", nargs="*", metavar="CHECK", help=f"one of {', '.join(CHECKS)}; none: all of them")
    parser.add_argument("--share", type=float, default=1.0, help="share of the counts and times; 0.01 is a first try")
    parser.add_argument("--seed", type=int, default=0, help="of all that is random")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    arguments = parser.parse_args(words)
    if unknown := [name for name in arguments.checks if name not in CHECKS]:
        parser.error(f"there is no check {unknown[0]!r}; there are {', '.join(CHECKS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # by an exception, so that the server ends, too
    outcomes: list[Outcome] = []
    for name in arguments.checks or CHECKS:
        with TemporaryDirectory() as directory:
            folder = Path(directory)
            (folder / "model").mkdir()
            model = Path(write(folder / "model", "llama", seed=3))
            print(time.strftime("%H:%M:%S"), name, flush=True)
            check = import_module(f"scripts.reliability_checks.{CHECKS[name]}")
            outcomes.append(check.run(arguments.share, model, folder, arguments.seed))
            show(outcomes[-1:])
        if arguments.json:  # after each, so that a run that is cut keeps what it has
            arguments.json.write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=1) + "\n")
    return 1 if any(outcome.num_faults for outcome in outcomes) else 0
