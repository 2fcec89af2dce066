"""Recurrent layers in the scheduler: prompts begin at snapshots, and outputs are those of a cold run."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxserve.engine import request_table
from tests.engine.world import BOTH, PAGE, World, prompt


def cached(world, request):
    """The prompt tokens that a request did not compute."""
    return next(output.num_cached_tokens for output in world.outputs[request.request_id])


def run_one(world, tokens, **params):
    request = world.add(tokens, **({"eos": None} | params))
    world.run()
    world.check(request)
    return request


@BOTH
def test_the_next_turn_computes_the_new_tokens_and_less_than_the_tokens_between_two_snapshots(overlap):
    world = World(num_states=1, overlap=overlap, num_pages=200)
    history = prompt(40)
    for _ in range(5):
        request = run_one(world, history, max_tokens=30, borders=(len(history) - 3,))
        answered = [*history, *world.tokens(request)]
        history = [*answered, 9, 8, 7, 6, 5]
        again = run_one(world, history, max_tokens=1)
        assert len(answered) - cached(world, again) <= 16 + PAGE


@BOTH
@pytest.mark.parametrize("border", [19, 20, 21, 23])
def test_prompts_that_share_their_beginning_share_it_up_to_the_border(border, overlap):
    world = World(num_states=2, windows=(None, 6), overlap=overlap, num_pages=200)
    run_one(world, prompt(30), borders=(border,))
    assert [chunk.end for plan in world.plans for chunk in plan.chunks] == [16, border // PAGE * PAGE, 30][
        border < 20 :
    ]
    later = run_one(world, [*prompt(border), 30, 31])
    assert cached(world, later) == border // PAGE * PAGE


@BOTH
def test_prompts_that_come_at_once_wait_for_the_snapshot_that_they_share(overlap):
    world = World(num_states=1, overlap=overlap)
    requests = [world.add([*prompt(41), number], borders=(40,)) for number in range(2, 6)]
    world.run()
    world.check()
    assert [cached(world, request) for request in requests] == [0, 40, 40, 40]


@BOTH
def test_where_two_prompts_part_the_third_finds_a_snapshot(overlap):
    world = World(num_states=1, overlap=overlap, num_pages=200)
    first, second, third = (run_one(world, [*prompt(22), *[30 + number] * 9], max_tokens=1) for number in range(3))
    assert [cached(world, request) for request in (first, second, third)] == [0, 0, 20]


def test_a_long_prompt_is_kept_at_intervals_and_a_preempted_one_goes_on_from_there(monkeypatch):
    monkeypatch.setattr(request_table, "INTERVAL_TOKENS", 32)
    world = World(num_states=1, num_pages=60, chunk=16)
    request = world.add(prompt(100))
    for _ in range(6):
        world.step()
    requests = world.scheduler._requests
    requests.preempt(requests.running[0])
    world.run()
    world.check()
    starts = [chunk.start for plan in world.plans for chunk in plan.chunks]
    assert starts == [0, 16, 32, 48, 64, 80, 64, 80, 96] and cached(world, request) == 0


@BOTH
def test_choices_get_copies_of_the_state_and_beams_too(overlap):
    world = World(num_states=1, overlap=overlap, num_pages=200)
    for length in (8, 9, 16):
        world.add_group(prompt(length), 4, max_tokens=30, temperature=1.0, borders=(length - 1,))
        world.search(prompt(length), 3, max_tokens=12)
        world.run()
    world.check()


@BOTH
def test_the_state_of_a_failed_step_is_not_kept(overlap):
    world = World(num_states=1, overlap=overlap)
    request = world.add(prompt(30), borders=(12, 20))
    world.runner.nan_request_ids.add(request.request_id)
    world.run()
    assert world.reason(request) == "error"
    assert len(world.cache.indexes[1]) == 0
    assert run_one(world, prompt(30)) and world.cache.snapshots.num_held == 0


@BOTH
def test_conversations_that_go_on_together_may_exchange_their_slots(overlap):
    """One takes the slot of the other's snapshot, which it evicts to host memory, and the other one that of its own."""
    world = World(max_num_seqs=3, num_states=1, num_snapshots=1, num_host_snapshots=4, overlap=overlap, num_pages=200)
    short, others = [prompt(9, start) for start in (2, 9)], [prompt(49, start) for start in (16, 23)]
    for tokens in (*short, *others):  # snapshots of the others cost more
        run_one(world, tokens, borders=(len(tokens) - 1,), max_tokens=1)
    world.add(prompt(9, start=30), max_tokens=12, eos=None)
    world.step()
    later = [world.add([*tokens, 3], max_tokens=3, eos=None) for tokens in reversed(short)]
    world.run()
    world.check()
    assert [cached(world, request) for request in later] == [8, 8]
    assert any(_has_exchange(plan.page_copies) for plan in world.plans)


