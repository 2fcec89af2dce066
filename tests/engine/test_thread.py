"""The engine's thread: what it is told it does, and its death is told to everybody."""

import queue
import threading
from dataclasses import replace

import pytest

from jaxserve.cache.groups import GroupSize
from jaxserve.cache.manager import CacheManager
from jaxserve.cache.pool import CacheInvariantError, PagePool
from jaxserve.engine.engine import Engine
from jaxserve.engine.fault_search import MAX_SEARCHES
from jaxserve.engine.request import Request
from jaxserve.engine.scheduler import Scheduler
from jaxserve.engine.stats import Stats
from jaxserve.engine.thread import AddRequests, EngineThread, FinishRequests, Order, _Stop
from jaxserve.errors import EngineStopped, GenerationFailed
from jaxserve.outputs import FinishReason
from jaxserve.sampling_params import SamplingParams
from tests.fake_runner import NUM_TOP, VOCAB, FakeRunner

WAIT_S = 20


class Brittle(FakeRunner):
    """Breaks at the n-th step, for good: what it held cannot be made anew, unless `can_reset`.

    steps   How many more steps may begin before it waits for `release`; None: all.
    """

    breaks_at = 10**9
    can_reset = False
    steps: threading.Semaphore | None = None

    def reset(self):
        if not self.can_reset:
            raise RuntimeError("the device stays down")
        super().reset()

    def forward(self, plan):
        if self.steps is not None:
            self.steps.acquire()
        self.breaks_at -= 1
        if self.breaks_at < 0:
            raise RuntimeError("the device fell over")
        return super().forward(plan)

    def close(self):
        pass


@pytest.fixture
def running():
    runner = Brittle([GroupSize(num_pages=64)], page_size=4, max_num_seqs=4)
    scheduler = Scheduler(
        CacheManager(runner.sizes, page_size=4, has_prefix_cache=False),
        Stats(128),
        max_num_seqs=4,
        max_num_batched_tokens=16,
        max_chunk_tokens=16,
        max_pages_per_row=63,
        vocab_size=VOCAB,
        max_logprobs=NUM_TOP,
    )
    heard: queue.Queue = queue.Queue()
    thread = EngineThread(Engine(scheduler, runner, overlap=True), lambda outputs: [heard.put(o) for o in outputs])
    thread.start()
    yield thread, runner, heard
    thread.stop()


def start_and_pause(thread, runner, heard):
    """Run a request of 30 tokens for a few steps and return its first output; the pause is told in mid-step."""
    runner.steps = threading.Semaphore(3)
    thread.submit(add(1, tokens=30))
    first = heard.get(timeout=WAIT_S)
    paused = thread.ask(Order.PAUSE)
    runner.steps.release(1000)
    paused.result(WAIT_S)
    return first


def add(request_id, tokens=8):
    params = SamplingParams(temperature=0, max_tokens=tokens)
    return AddRequests((Request(request_id, (1, 2, 3), params, 0, 3 + tokens),), 1)


def add_choice(request_id, first_id):
    """A choice of a request of three, added by itself."""
    (request,) = add(request_id).requests
    return AddRequests((replace(request, parent_id=None if request_id == first_id else first_id),), 3)


def until_end(heard, request_id):
    while True:
        output = heard.get(timeout=WAIT_S)
        if output.request_id == request_id and output.finish_reason is not None:
            return output


def test_requests_run_to_their_ends(running):
    thread, _, heard = running
    thread.submit(add(1))
    assert until_end(heard, 1).finish_reason is FinishReason.LENGTH
    assert thread.is_alive and thread.is_responsive


def test_an_aborted_request_says_nothing_more(running):
    thread, _, heard = running
    thread.submit(add(1, tokens=100))
    thread.submit(FinishRequests((1, 99)))
    thread.submit(add(2))
    until_end(heard, 2)
    assert thread.engine.stats().finished["abort"] == 1


def test_choices_that_come_one_after_another_are_one_request_in_the_metrics(running):
    thread, _, heard = running
    for request_id in (1, 2, 3):
        thread.submit(add_choice(request_id, 1))
        until_end(heard, request_id)
        counts = thread.engine.stats().histograms["request_params_n"]
        assert (sum(counts.counts), counts.sum) == ((1, 3) if request_id == 3 else (0, 0))
    assert not thread._groups


def test_an_aborted_first_choice_means_that_no_further_ones_come(running):
    thread, _, heard = running
    thread.submit(add_choice(1, 1))
    until_end(heard, 1)
    assert thread._groups
    thread.submit(FinishRequests((1,), FinishReason.STOP))
    thread.submit(add_choice(2, 1))
    until_end(heard, 2)
    assert thread._groups
    thread.submit(FinishRequests((1,)))
    thread.submit(add(9))
    until_end(heard, 9)
    assert not thread._groups


