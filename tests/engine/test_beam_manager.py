"""Beam search beside everything else that the scheduler does; the truth is a plain search over the fake network."""

import pytest

from jaxserve.engine.beam_manager import max_beam_tokens
from jaxserve.errors import GenerationFailed, InvalidParameter
from jaxserve.outputs import FinishReason
from jaxserve.sampling_params import RepetitionDetection
from tests.engine.world import BOTH, PAGE, SHAPES, STOP, World, prompt


@BOTH
@pytest.mark.parametrize("length", [1, 3, 4, 21, 40])
@pytest.mark.parametrize("width", [1, 2, 3, 8])
def test_a_search_alone_finds_the_best(width, length, overlap):
    world = World(overlap=overlap, num_pages=100)
    for max_tokens in (1, 2, 15):
        world.search(prompt(length), width, max_tokens=max_tokens, logprobs=2)
        world.run()
    world.check()


@BOTH
@pytest.mark.parametrize("shape", SHAPES)
def test_biases_penalties_and_bans_hold_for_every_beam(shape, overlap):
    world = World(overlap=overlap, num_pages=100)
    for i in range(9):
        how = {"min_tokens": i % 3 * 2, "stops": (STOP, 7), "length_penalty": i / 4 - 1, "eos": None if i == 5 else 0}
        world.search(prompt(5 + i), 1 + i % 4, max_tokens=12, **how, **shape)
    world.run()
    world.check()


@BOTH
@pytest.mark.parametrize("divisor", [1, 2, 9, 60])
def test_a_stop_string_ends_a_beam_as_a_stop_token_does(divisor, overlap):
    world = World(overlap=overlap, num_pages=100)
    requests = [world.search(prompt(5 + i), 3, max_tokens=14, divisor=divisor) for i in range(6)]
    world.run()
    world.check()
    ends = [world.outputs[one][0] for request in requests for one in request.choice_ids]
    sums = [one for one in ends if isinstance(one.stop_reason, str)]
    assert sums and all(one.stop_reason == f"={sum(one.token_ids)}" for one in sums)
    assert {one.finish_reason for one in sums} == {FinishReason.STOP}


@BOTH
def test_a_beam_that_repeats_itself_ends_once_it_has_its_min_tokens(overlap):
    world, wanted = World(overlap=overlap, num_pages=100), RepetitionDetection(max_pattern_size=2, min_count=2)
    few = (2, 3, 4)
    for i in range(12):
        how = {"repetition_detection": wanted, "min_tokens": i % 2 * 7, "allowed_token_ids": few}
        world.search(prompt(5 + i), 2 + i % 3, max_tokens=12, length_penalty=i % 3 - 1.0, **how)
    world.run()
    world.check()
    reasons = {str(one.finish_reason) for heard in world.outputs.values() for one in heard}
    assert "repetition" in reasons


def test_an_end_token_is_told_as_what_stopped_an_answer_the_primary_one_too():
    world = World(num_pages=100)
    requests = [world.search(prompt(5 + i), 4, max_tokens=20, stops=(STOP, 7)) for i in range(8)]
    world.run()
    ends = [world.outputs[one][0] for request in requests for one in request.choice_ids]
    stopped = [one for one in ends if one.finish_reason is FinishReason.STOP]
    assert {one.stop_reason for one in stopped} == {0, STOP, 7}
    assert all(one.token_ids[-1] == one.stop_reason for one in stopped)


@BOTH
def test_a_search_and_its_neighbours_do_not_change_each_other(overlap):
    world = World(overlap=overlap, num_pages=100)
    for i in range(10):
        world.add(prompt(3 + 2 * i), max_tokens=9 + i, eos=None, temperature=i % 2, **SHAPES[i % len(SHAPES)])
        world.search(prompt(3 + 3 * i), 1 + i % 5, max_tokens=9, **SHAPES[(3 * i) % len(SHAPES)])
        world.step()
    world.run()
    world.check()


@BOTH
def test_others_go_on_in_every_step_beside_a_search(overlap):
    world = World(overlap=overlap, num_pages=100)
    talker = world.add(prompt(3), max_tokens=30, eos=None)
    world.search(prompt(9, 3), 4, max_tokens=8, eos=None)
    world.run()
    world.check()
    decodes = [
        at for at, plan in enumerate(world.plans) if plan.decode and talker.request_id in plan.decode.request_ids
    ]
    assert decodes == list(range(decodes[0], decodes[0] + 29))
    assert sum(1 for plan in world.plans if plan.beams) == 7


