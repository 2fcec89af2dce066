"""Faults on purpose: each does what it says, at the occurrence that it names, and only if faults are allowed."""

import time

import pytest

from jaxserve.config import EngineConfig
from jaxserve.engine.engine import Engine
from jaxserve.engine.fault_injection import CacheManagerWithFaults, RunnerWithFaults
from jaxserve.errors import BadConfig, GenerationFailed
from jaxserve.faults import Faults
from tests.engine.world import World, prompt


def run_with(*faults: str) -> World:
    """Run some requests on an engine that passes these points."""
    world = World(num_pages=12, max_num_seqs=3)
    engine = Engine(world.scheduler, RunnerWithFaults(world.runner, Faults(faults)), overlap=True)
    for index in range(5):
        world.add(prompt(9 + index), max_tokens=8)
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
            world.scheduler.audit()
        world.check()


def test_the_clock_jumps_and_only_once(monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    run_with("clock_jump@2:-60").check()
    assert time.time() == 940


def test_the_engine_s_thread_may_end_without_a_word():
    with pytest.raises(SystemExit):
        run_with("engine_exit@3")


@pytest.mark.parametrize("fault", ["step_raise", "step_raise@", "step_raise@x", "boil@1", "step_hang@1:long", ""])
def test_a_fault_that_cannot_be_read_is_refused_with_the_points(fault):
    with pytest.raises(BadConfig, match="points are step_raise"):
        Faults([fault])


def test_faults_need_to_be_allowed():
    with pytest.raises(BadConfig, match="allow_fault_injection"):
        EngineConfig(fault=("step_raise@1",))
    assert Faults.from_config(EngineConfig(allow_fault_injection=True)) is None
