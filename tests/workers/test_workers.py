"""Workers run functions within limits; a task that breaks one harms neither the other workers nor the next task."""

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from jaxserve.errors import EngineStopped, GenerationFailed, InvalidParameter, Overloaded
from jaxserve.faults import Faults
from jaxserve.workers import process
from jaxserve.workers.confine import FILES, NO_NEW_PRIVILEGES, SYSTEM_CALLS, leave_directory
from jaxserve.workers.pool import BROKEN_AFTER_S, MIB, TaskFailed, TaskLimits, WorkerPool
from jaxserve.workers.process import TaskKilled, WorkerProcess

REPO = Path(__file__).resolve().parents[2]
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


def test_a_worker_is_set_up_once_and_so_is_the_one_that_replaces_it():
    pool = WorkerPool(num_workers=1, setup=("tests.workers.tasks:set_up", "é\x00"))
    try:
        run(pool, "with_kept", 1)
        (worker,) = pool._alive
        assert run(pool, "with_kept", 2) == [worker.pid, "é\x00", 1, 2]
        worker.kill()
        pid, *kept = run(pool, "with_kept", 3)
        assert pid != worker.pid and kept == ["é\x00", 3]
    finally:
        pool.close()


def test_a_worker_that_cannot_be_set_up_is_no_worker():
    pool = WorkerPool(num_workers=1, setup=("tests.workers.tasks:nothing", None))
    try:
        for _ in range(2):
            with pytest.raises(GenerationFailed, match="prepared"):
                run(pool, "double", 1)
    finally:
        pool.close()


@pytest.mark.parametrize("num_kills", [1, 2])
def test_a_task_whose_worker_is_killed_before_it_is_ready_gets_one_more(monkeypatch, num_kills):
    prepare, killed = WorkerProcess.prepare, set()

    def kill_first(worker: WorkerProcess) -> None:
        if len(killed) < num_kills:
            killed.add(worker.pid)
            worker.kill()
        prepare(worker)

    monkeypatch.setattr(WorkerProcess, "prepare", kill_first)
    monkeypatch.setattr(WorkerPool, "_replace", lambda pool, worker: pool._start())  # prepared by the task alone
    pool = WorkerPool(num_workers=1)
    try:
        if num_kills == 2:
            with pytest.raises(GenerationFailed, match="lost"):
                run(pool, "double", 1)
        assert run(pool, "double", 1) == 2
    finally:
        pool.close()


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


def test_a_worker_killed_on_purpose_fails_its_task_and_is_replaced():
    pool = WorkerPool(faults=Faults(["helper_kill@2"]))
    try:
        assert run(pool, "double", 1) == 2
        with pytest.raises(GenerationFailed, match="lost: it was ended by SIGKILL"):
            run(pool, "double", 1)
        assert (run(pool, "double", 1), pool.num_restarts) == (2, 1)
    finally:
        pool.close()


@pytest.fixture(scope="module")
def given(pool):
    """The protections that this system gives."""
    run(pool, "pid")
    return next(iter(pool._alive)).protections


@pytest.mark.parametrize(
    ("way", "protection", "outcome"),
    [
        ("connect", SYSTEM_CALLS, "PermissionError"),
        ("unix socket", SYSTEM_CALLS, "PermissionError"),
        ("program", SYSTEM_CALLS, "PermissionError"),
        ("replace itself", SYSTEM_CALLS, "PermissionError"),
        ("fork", SYSTEM_CALLS, "PermissionError"),
        ("signal", SYSTEM_CALLS, "PermissionError"),
        ("signal to a thread", SYSTEM_CALLS, "PermissionError"),
        ("limits of the parent", SYSTEM_CALLS, "PermissionError"),
        ("processors of the parent", SYSTEM_CALLS, "PermissionError"),
        ("priority of the parent", SYSTEM_CALLS, "PermissionError"),
        ("memory of the parent", FILES, "PermissionError"),
        ("environment of the parent", FILES, "PermissionError"),
        ("a file", FILES, "PermissionError"),
        ("a new file", FILES, "PermissionError"),
        ("a file of here", None, "FileNotFoundError"),
        ("descriptors", None, "OSError"),
        ("limits", None, "all limits are hard"),
    ],
)
def test_a_worker_reaches_nothing_but_its_socket(pool, given, way, protection, outcome):
    if protection is not None and protection not in given:
        pytest.skip(f"this system gives no {protection}")
    expected = {outcome, "PermissionError"} if way == "a file of here" else {outcome}
    assert run(pool, "escape", way) in expected


@pytest.mark.skipif(sys.platform != "linux", reason="protections of Linux")
def test_a_worker_can_have_threads_and_no_new_privileges(pool, given):
    assert NO_NEW_PRIVILEGES in given
    assert run(pool, "privileges") == 1
    assert run(pool, "thread") == 1