def test_beams_share_the_pages_that_are_full():
    world = World(num_pages=100)
    world.search(prompt(41), 4, max_tokens=9, eos=None)
    world.run()
    world.check()
    tables = [batch.page_tables_BW[0] for plan in world.plans for batch in plan.beams]
    full = 41 // PAGE
    assert all((table[:, :full] == table[0, :full]).all() for table in tables)
    assert all(len(set(table[:, at].tolist())) == 4 for table in tables[:2] for at in [full])
    assert len(next(plan.page_copies for plan in world.plans if plan.beams)) == 3
    assert max(len(set(table.ravel().tolist()) - {0}) for table in tables) <= full + 3 * 4


@BOTH
@pytest.mark.parametrize("num_pages", [12, 16])
def test_searches_that_lose_their_pages_begin_again_and_find_the_same(num_pages, overlap):
    world = World(overlap=overlap, num_pages=num_pages)
    for i in range(6):
        world.add(prompt(5 + i, 2 + i), max_tokens=20, eos=None)
        world.search(prompt(4 + i, 3 + i), 2 + i % 2, max_tokens=14, eos=None)
        world.step()
    world.run()
    world.check()
    lives = {(batch.request_ids[0], batch.epochs[0]) for plan in world.plans for batch in plan.beams}
    assert any(epoch for _, epoch in lives)


@BOTH
@pytest.mark.parametrize("num_pages", [4, 7, 8, 30])
def test_the_longest_search_that_fits_alone_is_done(num_pages, overlap):
    for width in (1, 2, 3, 5):
        for length in (1, 4, 6, 4 * (num_pages - 1) - 1):
            world = World(overlap=overlap, num_pages=num_pages)
            request = world.search(prompt(length), width, max_tokens=1000, eos=None)
            world.run()
            world.check()
            most = max_beam_tokens(length, width, 10**6, world.cache.sizes, PAGE)
            assert request.max_total_tokens == min(length + most, world.longest)


def test_a_search_waits_for_its_rows_and_nobody_passes_it():
    world = World(num_pages=100, max_num_seqs=4)
    for i in range(3):
        world.add(prompt(4, 2 + i), max_tokens=4 + 3 * i, eos=None)
    wide = world.search(prompt(6), 4, max_tokens=4, eos=None)
    late = [world.add(prompt(5, 3 + i), max_tokens=4, eos=None) for i in range(4)]
    world.run()
    world.check()
    starts = [chunk.request_id for plan in world.plans for chunk in plan.chunks]
    assert starts == [1, 2, 3, wide.request_id, *(one.request_id for one in late)]


@BOTH
def test_ending_one_answer_ends_the_search_at_any_moment(overlap):
    for steps in range(9):
        for which in (0, 2):
            world = World(overlap=overlap, chunk=8, budget=16)
            request = world.search(prompt(19), 3, max_tokens=12, eos=None)
            neighbour = world.add(prompt(7), max_tokens=12)
            for _ in range(steps):
                world.step()
            world.scheduler.finish(request.choice_ids[which])
            world.audit()
            world.run()
            world.check(neighbour)
            assert not any(world.outputs[one] for one in request.choice_ids)


@BOTH
def test_a_sick_beam_ends_its_search_alone(overlap):
    world = World(overlap=overlap)
    request, neighbour = world.search(prompt(9), 3, max_tokens=9, eos=None), world.add(prompt(7), max_tokens=15)
    for _ in range(3 + overlap):
        world.step()
    world.runner.nan_request_ids.add(request.request_id)
    world.run()
    world.check(neighbour)
    [output] = world.outputs[request.request_id]
    assert isinstance(output.error, GenerationFailed) and output.finish_reason is FinishReason.ERROR
    assert world.stats.snapshot(num_running=0, num_waiting=0).finished["error"] == 3


def test_constraints_that_leave_too_few_answers_are_told():
    world = World()
    request = world.search(prompt(9), 3, max_tokens=1, allowed_token_ids=(5, 6))
    world.run()
    [output] = world.outputs[request.request_id]
    assert isinstance(output.error, InvalidParameter) and "leave 2" in str(output.error)


def test_what_a_search_counts_is_what_it_returns():
    world = World(num_pages=100)
    request = world.search(prompt(17), 4, max_tokens=9)
    world.run()
    snapshot = world.stats.snapshot(num_running=0, num_waiting=0)
    told = sum(len(world.outputs[one][0].token_ids) for one in request.choice_ids)
    assert snapshot.counters["generation_tokens"] == told
    assert snapshot.counters["prompt_tokens_local_compute"] == 17
    assert sum(snapshot.finished.values()) == 4


def test_a_better_priority_makes_way_for_a_whole_search():
    world = World(num_pages=60, max_num_seqs=4)
    slow = [world.add(prompt(5, 2 + i), max_tokens=30, eos=None, priority=5) for i in range(4)]
    for _ in range(3):
        world.step()
    request = world.search(prompt(9), 3, max_tokens=6, eos=None)
    world.step()
    assert [one.request.request_id for one in world.scheduler._requests.running] == [
        request.request_id,
        slow[0].request_id,
    ]
    world.run()
    world.check()
