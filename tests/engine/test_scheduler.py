"""Whatever happens around a request, its answer is that of a request alone in the world; and nothing leaks."""

from collections import Counter

import pytest

from jaxserve.cache.prefix import hash_pages
from jaxserve.errors import InvalidParameter
from jaxserve.outputs import FinishReason
from jaxserve.sampling_params import RepetitionDetection
from tests.engine.world import BOTH, EOS, PAGE, SHAPES, STOP, World, prompt
from tests.expected_output import expected_output


@BOTH
@pytest.mark.parametrize("length", [1, 3, 4, 5, 16, 17, 50])
def test_a_request_alone_gets_its_answer(length, overlap):
    world = World(overlap=overlap)
    world.add(prompt(length), max_tokens=20)
    world.run()
    world.check()


@BOTH
@pytest.mark.parametrize("chunk", [4, 8, 16, 64])
def test_a_prompt_in_chunks_is_a_prompt_at_once(chunk, overlap):
    world = World(chunk=chunk, budget=64, overlap=overlap)
    request = world.add(prompt(45))
    world.run()
    world.check()
    chunks = [part for plan in world.plans for part in plan.chunks]
    assert [part.start for part in chunks] == list(range(0, 45, chunk))
    assert [part.is_last for part in chunks] == [False] * (len(chunks) - 1) + [True]
    assert world.tokens(request)


@BOTH
def test_a_prefix_hit_changes_nothing_but_the_work(overlap):
    world = World(overlap=overlap)
    for tail in range(3):
        world.add([*prompt(24), 20 + tail], max_tokens=9)
        world.run()
    world.check()
    cached = [world.outputs[request_id][0].num_cached_tokens for request_id in world.requests]
    assert cached == [0, 24, 24]


def test_the_same_prompt_again_still_computes_its_last_token():
    world = World()
    for _ in range(2):
        world.add(prompt(24), max_tokens=3)
        world.run()
    world.check()
    assert world.outputs[2][0].num_cached_tokens == 20


def test_an_answer_can_be_found_again_as_a_prefix():
    world = World()
    first = world.add(prompt(6), max_tokens=13, eos=None)
    world.run()
    world.add([*first.prompt_ids, *world.tokens(first), 3], max_tokens=3)
    world.run()
    world.check()
    assert world.outputs[2][0].num_cached_tokens == 16


def test_another_salt_finds_nothing():
    world = World()
    for salt in (None, "a", "b", "a"):
        world.add(prompt(24), salt=salt)
        world.run()
    assert [world.outputs[i][0].num_cached_tokens for i in (1, 2, 3, 4)] == [0, 0, 0, 20]


def test_without_an_index_nothing_is_cached():
    world = World(prefix=False)
    for _ in range(2):
        world.add(prompt(24))
        world.run()
    world.check()
    assert world.cache.pools[0].num_cached == world.outputs[2][0].num_cached_tokens == 0


@BOTH
def test_alone_is_as_in_a_crowd(overlap):
    world = World(overlap=overlap)
    for i in range(20):
        world.add(prompt(1 + 3 * i, 2 + i % 5), max_tokens=1 + i, temperature=float(i % 3), seed=i, top_k=i)
        world.step()
    world.run()
    world.check()


@BOTH
@pytest.mark.parametrize("prefix", [True, False])
def test_preempted_is_undisturbed(overlap, prefix):
    world = World(num_pages=16, overlap=overlap, prefix=prefix)
    for i in range(4):
        world.add(prompt(5, 2 + i), max_tokens=30, eos=None)
    world.run()
    world.check()
    assert world.stats.snapshot(num_running=0, num_waiting=0).counters["num_preemptions"] > 0


@BOTH
def test_the_youngest_is_preempted_and_comes_back_before_newcomers(overlap):
    world = World(num_pages=10, max_num_seqs=2, overlap=overlap)
    old, young, newcomer = (world.add(prompt(8, 2 + i), max_tokens=20, eos=None) for i in range(3))
    world.run()
    world.check()
    lives = [(chunk.request_id, chunk.epoch) for plan in world.plans for chunk in plan.chunks]
    first, second, third = old.request_id, young.request_id, newcomer.request_id
    assert lives[:3] == [(first, 0), (second, 0), (second, 1)]
    assert lives.index((second, 1)) < lives.index((third, 0))


def test_who_came_last_is_preempted_even_if_it_started_first():
    world = World(num_pages=17, chunk=8, budget=12)
    world.add(prompt(17), max_tokens=12, eos=None)
    waits_for_the_prefix = world.add([*prompt(16), 30], max_tokens=40, eos=None)
    overtakes = world.add(prompt(5, 9), max_tokens=40, eos=None)
    world.run()
    world.check()
    chunks = [chunk for plan in world.plans for chunk in plan.chunks]
    starts = [chunk.request_id for chunk in chunks if chunk.epoch == 0]
    assert starts.index(overtakes.request_id) < starts.index(waits_for_the_prefix.request_id)
    assert {chunk.request_id for chunk in chunks if chunk.epoch} == {overtakes.request_id}


