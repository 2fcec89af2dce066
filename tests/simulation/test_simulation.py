"""The server in a simulated world: whatever comes, what is promised holds. See simulation.py and README, "Tests".

`python -m tests.simulation --seeds 0:1000 --minutes 2` does the same for many seeds.
"""

from itertools import chain
from pathlib import Path

import pytest

from tests.simulation.mutants import MUTANTS, Mutant, output_that_is_over_is_dropped_without_an_error
from tests.simulation.plan import Plan, make_plan
from tests.simulation.shrink import kind_of, shrink
from tests.simulation.simulation import Report, simulate

FAILURES = sorted((Path(__file__).parent / "failures").glob("*.json"))
SEEDS_PER_MUTANT = 20


def assert_fine(report: Report) -> None:
    assert report.failure is None, report
    assert report.num_steps and report.num_audits and report.statuses["200"]


@pytest.mark.parametrize("seed", range(4))
def test_a_minute_of_much_load_and_many_faults(seed):
    assert_fine(simulate(make_plan(seed, 60, calls_per_s=1.5, fault_rate=3)))


def test_an_hour_of_load():
    report = simulate(make_plan(2026, 3600, calls_per_s=0.3))
    print(report)
    assert_fine(report)
    assert report.virtual_s > 3600


def test_the_same_seed_is_the_same_life():
    plan = make_plan(7, 30, calls_per_s=2, fault_rate=4)
    first, second = simulate(plan), simulate(plan)
    assert_fine(first)
    assert (first.digest, first.num_turns, first.statuses) == (second.digest, second.num_turns, second.statuses)
    assert first.digest != simulate(make_plan(8, 30)).digest


@pytest.mark.parametrize("path", FAILURES, ids=lambda path: path.stem)
def test_what_has_failed_once_does_not_fail_again(path):
    assert simulate(Plan.load(path)).failure is None


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_bug_is_found(mutant: Mutant, monkeypatch):
    mutant(monkeypatch)
    plans = (make_plan(seed, 15, calls_per_s=2, fault_rate=6) for seed in range(SEEDS_PER_MUTANT))
    assert any(simulate(plan).failure for plan in chain(map(Plan.load, FAILURES), plans))


def test_a_failing_plan_becomes_small_and_still_fails(monkeypatch, tmp_path):
    output_that_is_over_is_dropped_without_an_error(monkeypatch)
    plan = Plan.load(next(path for path in FAILURES if path.stem == "finished_output_is_dropped"))
    others = make_plan(3, 5, calls_per_s=3).actions
    failing = plan.keep([*plan.actions, *({**one, "number": one.get("number", 0) + 100} for one in others)])
    failure = simulate(failing).failure
    assert failure is not None
    small = shrink(failing, failure, limit_s=60)
    small.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == small
    assert len(small.actions) <= len(plan.actions)
    assert kind_of(simulate(small).failure or "") == kind_of(failure)