def test_a_broken_step_is_told_to_everybody_and_health_says_so(running, caplog):
    thread, runner, heard = running
    runner.breaks_at = 3
    thread.submit(add(1, tokens=50))
    thread.submit(add(2, tokens=50))
    ends: list = []
    while len(ends) < 2:
        output = heard.get(timeout=WAIT_S)
        if output.finish_reason is not None:
            ends.append(output)
    assert {output.request_id for output in ends} == {1, 2}
    assert all(isinstance(output.error, EngineStopped) for output in ends)
    thread._thread.join(WAIT_S)
    assert not thread.is_alive and isinstance(thread.error, RuntimeError)
    assert "the engine has died" in caplog.text


def test_a_device_that_fails_every_step_ends_some_requests_then_the_engine(running):
    thread, runner, heard = running
    runner.breaks_at, runner.can_reset = 3, True
    errors = []
    for request_id in range(1, 9):
        thread.submit(add(request_id, tokens=50))
        errors.append(type(until_end(heard, request_id).error))
    assert errors == [GenerationFailed] * MAX_SEARCHES + [EngineStopped] * (8 - MAX_SEARCHES)
    thread._thread.join(WAIT_S)
    assert not thread.is_alive


def test_a_dead_engine_answers_newcomers_at_once(running):
    thread, runner, heard = running
    runner.breaks_at = 0
    thread.submit(add(1))
    until_end(heard, 1)
    thread._thread.join(WAIT_S)
    thread.submit(add(2))
    assert isinstance(until_end(heard, 2).error, EngineStopped)


def test_a_request_that_comes_behind_the_last_look_at_the_queue_is_answered(running):
    """The thread, which is about to end, sends it itself: so it is alive for certain."""
    thread, _, heard = running
    fail_remaining = thread._fail_remaining

    def fail_remaining_and_submit():
        fail_remaining()
        thread._fail_remaining = fail_remaining
        thread.submit(add(7))

    thread._fail_remaining = fail_remaining_and_submit
    thread.submit(_Stop())
    assert isinstance(until_end(heard, 7).error, EngineStopped)


def test_stopping_tells_who_is_left(running):
    thread, _, heard = running
    on_output = thread._on_output
    thread._on_output = lambda outputs: (on_output(outputs), thread.submit(_Stop()))  # before the next step
    thread.submit(add(1, tokens=200))
    thread._thread.join(WAIT_S)
    assert isinstance(until_end(heard, 1).error, EngineStopped)
    assert not thread.is_alive


def test_a_paused_engine_computes_nothing_and_loses_nothing(running):
    thread, runner, heard = running
    first = start_and_pause(thread, runner, heard)
    thread.submit(add(2))
    paused = thread.ask(Order.INSPECT).result(WAIT_S)
    steps = runner.breaks_at
    again = thread.ask(Order.INSPECT).result(WAIT_S)
    assert paused.is_paused and (again.requests, runner.breaks_at) == (paused.requests, steps)
    assert [(each.request_id, each.state) for each in paused.requests] == [(1, "running"), (2, "waiting")]
    thread.submit(FinishRequests((2,)))
    assert [each.request_id for each in thread.ask(Order.INSPECT).result(WAIT_S).requests] == [1]
    thread.ask(Order.RESUME).result(WAIT_S)
    tokens = list(first.token_ids)
    while len(tokens) < 30:
        tokens += heard.get(timeout=WAIT_S).token_ids
    thread.submit(add(3, tokens=30))
    alone: list[int] = []
    while len(alone) < 30:
        alone += heard.get(timeout=WAIT_S).token_ids
    assert tokens == alone


def test_what_is_inspected_has_every_invariant_and_the_owner_of_every_page(running):
    start_and_pause(*running)
    thread, _, _ = running
    state = thread.ask(Order.INSPECT).result(WAIT_S)
    assert set(state.invariants.values()) == {True}
    [group], [request] = state.cache_groups, state.requests
    assert (state.num_rows, state.num_free_rows, state.num_requests) == (4, 3, 1)
    assert request.num_pages == group.pages_active == len(set(request.pages[0])) > 0