@BOTH
def test_who_comes_back_makes_a_page_of_tokens_before_it_is_preempted_again(overlap):
    world = World(num_pages=24, max_num_seqs=6, budget=100, chunk=96, overlap=overlap)
    for i in range(6):
        world.add(prompt(4 + i, 2 + i), max_tokens=50, eos=None)
    world.run()
    world.check()
    lives: Counter[tuple[int, int]] = Counter()
    for plan in world.plans:
        lives.update((chunk.request_id, chunk.epoch) for chunk in plan.chunks if chunk.is_last)
        if plan.decode:
            lives.update(zip(plan.decode.request_ids, plan.decode.epochs, strict=True))
    last = {i: max(epoch for other, epoch in lives if other == i) for i, _ in lives}
    assert all(tokens >= PAGE for (i, epoch), tokens in lives.items() if 0 < epoch < last[i])
    assert max(last.values()) > 1


@BOTH
def test_requests_start_in_the_order_in_which_they_came(overlap):
    world = World(num_pages=24, max_num_seqs=3, overlap=overlap)
    for i in range(12):
        world.add(prompt(1 + 11 * i % 40, 2 + i), max_tokens=5)
    world.run()
    starts = [chunk.request_id for plan in world.plans for chunk in plan.chunks if chunk.epoch == chunk.start == 0]
    assert starts == sorted(starts) == list(world.requests)


def test_a_long_prompt_does_not_stall_those_who_decode():
    world = World(budget=12, chunk=8)
    talker = world.add(prompt(3), max_tokens=20, eos=None)
    world.step()
    world.add(prompt(100), max_tokens=2)
    world.run()
    decodes = [plan for plan in world.plans if plan.decode and talker.request_id in plan.decode.request_ids]
    assert [world.plans.index(plan) for plan in decodes] == list(range(1, 20))
    world.check()


@pytest.mark.parametrize("length", [24, 40])
def test_equal_prompts_that_come_together_are_computed_once(length):
    world = World(max_num_seqs=8)
    for _ in range(5):
        world.add(prompt(length), max_tokens=4, temperature=1.0, seed=next(world.ids))
    world.run()
    world.check()
    assert [world.outputs[i][0].num_cached_tokens for i in world.requests] == [0, *[length - PAGE] * 4]
    starts = [chunk.request_id for plan in world.plans for chunk in plan.chunks if chunk.is_last]
    assert starts == list(world.requests)


