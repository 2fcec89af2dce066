"""Tasks of callers are done in turn, each once, unless they were cancelled before they began."""

import threading
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxserve import fair_threads
from jaxserve.errors import Overloaded
from jaxserve.fair_threads import FairThreads


def run_behind_a_task(callers, cancelled=()):
    """The callers in the order in which their tasks are done by one thread, which begins when all are queued."""
    threads, gate, done = FairThreads(1, "test"), threading.Event(), []
    first = threads.submit(gate.wait, "first")
    tasks = [partial(done.append, number) for number in range(len(callers))]
    futures = [threads.submit(task, caller) for task, caller in zip(tasks, callers, strict=True)]
    for number in cancelled:
        futures[number].cancel()
    gate.set()
    assert first.result()
    for number, future in enumerate(futures):
        if number not in cancelled:
            future.result()
    threads.shutdown()
    return done


@given(st.lists(st.sampled_from("abc"), max_size=20), st.data())
def test_callers_take_turns_and_each_one_s_order_is_kept(callers, data):
    cancelled = set(data.draw(st.lists(st.integers(0, len(callers) - 1), max_size=3))) if callers else set()
    done = run_behind_a_task(callers, cancelled)
    assert sorted(done) == [number for number in range(len(callers)) if number not in cancelled]
    for caller in "abc":
        own = [number for number in done if callers[number] == caller]
        assert own == sorted(own)


def test_one_task_waits_for_one_of_each_other_caller_only():
    done = run_behind_a_task(["many"] * 50 + ["one"])
    assert done.index(50) == 1


def test_errors_go_to_who_waits():
    threads = FairThreads(2, "test")
    with pytest.raises(ZeroDivisionError):
        threads.submit(lambda: 1 // 0).result()
    assert threads.submit(lambda: 7).result() == 7
    threads.shutdown()


def test_a_caller_s_waiting_tasks_are_limited_and_others_are_not_refused(monkeypatch):
    monkeypatch.setattr(fair_threads, "MAX_WAITING_PER_CALLER", 2)
    threads, gate = FairThreads(1, "test"), threading.Event()
    begun = threading.Event()
    threads.submit(lambda: (begun.set(), gate.wait()), "greedy")
    begun.wait()
    for _ in range(2):
        threads.submit(int, "greedy")
    with pytest.raises(Overloaded, match="2 of your requests"):
        threads.submit(int, "greedy")
    last = threads.submit(int, "modest")
    gate.set()
    assert last.result() == 0
    threads.shutdown()


def test_a_cancelled_task_leaves_its_place_to_another(monkeypatch):
    monkeypatch.setattr(fair_threads, "MAX_WAITING_PER_CALLER", 2)
    threads, gate, begun = FairThreads(1, "test"), threading.Event(), threading.Event()
    threads.submit(lambda: (begun.set(), gate.wait()), "one")
    begun.wait()
    first, second = threads.submit(int, "one"), threads.submit(int, "one")
    assert first.cancel()
    third = threads.submit(int, "one")
    with pytest.raises(Overloaded):
        threads.submit(int, "one")
    gate.set()
    assert (second.result(), third.result()) == (0, 0)
    threads.shutdown()


def test_after_the_end_nothing_waits_for_ever():
    threads, gate, begun = FairThreads(1, "test"), threading.Event(), threading.Event()
    running = threads.submit(lambda: (begun.set(), gate.wait())[1])
    begun.wait()
    waiting = threads.submit(int)
    threads.shutdown()
    assert waiting.cancelled()
    gate.set()
    assert running.result()
    with pytest.raises(RuntimeError):
        threads.submit(int)