def test_a_worker_starts_where_no_directory_can_be_written(tmp_path, monkeypatch):
    def refuse() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    leave_directory()
    assert os.getcwd() == "/"


def test_modules_in_the_current_directory_are_not_imported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", str(tmp_path), *sys.path])
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    for name in ("psutil", "json", "planted"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(1)")
    fresh = WorkerPool()
    try:
        assert not run(fresh, "import_by_name", "psutil").startswith(str(tmp_path))
        with pytest.raises(TaskFailed, match="ModuleNotFoundError"):
            run(fresh, "import_by_name", "planted")
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
    with pytest.raises(TaskFailed, match="ZeroDivisionError"):
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
    with pytest.raises(TaskFailed, match="MemoryError"):
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


@pytest.mark.skipif(sys.platform != "linux", reason="a signal of Linux")
def test_a_worker_does_not_outlive_a_parent_that_is_killed():
    program = """
import os, signal, threading
from jaxserve.workers.pool import TaskLimits, WorkerPool
pool = WorkerPool()
print(pool.run("tests.workers.tasks:pid", None, TaskLimits(30.0)), flush=True)
threading.Timer(0, pool.run, ("tests.workers.tasks:loop", None, TaskLimits(600.0))).start()
os.kill(os.getpid(), signal.SIGKILL)
"""
    ended = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=REPO)
    assert ended.returncode == -signal.SIGKILL
    psutil.wait_procs([psutil.Process(pid) for pid in map(int, ended.stdout.split()) if psutil.pid_exists(pid)], 30)
    assert not psutil.pid_exists(int(ended.stdout))


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


@pytest.fixture
def failing_starts(monkeypatch):
    """Let the next so many starts of a process fail, as when no memory, descriptor or process is left."""
    start, left = subprocess.Popen, [0]

    def popen(*args, **options):
        if left[0] > 0:
            left[0] -= 1
            raise OSError(errno.EAGAIN, "no process is left")
        return start(*args, **options)

    monkeypatch.setattr(process.subprocess, "Popen", popen)
    return lambda number: left.__setitem__(0, number)


@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_worker_that_cannot_be_started_costs_its_task_a_503_and_the_next_one_tries_again(failing_starts, is_replaced):
    pool = WorkerPool(num_workers=1)
    try:
        if is_replaced:
            run(pool, "double", 1)
            next(iter(pool._alive)).kill()
        for number in (1, 2, 3):
            failing_starts(number)
            for _ in range(number):
                with pytest.raises(Overloaded, match="try again later"):
                    run(pool, "double", 1)
            assert run(pool, "double", 2) == 4
            next(iter(pool._alive)).kill()
    finally:
        pool.close()


def test_a_result_is_not_lost_with_the_worker_that_cannot_be_replaced(failing_starts):
    pool = WorkerPool(num_workers=1)
    try:
        run(pool, "double", 1)
        failing_starts(1)
        assert run(pool, "keep", 200 * MIB, TaskLimits(30.0, 350 * MIB)) == 1
        assert run(pool, "double", 2) == 4
    finally:
        pool.close()


def test_workers_that_cannot_be_started_for_a_minute_are_broken_until_one_can(failing_starts):
    now = 0.0
    pool = WorkerPool(num_workers=1, clock=lambda: now)
    try:
        failing_starts(100)
        for now in (0.0, 30.0, BROKEN_AFTER_S - 1):  # noqa: B007 (the clock reads it)
            with pytest.raises(Overloaded):
                run(pool, "double", 1)
            assert not pool.is_broken
        now = BROKEN_AFTER_S
        with pytest.raises(Overloaded):
            run(pool, "double", 1)
        assert pool.is_broken
        failing_starts(0)
        assert run(pool, "double", 1) == 2
        assert not pool.is_broken
    finally:
        pool.close()


def test_an_interpreter_that_ends_before_it_is_ready_is_a_failed_start(monkeypatch):
    now = 0.0
    pool = WorkerPool(num_workers=1, clock=lambda: now)
    monkeypatch.setattr(process, "PROGRAM", "raise SystemExit")
    try:
        for now in (0.0, BROKEN_AFTER_S):  # noqa: B007 (the clock reads it)
            with pytest.raises(GenerationFailed, match="prepared"):
                run(pool, "double", 1)
        assert pool.is_broken
    finally:
        pool.close()


def test_a_task_that_ends_its_worker_breaks_nothing():
    now = 0.0
    pool = WorkerPool(num_workers=1, clock=lambda: now)
    try:
        for now in (0.0, BROKEN_AFTER_S, 2 * BROKEN_AFTER_S):  # noqa: B007 (the clock reads it)
            with pytest.raises(TaskKilled):
                run(pool, "leave")
        assert not pool.is_broken
    finally:
        pool.close()
