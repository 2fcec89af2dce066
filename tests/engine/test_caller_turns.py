"""Callers are served in turn, whatever each has queued, and the requests of one in the order of their arrival."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxserve.engine.caller_turns import MAX_CALLERS, MAX_OVERTAKES, CallerTurns
from tests.engine.world import World

CALLERS = st.lists(st.sampled_from("abc"), max_size=40)


def place_of_each(callers):
    """For each request its number among those of its caller."""
    return [callers[:number].count(caller) for number, caller in enumerate(callers)]


@given(CALLERS)
def test_of_requests_that_wait_together_the_first_of_all_come_before_the_second_of_any(callers):
    turns = CallerTurns()
    assert [turns.assign(caller) for caller in callers] == place_of_each(callers)


@given(st.integers(1, 100), st.integers(0, 100))
def test_a_newcomer_does_not_wait_for_what_another_has_queued(num_queued, num_started):
    turns = CallerTurns()
    queued = [turns.assign("many") for _ in range(num_queued)]
    for turn in queued[:num_started]:
        turns.on_start(turn)
    newcomer = turns.assign("newcomer")
    assert sum(turn < newcomer for turn in queued[num_started:]) == 0


def test_callers_that_come_once_are_not_kept():
    turns = CallerTurns()
    turns.assign("many"), turns.assign("many")
    for number in range(10 * MAX_CALLERS):
        turns.on_start(turns.assign(f"caller {number}"))
    assert len(turns._next) <= MAX_CALLERS + 1
    assert turns.assign("many") == 2


def starts(world):
    return [chunk.request_id for plan in world.plans for chunk in plan.chunks if chunk.epoch == 0 and chunk.start == 0]


def test_a_caller_with_one_request_starts_before_the_rest_of_one_with_many():
    world = World(max_num_seqs=1, prefix=False)
    many = [world.add(range(2, 8), caller="many", eos=None) for _ in range(5)]
    one = world.add(range(12, 18), caller="one", eos=None)
    world.run()
    world.check()
    expected = [many[0], one, *many[1:]]
    assert starts(world) == [request.request_id for request in expected]


@pytest.mark.parametrize(("num_queued", "max_num_seqs"), [(1, 1), (3, 1), (2, 3)])
def test_new_callers_without_end_overtake_a_request_a_bounded_number_of_times(num_queued, max_num_seqs):
    """Whatever comes later, there are MAX_OVERTAKES starts for a request and each older one, and those at once."""
    world = World(max_num_seqs=max_num_seqs, num_pages=200)
    queued = [
        world.add(range(2, 8), caller="many", max_tokens=1, eos=None).request_id
        for _ in range(num_queued + max_num_seqs)
    ]
    for _ in range(2 * 32 * len(queued)):
        for _ in range(max_num_seqs):
            world.add(range(9, 15), caller=f"later {next(world.now)}", max_tokens=1, eos=None)
        world.step()
    assert not set(queued) & set(world.scheduler.request_ids())
    order = list(dict.fromkeys(chunk.request_id for plan in world.plans for chunk in plan.chunks))
    for place, request_id in enumerate(queued):
        overtakers = [each for each in order[: order.index(request_id)] if each not in queued]
        assert len(overtakers) <= MAX_OVERTAKES * (place + 1) + max_num_seqs
    assert len(order) > MAX_OVERTAKES  # it had to come to that


@settings(max_examples=30, deadline=None)
@given(CALLERS.filter(bool), st.integers(1, 3))
def test_every_request_ends_with_its_own_tokens_in_any_order_of_callers(callers, max_num_seqs):
    world = World(max_num_seqs=max_num_seqs, prefix=False, num_pages=200)
    requests = [world.add(range(2, 8 + number % 5), caller=caller, eos=None) for number, caller in enumerate(callers)]
    world.run()
    world.check()
    order = starts(world)
    for caller in set(callers):
        own = [request.request_id for request, one in zip(requests, callers, strict=True) if one == caller]
        assert [request_id for request_id in order if request_id in own] == own
