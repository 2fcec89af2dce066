"""Adapters in the scheduler: each request has its own, however few slots there are, and none waits for ever."""

import pytest

from tests.engine.world import ADAPTERS, BOTH, World, prompt
from tests.expected_output import expected_output

NONE, A, B, C, D = ADAPTERS


def add(world, adapter, length=9, **how):
    return world.add(prompt(length), guided={"adapter": adapter}, **how)


def slots_of(world):
    """The slots of all rows of each step, prompts first."""
    return [
        [chunk.adapter_slot for chunk in plan.chunks]
        + ([] if plan.decode is None or plan.decode.adapter_slot_B is None else plan.decode.adapter_slot_B.tolist())
        for plan in world.plans
    ]


@BOTH
def test_requests_of_two_adapters_and_of_none_share_a_batch(overlap):
    world = World(overlap=overlap)
    requests = [add(world, adapter) for adapter in (A, NONE, B, A)]
    world.run()
    world.check()
    assert len({expected_output(request).tokens for request in requests}) == 3, "A twice"
    assert any({0, 1, 2} == set(slots) for slots in slots_of(world)), "in one step"


def test_without_adapters_a_plan_says_nothing_of_them():
    world = World()
    add(world, NONE)
    world.run()
    assert all(plan.decode is None or plan.decode.adapter_slot_B is None for plan in world.plans)
    assert not any(plan.adapters for plan in world.plans)


@BOTH
def test_a_prefix_is_shared_by_requests_of_one_adapter_alone(overlap):
    world = World(overlap=overlap)
    for adapter in (A, B, NONE, A, B, NONE):
        add(world, adapter, length=17)
        world.run()
    world.check()
    cached = [outputs[0].num_cached_tokens for outputs in world.outputs.values()]
    assert cached == [0, 0, 0, 16, 16, 16]


def test_an_adapter_stays_in_its_slot_until_another_needs_it():
    world = World()
    for adapter in (A, B, A, B, C, B, A):
        add(world, adapter)
        world.run()
    world.check()
    written = [(slot, adapter.name) for plan in world.plans for slot, adapter in plan.adapters]
    assert written == [(1, "a"), (2, "b"), (1, "c"), (1, "a")], "the slot unused for longest"


@BOTH
def test_a_request_without_a_slot_waits_and_is_overtaken_by_those_without_an_adapter_only(overlap):
    world = World(overlap=overlap)
    first = [add(world, adapter, max_tokens=12) for adapter in (A, B)]
    world.step()
    waiting, other, later = add(world, C, max_tokens=3), add(world, NONE, max_tokens=3), add(world, A, max_tokens=3)
    order = []
    for _ in range(60):
        order += [output.request_id for output in world.step() if output.finish_reason]
    world.run()
    world.check()
    assert order[0] == other.request_id and set(order[1:3]) == {request.request_id for request in first}
    assert set(order[3:]) == {waiting.request_id, later.request_id}


@pytest.mark.parametrize("num_adapter_slots", [1, 2, 3])
@BOTH
def test_choices_beams_priorities_and_preemptions_keep_the_adapter(num_adapter_slots, overlap):
    """Too few pages, more adapters than slots."""
    world = World(num_pages=20, max_num_seqs=4, overlap=overlap, num_adapter_slots=num_adapter_slots)
    for number in range(36):
        how = {"guided": {"adapter": ADAPTERS[number % 5]}, "max_tokens": 3 + number % 9}
        length = 1 + number * 7 % 30
        if number % 6 == 5:
            world.search(prompt(1 + length % 9), 1 + number % 3, **how)
        else:
            world.add_group(prompt(length), 1 + number % 3, priority=number % 2, seed=number, temperature=1.0, **how)
        world.step()
        world.audit()
    world.run()
    world.check()
    assert world.stats.snapshot(num_running=0, num_waiting=0, num_preempted=0, cache=world.cache).counters[
        "num_preemptions"
    ]


def test_adapters_are_written_again_when_the_device_has_lost_them():
    world = World()
    requests = [add(world, adapter) for adapter in (A, B)]
    world.step()
    world.runner.calls_left["forward"] = 0
    world.run()
    world.check(*requests)
    assert sorted(adapter.name for plan in world.plans for _, adapter in plan.adapters) == ["a", "a", "b", "b"]


def test_a_request_that_ends_early_leaves_its_slot():
    world = World(num_adapter_slots=1)
    first = add(world, A, max_tokens=20)
    world.step()
    second = add(world, B)
    world.scheduler.finish(first.request_id)
    world.run()
    world.check(second)