def test_an_order_that_raises_is_told_to_who_gave_it_and_the_engine_goes_on(running, monkeypatch):
    thread, _, heard = running
    monkeypatch.setattr(thread.engine, "inspect", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        thread.ask(Order.INSPECT).result(WAIT_S)
    thread.submit(add(1))
    assert heard.get(timeout=WAIT_S).request_id == 1


def test_an_order_is_followed_though_its_sender_has_left_and_an_inspection_is_not(running, monkeypatch):
    thread, runner, heard = running
    runner.steps = threading.Semaphore(3)
    thread.submit(add(1, tokens=30))
    heard.get(timeout=WAIT_S)
    inspect, inspected = thread.engine.inspect, []
    monkeypatch.setattr(thread.engine, "inspect", lambda: inspected.append(inspect()) or inspected[-1])
    for order in (Order.INSPECT, Order.PAUSE):
        assert thread.ask(order).cancel()
    runner.steps.release(1000)
    assert thread.ask(Order.RESET_PREFIX_CACHE).result(WAIT_S) is False
    assert thread.ask(Order.INSPECT).result(WAIT_S).is_paused and len(inspected) == 1


def test_all_who_ask_between_two_steps_share_one_inspection(running, monkeypatch):
    thread, runner, heard = running
    runner.steps = threading.Semaphore(3)
    thread.submit(add(1, tokens=30))
    heard.get(timeout=WAIT_S)
    inspect, inspected = thread.engine.inspect, []
    monkeypatch.setattr(thread.engine, "inspect", lambda: inspected.append(inspect()) or inspected[-1])
    answers = [thread.ask(Order.INSPECT) for _ in range(5)]
    runner.steps.release(1000)
    until_end(heard, 1)
    assert [answer.result(WAIT_S) for answer in answers] == inspected * 5 and len(inspected) == 1


def test_who_asks_again_as_soon_as_answered_does_not_stop_the_steps(running):
    thread, _, heard = running

    def ask(answer=None):
        if answer is None or answer.exception() is None:
            thread.ask(Order.INSPECT).add_done_callback(ask)

    thread.submit(add(1, tokens=30))
    for _ in range(2):
        ask()
    assert until_end(heard, 1).finish_reason is FinishReason.LENGTH
    thread.stop()


def test_an_inspection_that_takes_long_is_no_step(running, monkeypatch):
    thread, runner, heard = running
    now, was_alive = [0.0], []
    runner.steps = threading.Semaphore(3)
    monkeypatch.setattr(thread.engine.heartbeat, "_clock", lambda: now[0])

    def take_long(work):
        def work_long(*args):
            now[0] += 1000
            was_alive.append((work.__name__, thread.is_alive))
            return work(*args)

        return work_long

    for owner, name in ((thread.engine, "inspect"), (runner, "forward")):
        monkeypatch.setattr(owner, name, take_long(getattr(owner, name)))
    thread.submit(add(1, tokens=30))
    heard.get(timeout=WAIT_S)
    thread.ask(Order.INSPECT)
    runner.steps.release(1000)
    until_end(heard, 1)
    assert set(was_alive) == {("forward", False), ("inspect", True)}


def test_everybody_behind_a_cancelled_order_is_told_that_the_engine_has_died(running, monkeypatch):
    thread, runner, heard = running
    has_begun, is_told = threading.Event(), threading.Event()

    def forward(plan):
        has_begun.set()
        is_told.wait(WAIT_S)
        raise RuntimeError("the device fell over")

    monkeypatch.setattr(runner, "forward", forward)
    thread.submit(add(1))
    assert has_begun.wait(WAIT_S)
    answers = [thread.ask(order) for order in (Order.INSPECT, Order.PAUSE, Order.INSPECT, Order.RESUME)]
    for answer in answers[:2]:
        assert answer.cancel()
    thread.submit(add(2))
    is_told.set()
    for request_id in (1, 2):
        assert isinstance(until_end(heard, request_id).error, EngineStopped)
    for answer in answers[2:]:
        assert isinstance(answer.exception(WAIT_S), EngineStopped)


def test_an_idle_moment_costs_no_walk_over_the_pages_and_finds_a_lost_one(running, monkeypatch):
    thread, _, heard = running
    walks = []
    monkeypatch.setattr(PagePool, "find_faults", lambda *args: walks.append(args) or ())
    for request_id in (1, 2):
        thread.submit(add(request_id))
        until_end(heard, request_id)
    [pool] = thread.engine.scheduler.cache.pools
    pool.allocate(1)
    thread.submit(add(3))
    thread._thread.join(WAIT_S)
    assert isinstance(thread.error, CacheInvariantError) and not walks


def test_an_engine_that_has_ended_follows_no_order(running):
    thread, _, _ = running
    thread.stop()
    with pytest.raises(EngineStopped):
        thread.ask(Order.INSPECT).result(WAIT_S)