@BOTH
@pytest.mark.parametrize("length", [3, 8, 41])
@pytest.mark.parametrize("prefix", [True, False])
def test_choices_share_one_prefill_and_the_pages_of_their_prompt(length, prefix, overlap):
    world = World(overlap=overlap, prefix=prefix)
    world.add_group(prompt(length), 4, max_tokens=11, temperature=1.0, eos=None)
    for _ in range(-(-length // 16) + overlap):
        world.step()
    shared = length // PAGE
    assert world.cache.num_active >= shared
    pages = world.scheduler._requests.running[0].pages.by_group[0]
    assert [world.cache.pools[0].refcount(page) for page in pages[:shared]] == [4] * shared
    world.run()
    world.check()
    chunks = [chunk for plan in world.plans for chunk in plan.chunks]
    assert {chunk.request_id for chunk in chunks} == {1}
    assert [len(chunk.forks) for chunk in chunks] == [0] * (len(chunks) - 1) + [3]
    assert sum(len(plan.page_copies) for plan in world.plans) == (3 if length % PAGE else 0)


@BOTH
def test_choices_without_a_row_start_by_themselves(overlap):
    world = World(max_num_seqs=3, overlap=overlap)
    world.add_group(prompt(21), 7, max_tokens=9, temperature=1.0)
    world.run()
    world.check()
    starts = {chunk.request_id for plan in world.plans for chunk in plan.chunks}
    assert starts == {1, 4, 5, 6, 7}


def test_choices_outlive_a_leader_that_is_aborted_at_any_moment():
    for steps in range(6):
        world = World(overlap=True, chunk=8, budget=8)
        leader, *others = world.add_group(prompt(19), 3, max_tokens=9, temperature=1.0)
        for _ in range(steps):
            world.step()
        world.scheduler.finish(leader.request_id)
        world.audit()
        world.run()
        world.check(*others)


@BOTH
@pytest.mark.parametrize("num_pages", [16, 100])
def test_constraints_and_history_belong_to_their_request_alone(num_pages, overlap):
    """Also when rows change hands, and when a request comes back to another row after a preemption."""
    world = World(num_pages=num_pages, max_num_seqs=4, overlap=overlap)
    for i in range(24):
        shape = SHAPES[i % len(SHAPES)]
        world.add(prompt(3 + i, 2 + i % 3), max_tokens=14, min_tokens=i % 4, eos=None if i % 2 else EOS, **shape)
        if i % 3 == 0:
            world.step()
    world.run()
    world.check()
    preempted = world.stats.snapshot(num_running=0, num_waiting=0).counters["num_preemptions"]
    assert bool(preempted) == (num_pages == 16)


@BOTH
def test_a_request_that_may_draw_nothing_ends_alone(overlap):
    world = World(overlap=overlap)
    hopeless = world.add(prompt(5), max_tokens=9, allowed_token_ids=(3, 4), bad=[(3,), (4,)])
    other = world.add(prompt(5), max_tokens=9)
    world.run()
    world.check(other)
    [output] = world.outputs[hopeless.request_id]
    assert isinstance(output.error, InvalidParameter)
    assert world.stats.snapshot(num_running=0, num_waiting=0).counters["nonfinite_logits"] == 0


@BOTH
def test_the_first_stop_token_ends_the_answer_unless_it_is_held_back(overlap):
    world = World(overlap=overlap)
    for i in range(30):
        world.add(prompt(5 + i), max_tokens=40, stops=(STOP, 7), min_tokens=i % 3 * 10)
    world.run()
    world.check()
    ends = [o for heard in world.outputs.values() for o in heard if o.finish_reason == "stop"]
    assert {o.stop_reason for o in ends} == {None, STOP, 7}
    assert all(o.token_ids[-1] == (EOS if o.stop_reason is None else o.stop_reason) for o in ends)


@BOTH
def test_an_answer_that_repeats_itself_ends_once_it_has_its_min_tokens(overlap):
    world = World(num_pages=40, overlap=overlap)
    wanted = RepetitionDetection(max_pattern_size=3, min_count=2)
    for i in range(60):
        world.add(prompt(5 + i % 20, 2 + i), max_tokens=30, min_tokens=i % 2 * 15, repetition_detection=wanted, seed=i)
    world.run()
    world.check()
    ends = [heard[-1] for heard in world.outputs.values()]
    repeated = [o for o in ends if o.finish_reason is FinishReason.REPETITION]
    assert len(repeated) > 10 and {o.stop_reason for o in repeated} == {"repetition_detected"}
    assert {str(o.finish_reason) for o in ends} == {"repetition", "stop", "length"}
    assert world.stats.snapshot(num_running=0, num_waiting=0).finished["repetition"] == len(repeated)


@BOTH
def test_logprobs_come_with_their_tokens(overlap):
    world = World(overlap=overlap)
    request = world.add(prompt(9), logprobs=2, max_tokens=7, eos=None)
    world.add(prompt(9, 3), max_tokens=7)
    world.run()
    heard = [entry for output in world.outputs[request.request_id] for entry in output.logprobs]
    assert tuple(entry.logprob for entry in heard) == expected_output(request).logprobs
    assert tuple(entry.token_id for entry in heard) == world.tokens(request)
    assert {len(entry.top) for entry in heard} == {2}


@BOTH
@pytest.mark.parametrize("max_tokens", [0, 5])
@pytest.mark.parametrize("num_pages", [16, 64])
def test_prompt_logprobs_are_whole_though_the_prompt_is_known_chunked_and_preempted(max_tokens, num_pages, overlap):
    world = World(num_pages=num_pages, chunk=8, overlap=overlap)
    for i in range(3):
        wishes = {"prompt_logprobs": 1} if i else {}
        world.add(
            prompt(26), max_tokens=max_tokens if i else 20, eos=None, echo_only=i > 0 and not max_tokens, **wishes
        )
    world.run()
    world.check()
    for request_id in (2, 3):
        [scores] = [o.prompt_logprobs for o in world.outputs[request_id] if o.prompt_logprobs is not None]
        assert scores[0] is None
        assert (
            tuple(entry.logprob for entry in scores[1:]) == expected_output(world.requests[request_id]).prompt_logprobs
        )


@BOTH
def test_an_aborted_request_is_heard_no_more_and_its_neighbours_go_on(overlap):
    world = World(overlap=overlap)
    waiting, running, neighbour = (world.add(prompt(20, 2 + i), max_tokens=15, eos=None) for i in range(3))
    world.scheduler.finish(waiting.request_id)
    for _ in range(5):
        world.step()
    world.scheduler.finish(running.request_id)
    heard = len(world.outputs[running.request_id])
    world.audit()
    world.run()
    world.scheduler.finish(running.request_id)
    world.scheduler.finish(999)
    world.check(neighbour)
    assert world.outputs[waiting.request_id] == [] and len(world.outputs[running.request_id]) == heard


@BOTH
def test_a_sick_row_ends_alone_and_its_pages_are_not_found_again(overlap):
    world = World(overlap=overlap)
    sick, neighbour = world.add(prompt(10), max_tokens=20, eos=None), world.add(prompt(10, 4), eos=None)
    for _ in range(3 + overlap):
        world.step()
    written = len(sick.prompt_ids) + len(world.tokens(sick))
    world.runner.nan_request_ids.add(sick.request_id)
    world.run()
    world.check(neighbour)
    assert world.reason(sick) == "error"
    sick_tokens = [*sick.prompt_ids, *expected_output(sick).tokens]
    assert len(world.cache.indexes[0].match(hash_pages(sick_tokens, PAGE))) <= written // PAGE
    assert world.stats.snapshot(num_running=0, num_waiting=0).counters["nonfinite_logits"] == 1


def test_the_page_that_a_sick_step_completes_is_not_published():
    world = World()
    sick = world.add(prompt(PAGE * 2 - 1), max_tokens=20, eos=None)  # the first decode step completes the page
    world.step()
    world.runner.nan_request_ids.add(sick.request_id)
    world.run()
    assert len(world.cache.indexes[0]) == 1


@BOTH
def test_no_page_of_a_sick_prompt_is_published(overlap):
    world = World(overlap=overlap)
    sick = world.add(prompt(30))
    world.runner.nan_request_ids.add(sick.request_id)
    world.run()
    assert (world.reason(sick), len(world.cache.indexes[0])) == ("error", 0)


def test_when_the_step_fails_everyone_hears_the_same_honest_error():
    world = World(max_num_seqs=2)
    requests = [world.add(prompt(9, 2 + i)) for i in range(4)]
    world.step()
    error = RuntimeError("the device is gone")
    outputs = world.scheduler.fail_all(error)
    assert {(o.request_id, o.finish_reason, o.error) for o in outputs} == {
        (r.request_id, FinishReason.ERROR, error) for r in requests
    }
    world.audit()
    assert not world.scheduler.has_work and world.cache.num_active == 0


def test_the_same_arrivals_make_the_same_plans():
    def trace():
        world = World(num_pages=16, overlap=True)
        for i in range(6):
            world.add(prompt(7 + i, 2 + i % 2), max_tokens=20)
            world.step()
        world.run()
        return [repr(plan) for plan in world.plans]

    assert trace() == trace()


def test_a_plan_keeps_to_the_budget_and_the_rows():
    world = World(num_pages=40, max_num_seqs=5, budget=12, chunk=8)
    for i in range(15):
        world.add(prompt(1 + 9 * i % 31, 2 + i), max_tokens=9)
    world.run()
    world.check()
    assert max(plan.num_tokens for plan in world.plans) <= 12
    assert max(len(plan.decode) for plan in world.plans if plan.decode) <= 5


@BOTH
def test_a_reset_of_the_prefix_cache_waits_for_running_requests_or_has_them_computed_again(overlap):
    world = World(overlap=overlap)
    world.add(prompt(20), max_tokens=20, eos=None)
    world.run()
    world.add(prompt(20, start=9), max_tokens=20, eos=None)
    for _ in range(3):
        world.step()
    cached = len(world.cache.indexes[0])
    assert not world.scheduler.reset_prefix_cache() and len(world.cache.indexes[0]) == cached > 0
    assert world.scheduler.reset_prefix_cache(preempt_running=True)
    assert (len(world.cache.indexes[0]), world.scheduler.num_preempted, world.cache.num_active) == (0, 1, 0)
    world.audit()
    world.run()
    world.check()
    assert world.scheduler.reset_prefix_cache()
    assert not len(world.cache.indexes[0])


def test_requests_that_exceed_what_can_be_listed_are_counted(monkeypatch):
    world = World(num_pages=200)
    for start in range(3):
        world.add(prompt(40, start=start + 2), max_tokens=20, eos=None)
    world.step()
    full = world.scheduler.inspect(())
    assert all(request.pages is not None for request in full.requests if request.num_pages)
    monkeypatch.setattr("jaxserve.engine.inspection.MAX_REQUESTS", 2)
    monkeypatch.setattr("jaxserve.engine.inspection.MAX_PAGES", 10)
    short = world.scheduler.inspect(())
    assert (len(short.requests), short.num_requests) == (2, 3)
    assert [request.pages is not None for request in short.requests] == [True, False]


@BOTH
@pytest.mark.parametrize("steps", range(8))
def test_the_pages_of_a_request_that_is_aborted_are_free_before_the_next_step(steps, overlap):
    world = World(overlap=overlap, budget=16, prefix=False)
    request = world.add(prompt(40), max_tokens=20)
    for _ in range(steps):
        world.step()
    world.scheduler.finish(request.request_id)
    assert (world.cache.num_active, world.scheduler.num_running, world.scheduler.num_waiting) == (0, 0, 0)
