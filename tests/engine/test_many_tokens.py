"""A decode step may bring a row several tokens: every request gets what it gets one token at a time."""

import pytest

from jaxserve.engine.plan import NUM_STOP_IDS
from jaxserve.engine.sequence import gather_stops
from jaxserve.sampling.sampler import NO_TOKEN
from jaxserve.sampling_params import RepetitionDetection
from tests.engine.world import BOTH, EOS, PAGE, SHAPES, STOP, WINDOWS, World, prompt

WISHES = (*SHAPES, {"logprobs": 3}, {"repetition_detection": RepetitionDetection(max_pattern_size=2, min_count=2)})
MANY = pytest.mark.parametrize("most", [2, PAGE + 1, 3 * PAGE])


def num_tokens_by_output(world):
    return [len(output.token_ids) for outputs in world.outputs.values() for output in outputs]


@BOTH
@MANY
def test_tokens_that_come_together_are_those_that_come_alone(overlap, most):
    world = World(max_tokens_per_row=most, overlap=overlap)
    for i in range(5):
        world.add(prompt(3 + 2 * i), max_tokens=9 + i, seed=i)
    world.run()
    world.check()
    assert {1, 2} <= set(num_tokens_by_output(world)) <= set(range(1, most + 1)), "some rows got fewer than others"


@BOTH
@MANY
@pytest.mark.parametrize("wish", WISHES, ids=str)
def test_every_wish_is_served(overlap, most, wish):
    world = World(max_tokens_per_row=most, overlap=overlap, num_pages=20)
    for i in range(4):
        world.add(prompt(4 + 3 * i), max_tokens=16, seed=i, temperature=1.0, stops=(STOP,), **wish)
    world.run()
    world.check()


@BOTH
@MANY
def test_later_ones_may_be_too_many(overlap, most):
    """One ends the output, by its length or as a stop token: those behind it are dropped."""
    for max_tokens in range(1, 8):
        world = World(max_tokens_per_row=most, overlap=overlap)
        request = world.add(prompt(5), max_tokens=max_tokens, seed=max_tokens)
        world.run()
        world.check(request)


@BOTH
@pytest.mark.parametrize("wish", [{"bad": [(4,), (5, 6)]}, {"logprobs": 0}, {"min_tokens": 9}], ids=str)
def test_while_a_row_needs_the_host_between_two_tokens_all_get_one_at_a_time(overlap, wish):
    world = World(max_tokens_per_row=2, overlap=overlap)
    world.add(prompt(5), max_tokens=9, eos=None, **wish)
    world.add(prompt(4), max_tokens=9, eos=None)
    world.run()
    world.check()
    assert set(num_tokens_by_output(world)) == {1}


def test_tokens_come_together_again_when_min_tokens_is_reached():
    world = World(max_tokens_per_row=4)
    world.add(prompt(5), max_tokens=30, eos=None, min_tokens=5)
    world.run()
    world.check()
    nums = num_tokens_by_output(world)
    assert nums[:5] == [1] * 5 and max(nums) > 1


@BOTH
@MANY
def test_full_pages_are_found_again(overlap, most):
    world = World(max_tokens_per_row=most, overlap=overlap)
    first = world.add(prompt(6), max_tokens=20, eos=None)
    world.run()
    again = world.add([*prompt(6), *world.tokens(first)], max_tokens=2)
    world.run()
    world.check()
    assert world.outputs[again.request_id][0].num_cached_tokens == (6 + 20 - 1) // PAGE * PAGE


@BOTH
@MANY
@pytest.mark.parametrize("windows", WINDOWS, ids=str)
def test_rows_that_are_preempted_start_again(overlap, most, windows):
    world = World(max_tokens_per_row=most, overlap=overlap, num_pages=12, windows=windows)
    for i in range(4):
        world.add(prompt(6), max_tokens=20, seed=i, eos=None)
    world.run()
    world.check()
    assert windows != (None,) or world.stats.snapshot(num_running=0, num_waiting=0).counters["num_preemptions"] > 0


def test_a_device_knows_the_length_and_the_first_ids_that_end_a_row():
    world = World()
    world.add(prompt(5), max_tokens=7, stops=(STOP, *range(10, 30)))
    world.add(prompt(4), max_tokens=3, eos=None, stops=(STOP,))
    first, second = gather_stops(list(world.scheduler._requests.by_id.values())).tolist()
    assert first == [12, EOS, STOP, *range(10, 8 + NUM_STOP_IDS)]
    assert second == [7, STOP] + [NO_TOKEN] * (NUM_STOP_IDS - 1)


def test_a_step_may_take_as_long_as_all_its_tokens():
    world = World(max_tokens_per_row=4)
    for start in (2, 9):
        world.add(prompt(5, start), max_tokens=20, eos=None)
    world.step()
    world.step()
    plan = world.plans[-1]
    assert (plan.num_tokens, plan.max_tokens) == (2, 8)
