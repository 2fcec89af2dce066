"""A decode step may bring a row several tokens: every request gets what it gets one token at a time."""

import pytest

from jaxserve.sampling_params import RepetitionDetection
from tests.engine.world import BOTH, PAGE, SHAPES, STOP, World, prompt

WISHES = (*SHAPES, {"logprobs": 3}, {"repetition_detection": RepetitionDetection(max_pattern_size=2, min_count=2)})


def num_tokens_by_output(world):
    return [len(output.token_ids) for outputs in world.outputs.values() for output in outputs]


@BOTH
def test_tokens_that_come_in_pairs_are_those_that_come_alone(overlap):
    world = World(max_tokens_per_row=2, overlap=overlap)
    for i in range(5):
        world.add(prompt(3 + 2 * i), max_tokens=9 + i, seed=i)
    world.run()
    world.check()
    assert set(num_tokens_by_output(world)) == {1, 2}, "some rows got one token, some two"


@BOTH
@pytest.mark.parametrize("wish", WISHES, ids=str)
def test_every_wish_is_served_in_pairs(overlap, wish):
    world = World(max_tokens_per_row=2, overlap=overlap, num_pages=20)
    for i in range(4):
        world.add(prompt(4 + 3 * i), max_tokens=16, seed=i, temperature=1.0, stops=(STOP,), **wish)
    world.run()
    world.check()


@BOTH
def test_the_second_of_a_pair_may_be_one_too_many(overlap):
    """The first ends the output, by its length or as a stop token: the second is dropped."""
    for max_tokens in range(1, 8):
        world = World(max_tokens_per_row=2, overlap=overlap)
        request = world.add(prompt(5), max_tokens=max_tokens, seed=max_tokens)
        world.run()
        world.check(request)


@BOTH
def test_rows_with_masks_get_one_token_at_a_time(overlap):
    world = World(max_tokens_per_row=2, overlap=overlap)
    world.add(prompt(5), max_tokens=9, bad=[(4,), (5, 6)])
    world.run()
    world.check()
    assert set(num_tokens_by_output(world)) == {1}


@BOTH
def test_full_pages_are_found_again(overlap):
    world = World(max_tokens_per_row=2, overlap=overlap)
    first = world.add(prompt(6), max_tokens=20, eos=None)
    world.run()
    again = world.add([*prompt(6), *world.tokens(first)], max_tokens=2)
    world.run()
    world.check()
    assert world.outputs[again.request_id][0].num_cached_tokens == (6 + 20 - 1) // PAGE * PAGE


@BOTH
def test_preempted_pairs_start_again(overlap):
    world = World(max_tokens_per_row=2, overlap=overlap, num_pages=12)
    for i in range(4):
        world.add(prompt(6), max_tokens=20, seed=i, eos=None)
    world.run()
    world.check()
    assert world.stats.snapshot(num_running=0, num_waiting=0).counters["num_preemptions"] > 0
