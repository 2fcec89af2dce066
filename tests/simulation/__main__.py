"""python -m tests.simulation --seeds 0:100 --minutes 1: simulate the plans of many seeds.

One line a seed, then a summary. A seed that fails is made smaller and its plan is written to a file, which --replay
runs again. The exit code is 1 if any has failed.
"""

import argparse
import json
import subprocess
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.simulation.plan import Plan, make_plan
from tests.simulation.shrink import shrink
from tests.simulation.simulation import Report, simulate

FAILURES = Path(__file__).parent / "failures"


def main() -> int:
    """Run the command line; return the exit code."""
    options = _parse_options()
    if options.replay is not None:
        report = simulate(Plan.load(options.replay))
        print(_format(report))
        return int(report.failure is not None)
    first, _, last = options.seeds.partition(":")
    duration_s = options.hours * 3600 if options.hours else options.minutes * 60
    reports = []
    for seed in range(int(first), int(last or int(first) + 1)):
        plan = make_plan(seed, duration_s, options.calls_per_s, options.fault_rate)
        report = simulate(plan)
        print(_format(report), flush=True)
        if report.failure is not None:
            print(f"  again: {_command(seed, options)}")
            _keep(plan, report, options)
        reports.append(report)
    summary = _summarize(reports)
    print(json.dumps(summary))
    if options.json is not None:
        options.json.write_text(json.dumps(summary | {"reports": [asdict(one) for one in reports]}, indent=1) + "\n")
    return int(bool(summary["failed_seeds"]))


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.simulation", description=(__doc__ or "").partition("\n\n")[2])
    parser.add_argument("--seeds", default="0:10", help="first:last, without the last (default: 0:10)")
    parser.add_argument("--minutes", type=float, default=1.0, help="virtual minutes of load of each seed (default: 1)")
    parser.add_argument("--hours", type=float, default=0.0, help="virtual hours instead")
    parser.add_argument("--calls-per-s", type=float, default=1.0, help="connections a virtual second (default: 1)")
    parser.add_argument("--fault-rate", type=float, default=1.0, help="1 is about eight faults a minute (default: 1)")
    parser.add_argument("--shrink-s", type=float, default=120.0, help="seconds for making a failing plan smaller")
    parser.add_argument("--save-to", type=Path, default=FAILURES, help="directory for plans that fail")
    parser.add_argument("--json", type=Path, help="file for the summary and the report of each seed")
    parser.add_argument("--replay", type=Path, help="run a plan that was saved, and nothing else")
    return parser.parse_args()


def _keep(plan: Plan, report: Report, options: argparse.Namespace) -> None:
    assert report.failure is not None
    small = shrink(plan, report.failure, options.shrink_s)
    options.save_to.mkdir(exist_ok=True)
    path = options.save_to / f"seed_{plan.seed}.json"
    small.save(path)
    print(
        f"  {len(small.actions)} of {len(plan.actions)} actions: python -m tests.simulation --replay {path}", flush=True
    )


def _command(seed: int, options: argparse.Namespace) -> str:
    length = f"--hours {options.hours:g}" if options.hours else f"--minutes {options.minutes:g}"
    rates = f"--calls-per-s {options.calls_per_s:g} --fault-rate {options.fault_rate:g}"
    return f"python -m tests.simulation --seeds {seed} {length} {rates} (at {_commit()})"


def _commit() -> str:
    result = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return result.stdout.strip() or "an unknown commit"


def _format(report: Report) -> str:
    verdict = "ok" if report.failure is None else f"FAILED {report.failure[:2000]}"
    statuses = " ".join(f"{status}:{number}" for status, number in report.statuses.items())
    return (
        f"seed {report.seed}: {report.virtual_s:.0f} s in {report.real_s:.1f} s, {report.num_requests} requests"
        f" ({statuses}), {report.num_steps} steps, {report.num_turns} turns, {report.num_audits} audits,"
        f" {report.num_lives} lives, {sum(report.faults.values())} faults, {report.digest}: {verdict}"
    )


def _summarize(reports: list[Report]) -> dict[str, Any]:
    statuses: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    for report in reports:
        statuses.update(report.statuses)
        faults.update(report.faults)
    names = ("virtual_s", "real_s", "num_requests", "num_steps", "num_turns", "num_audits", "num_lives")
    return {
        "seeds": len(reports),
        "failed_seeds": [report.seed for report in reports if report.failure is not None],
        **{name: round(sum(getattr(report, name) for report in reports), 1) for name in names},
        "statuses": dict(sorted(statuses.items())),
        "faults": dict(sorted(faults.items())),
    }


if __name__ == "__main__":
    sys.exit(main())