def _has_exchange(copies):
    places = {((group, source), (group, target)) for group, source, target in copies}
    return any((target, source) in places for source, target in places)


def test_without_prefix_cache_no_chunk_ends_at_a_border_and_nothing_is_copied():
    world = World(num_states=1, prefix=False)
    run_one(world, prompt(14), borders=(8,), max_tokens=40)
    assert sum(len(plan.chunks) for plan in world.plans) == 1
    assert not any(plan.page_copies for plan in world.plans)


def test_a_cleared_prefix_cache_has_no_snapshots():
    world = World(num_states=1)
    run_one(world, prompt(30), borders=(20,))
    assert world.scheduler.reset_prefix_cache()
    assert cached(world, run_one(world, prompt(30))) == 0


def test_another_salt_finds_no_snapshot():
    world = World(num_states=1)
    run_one(world, prompt(30), borders=(20,))
    assert cached(world, run_one(world, prompt(30), salt="secret")) == 0


ANSWER, THINKING = 20, 7
TURNS = st.lists(
    st.tuples(
        st.sampled_from(["turn", "turn", "turn", "edit", "fork", "thinking dropped", "two at once", "preempted"]),
        st.integers(0, 3),
        st.lists(st.integers(2, 6), min_size=1, max_size=9),
        st.integers(0, 12),
    ),
    min_size=1,
    max_size=12,
)


def vary(history, kind, number):
    """Return the history that the next message is appended to."""
    if kind == "edit":
        return history[: max(20, len(history) - ANSWER - number)]
    if kind == "thinking dropped" and len(history) > ANSWER + 20:
        return [*history[:-ANSWER], *history[THINKING - ANSWER :]]
    return history


@settings(max_examples=40, deadline=None)
@given(
    turns=TURNS,
    overlap=st.booleans(),
    num_snapshots=st.integers(0, 6),
    num_host_snapshots=st.integers(0, 6),
    num_pages=st.integers(60, 120),
    windows=st.sampled_from([(None,), (None, 6)]),
    num_states=st.integers(1, 2),
)
def test_whatever_conversations_do_each_answer_is_that_of_a_cold_run(turns, **settings):
    world = World(max_num_seqs=3, **settings)
    histories = [prompt(20, start=2 + number % 2) for number in range(4)]
    for kind, index, message, number in turns:
        history = [*vary(histories[index], kind, number), *message]
        history = history[: world.longest - 2 * ANSWER]
        borders = (20, len(history) - 1)
        requests = [world.add(history, max_tokens=ANSWER, eos=None, borders=borders)]
        if kind == "two at once":
            requests.append(world.add([*history, 7], max_tokens=number + 1, borders=borders))
        for _ in range(number if kind == "preempted" else 0):
            world.step()
            world.audit()
        if kind == "preempted":
            world.scheduler.reset_prefix_cache(preempt_running=True)
        elif number % 3 == 0 and kind == "turn":
            histories[index] = [*history, *prompt(ANSWER)]  # the answer is not waited for
            continue
        world.run()
        histories[index if kind != "fork" else (index + 1) % 4] = [*history, *world.tokens(requests[0])]
    world.run()
    world.check()
