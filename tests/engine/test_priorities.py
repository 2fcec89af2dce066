"""Who goes first when requests have priorities: lower ones, then earlier ones; and nobody's answer shows it."""

from collections import Counter

import pytest

from tests.engine.world import BOTH, PAGE, World, prompt


def starts(world: World) -> list[int]:
    """Requests in the order in which their first tokens were planned."""
    chunks = [chunk for plan in world.plans for chunk in plan.chunks]
    return list(dict.fromkeys(chunk.request_id for chunk in chunks))


def preemptions(world: World) -> int:
    return int(world.stats.snapshot(num_running=0, num_waiting=0).counters["num_preemptions"])


def decoding(world: World) -> set[int]:
    plan = world.plans[-1]
    return set(plan.decode.request_ids) if plan.decode else set()


@BOTH
def test_the_queue_is_in_order_of_priority_and_then_of_arrival(overlap):
    world = World(max_num_seqs=1, overlap=overlap)
    priorities = [5, 0, -7, 5, -7, 0]
    for i, priority in enumerate(priorities):
        world.add(prompt(5, 2 + i), priority=priority)
    world.run()
    world.check()
    assert starts(world) == [3, 5, 2, 6, 1, 4]
    assert preemptions(world) == 0


@BOTH
def test_a_better_one_takes_the_row_of_the_worst_running_one(overlap):
    world = World(max_num_seqs=3, overlap=overlap)
    for i, priority in enumerate((1, 2, 2)):
        world.add(prompt(5, 2 + i), max_tokens=40, eos=None, priority=priority)
    for _ in range(4):
        world.step()
    best = world.add(prompt(6, 9), max_tokens=4, eos=None, priority=0)
    world.step()
    assert world.plans[-1].chunks[0].request_id == best.request_id
    assert decoding(world) == {1, 2}
    world.run()
    world.check()
    assert preemptions(world) == 1


@BOTH
def test_a_better_one_takes_the_pages_of_no_more_than_it_needs(overlap):
    world = World(num_pages=41, overlap=overlap)
    for i in range(4):
        world.add(prompt(5 * PAGE, 2 + i), max_tokens=40, eos=None, priority=5)
    for _ in range(8):
        world.step()
    assert decoding(world) == {1, 2, 3, 4}
    best = world.add(prompt(12 * PAGE, 9), max_tokens=4, eos=None, priority=0)
    world.step()
    assert world.plans[-1].chunks[0].request_id == best.request_id
    assert decoding(world) == {1, 2, 3}
    world.run()
    world.check()


@BOTH
def test_one_that_would_not_fit_even_then_preempts_nobody(overlap):
    world = World(num_pages=31, overlap=overlap)
    for i in range(3):
        world.add(prompt(5 * PAGE, 2 + i), max_tokens=20, eos=None, priority=i % 3)
    for _ in range(7):
        world.step()
    assert decoding(world) == {1, 2, 3}
    world.add(prompt(18 * PAGE, 9), max_tokens=4, eos=None, priority=1)  # needs the pages of the first, too
    world.run()
    world.check()
    assert preemptions(world) == 0


@BOTH
def test_equals_do_not_preempt_each_other(overlap):
    world = World(max_num_seqs=2, overlap=overlap)
    for i in range(6):
        world.add(prompt(5, 2 + i), max_tokens=9, eos=None, priority=-3)
        world.step()
    world.run()
    world.check()
    assert starts(world) == [1, 2, 3, 4, 5, 6] and preemptions(world) == 0


@BOTH
def test_who_was_preempted_comes_back_before_those_of_its_priority_that_came_later(overlap):
    world = World(max_num_seqs=1, overlap=overlap)
    world.add(prompt(5), max_tokens=20, eos=None, priority=1)
    for _ in range(4):
        world.step()
    world.add(prompt(5, 3), priority=1)
    world.add(prompt(5, 4), priority=0)
    world.run()
    world.check()
    lives = [(chunk.request_id, chunk.epoch) for plan in world.plans for chunk in plan.chunks]
    assert lives == [(1, 0), (3, 0), (1, 1), (2, 0)]


@BOTH
def test_a_long_prompt_of_worse_priority_lets_a_better_one_ahead(overlap):
    world = World(num_pages=64, budget=8, chunk=8, overlap=overlap)
    world.add(prompt(100), max_tokens=2, eos=None, priority=1)
    world.step()
    best = world.add(prompt(8, 5), max_tokens=2, eos=None, priority=0)
    world.step()
    assert [chunk.request_id for chunk in world.plans[-1].chunks] == [best.request_id]
    world.run()
    world.check()


@BOTH
@pytest.mark.parametrize("num_pages", [40, 60])
def test_who_comes_back_makes_a_page_of_tokens_before_a_better_one_takes_its_place(num_pages, overlap):
    world = World(num_pages=num_pages, max_num_seqs=3, budget=100, chunk=96, overlap=overlap)
    for i in range(8):
        world.add(prompt(4 + i % 7, 2 + i), max_tokens=60, eos=None, priority=1)
    for i in range(150):
        if i % 4 == 3:
            world.add(prompt(4 + i % 7, 2 + i), max_tokens=2, eos=None, priority=0)
        world.step()
    world.run()
    world.check()
    lives: Counter[tuple[int, int]] = Counter()
    for plan in world.plans:
        lives.update((chunk.request_id, chunk.epoch) for chunk in plan.chunks if chunk.is_last)
        if plan.decode:
            lives.update(zip(plan.decode.request_ids, plan.decode.epochs, strict=True))
    last = {i: max(epoch for other, epoch in lives if other == i) for i, _ in lives}
    assert preemptions(world) > 5
    assert all(tokens >= PAGE for (i, epoch), tokens in lives.items() if 0 < epoch < last[i])


@BOTH
def test_a_stream_of_better_ones_makes_the_worst_wait_and_changes_no_answer(overlap):
    world = World(num_pages=20, max_num_seqs=3, overlap=overlap)
    for i in range(25):
        world.add(prompt(1 + 7 * i % 30, 2 + i), max_tokens=3 + i, priority=-i, temperature=float(i % 2), seed=i)
        world.step()
    world.run()
    world.check()
    assert preemptions(world) > 3
