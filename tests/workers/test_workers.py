"""Workers run functions within limits; a task that breaks one harms neither the other workers nor the next task."""

import os
import signal
import threading

import pytest

from jaxserve.errors import EngineStopped, GenerationFailed, InvalidParameter
from jaxserve.workers.pool import MIB, TaskKilled, TaskLimits, WorkerPool

PATIENT = TaskLimits(30.0)
SHORT = TaskLimits(0.5)


@pytest.fixture(scope="module")
def pool():
    pool = WorkerPool()
    yield pool
    pool.close()


def run(pool, task, data=None, limits=PATIENT):
    return pool.run(f"tests.workers.tasks:{task}", data, limits)


@pytest.mark.parametrize("data", [3, "é\ud800", [1, None, 2.5], "x" * 1_000_000])
def test_a_task_is_a_function_of_json(pool, data):
    assert run(pool, "double", data) == data * 2


def test_workers_are_other_processes_that_start_when_needed(pool):
    assert WorkerPool()._alive == set()
    first = run(pool, "pid")
    assert first not in (os.getpid(), os.getppid())
    assert run(pool, "pid") == first


def test_a_worker_has_no_array_library_no_model_and_no_secret(pool, monkeypatch):
    monkeypatch.setenv("JAXSERVE_API_KEY", "secret")
    fresh = WorkerPool(("jaxserve.text.request_template",))
    try:
        rooms = {name.split(".")[0] for name in run(fresh, "loaded")} | set(run(fresh, "loaded"))
        assert rooms.isdisjoint({"jax", "jaxlib", "flax", "numpy", "torch", "transformers", "tokenizers", "server"})
        assert rooms.isdisjoint({"jaxserve.engine", "jaxserve.engine_client", "jaxserve.models"})
        assert "jaxserve.text.request_template" in rooms
        assert "secret" not in run(fresh, "environment").values()
    finally:
        fresh.close()


def test_each_task_has_its_own_limits(pool):
    for megabytes in (512, 1024, 400):
        memory, cpu_s = run(pool, "limits", limits=TaskLimits(2.0, megabytes * MIB))
        assert (memory, 3 <= cpu_s < 30) == (megabytes * MIB, True)


def test_a_request_error_comes_back_as_invalid_parameter(pool):
    with pytest.raises(InvalidParameter, match="no good") as caught:
        run(pool, "refuse", {"message": "no good", "param": "field"})
    assert caught.value.param == "field"


def test_another_failure_reports_only_the_name_of_the_exception(pool):
    with pytest.raises(GenerationFailed, match="ZeroDivisionError"):
        run(pool, "fail")


@pytest.mark.parametrize(
    ("task", "why"), [("burn", "longer than 0.5 s"), ("loop", "longer than 0.5 s"), ("leave", "ended the process")]
)
def test_a_task_that_breaks_its_worker_is_killed_and_the_worker_replaced(pool, task, why):
    before, old = pool.num_restarts, run(pool, "pid")
    with pytest.raises(TaskKilled, match=why):
        run(pool, task, limits=SHORT)
    assert pool.num_restarts == before + 1
    assert run(pool, "pid") != old
    with pytest.raises(ProcessLookupError):
        os.kill(old, 0)


def test_more_memory_than_allowed_is_not_given(pool):
    with pytest.raises(GenerationFailed, match="MemoryError"):
        run(pool, "allocate", 600 * MIB)
    assert run(pool, "allocate", 100 * MIB) == 100 * MIB


def test_a_worker_that_has_grown_is_replaced(pool):
    before, old = pool.num_restarts, run(pool, "pid")
    assert run(pool, "allocate", 300 * MIB) == 300 * MIB  # given back at its end
    assert run(pool, "pid") == old
    assert run(pool, "keep", 300 * MIB) == 1
    assert (run(pool, "pid") != old, pool.num_restarts) == (True, before)


def test_the_memory_of_the_parent_does_not_count(pool):
    ballast = b"x" * (600 * MIB)
    fresh = WorkerPool()
    try:
        assert run(fresh, "pid") == run(fresh, "pid")
    finally:
        fresh.close()
    assert len(ballast) == 600 * MIB


def test_a_worker_that_ended_while_idle_is_replaced(pool):
    old = run(pool, "pid")
    os.kill(old, signal.SIGKILL)
    for worker in pool._alive:
        if worker.pid == old:
            worker._process.wait()
    assert run(pool, "pid") != old


def test_a_busy_worker_leaves_the_other_free():
    pool, ended = WorkerPool(), threading.Event()
    try:

        def burn() -> None:
            with pytest.raises(EngineStopped):
                run(pool, "loop", limits=TaskLimits(60.0))
            ended.set()

        busy = threading.Thread(target=burn)
        busy.start()
        assert [run(pool, "double", n) for n in range(3)] == [0, 2, 4]
        assert not ended.is_set()
    finally:
        pool.close()
    busy.join(30)
    assert ended.is_set()


def test_a_closed_pool_refuses():
    pool = WorkerPool()
    run(pool, "pid")
    pool.close()
    pool.close()
    with pytest.raises(EngineStopped):
        run(pool, "pid")
