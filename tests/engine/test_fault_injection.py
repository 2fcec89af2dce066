"""Faults on purpose: each does what it says, at the occurrence that it names, and only if faults are allowed."""

import errno
import os
import time
from collections.abc import Iterator

import pytest

from jaxserve.config import EngineConfig
from jaxserve.engine import fault_injection
from jaxserve.engine.fault_injection import CacheManagerWithFaults, EngineWithFaults, RunnerWithFaults, limit_disk
from jaxserve.errors import BadConfig, GenerationFailed
from jaxserve.faults import Faults
from tests.engine.world import World, prompt


def run_with(*faults: str) -> World:
    """Run some requests, labelled a to e, on an engine that passes these points."""
    world, injected = World(num_pages=12, max_num_seqs=3), Faults(faults)
    runner = RunnerWithFaults(world.runner, injected)
    engine = EngineWithFaults(world.scheduler, runner, overlap=True, faults=injected)
    world.scheduler.add, add = lambda request: None, world.scheduler.add
    requests = [world.add(prompt(9 + index), max_tokens=8, label="abcde"[index]) for index in range(5)]
    world.scheduler.add = add
    for request in requests:
        engine.add(request)
    while engine.has_work:
        for output in engine.step():
            world.outputs[output.request_id].append(output)
        engine.audit()
    return world


@pytest.mark.parametrize("faults", [["step_raise@1"], ["step_raise@4"], ["step_raise@2", "step_raise@9"]])
def test_a_step_that_raises_costs_nobody_a_token(faults):
    world = run_with(*faults)
    world.check()
    assert world.stats.snapshot(num_running=0, num_waiting=0).counters["engine_rebuilds"] == len(faults)


def test_a_row_that_is_not_finite_ends_alone():
    world = run_with("nan_row@3")
    failed = [request for request in world.requests.values() if world.reason(request) == "error"]
    assert [type(world.outputs[request.request_id][-1].error) for request in failed] == [GenerationFailed]
    world.check(*[request for request in world.requests.values() if request not in failed])


def test_an_allocation_that_fails_costs_nobody_a_token():
    for number in range(1, 9):
        world = World(num_pages=12, max_num_seqs=3)
        faulty = CacheManagerWithFaults(world.cache.sizes, page_size=4, faults=Faults([f"alloc_fail@{number}"]))
        world.scheduler._requests.cache._allocate = faulty._allocate
        faulty.pools = world.cache.pools
        for index in range(5):
            world.add(prompt(9 + index), max_tokens=8)
        for _ in range(200):
            world.step()
            world.audit()
        world.check()


def test_the_clock_jumps_and_only_once(monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    run_with("clock_jump@2:-60").check()
    assert time.time() == 940


def test_the_engine_s_thread_may_end_without_a_word():
    with pytest.raises(SystemExit):
        run_with("engine_exit@3")


@pytest.mark.parametrize("argument, seconds", [("", 1.0), (":250", 0.25)])
def test_a_step_may_take_longer_than_it_needs(argument, seconds, monkeypatch):
    slept: list[float] = []
    monkeypatch.setattr(fault_injection.time, "sleep", slept.append)
    run_with(f"slow_step_ms@2{argument}", f"slow_step_ms@5{argument}").check()
    assert slept == [seconds, seconds]


def failed_labels(world: World) -> set[str]:
    """Return the labels of the requests that have failed; all others have had what they get alone."""
    failed = [request for request in world.requests.values() if world.reason(request) == "error"]
    world.check(*[request for request in world.requests.values() if request not in failed])
    return {request.label for request in failed}


@pytest.mark.parametrize("label", "abcde")
def test_a_fault_may_name_a_request_which_ends_alone(label):
    assert failed_labels(run_with(f"nan_row@{label}")) == {label}
    assert failed_labels(run_with(f"step_raise@{label}")) == {label}


def test_a_request_that_is_not_there_has_no_fault():
    run_with("nan_row@f", "step_raise@ab", "step_hang@f").check()


def test_a_slow_step_may_be_that_of_a_request(monkeypatch):
    slept: list[float] = []
    monkeypatch.setattr(fault_injection.time, "sleep", slept.append)
    run_with("slow_step_ms@c:3").check()
    assert set(slept) == {0.003} and len(slept) >= 8


@pytest.fixture
def limited_disk(monkeypatch) -> Iterator[None]:
    """Let limit_disk change the process for the duration of a test."""
    monkeypatch.setattr(os, "replace", os.replace)
    return iter(())


@pytest.mark.parametrize(
    "fault, kept", [("disk_full@2:1", [0, 2, 3]), ("disk_full@2:2", [0, 3]), ("disk_full@3", [0, 1])]
)
def test_a_disk_is_full_from_some_file_on(fault, kept, limited_disk, tmp_path):
    limit_disk(Faults([fault]))
    for number in range(4):
        (tmp_path / "new").touch()
        try:
            os.replace(tmp_path / "new", tmp_path / str(number))
        except OSError as error:
            assert error.errno == errno.ENOSPC
    assert [number for number in range(4) if (tmp_path / str(number)).exists()] == kept


@pytest.mark.parametrize(
    "fault", ["step_raise", "step_raise@", "step_raise@a b", "step_raise@:1", "boil@1", "step_hang@1:long", ""]
)
def test_a_fault_that_cannot_be_read_is_refused_with_the_points(fault):
    with pytest.raises(BadConfig, match="points are step_raise"):
        Faults([fault])


@pytest.mark.parametrize("point", ["alloc_fail", "helper_kill", "disk_full"])
def test_a_point_that_knows_no_request_names_none(point):
    with pytest.raises(BadConfig, match="names a request; those that may are step_raise"):
        Faults([f"{point}@a"])


def test_faults_need_to_be_allowed():
    with pytest.raises(BadConfig, match="allow_fault_injection"):
        EngineConfig(fault=("step_raise@1",))
    assert Faults.from_config(EngineConfig(allow_fault_injection=True)) is None
