"""Window groups in the scheduler: rows hold no more than their windows, and outputs are those of full attention."""

import pytest

from jaxserve.cache.groups import max_window_pages
from jaxserve.cache.pool import CacheInvariantError
from tests.engine.world import BOTH, PAGE, World, prompt

WINDOW = 6
HELD = max_window_pages(WINDOW, PAGE) + 2  # pages of a decoding row: one comes before another goes


def run_and_count(world):
    """Run to the end, audited; return the most pages in use by group, once nothing is prefilled any more."""
    most = [0] * len(world.cache.pools)
    while world.scheduler.has_work or world.in_flight:
        world.step()
        world.audit()
        if world.plans[-1] and not world.plans[-1].chunks:
            most = [max(a, pool.num_active) for a, pool in zip(most, world.cache.pools, strict=True)]
    world.check()
    return most


@BOTH
@pytest.mark.parametrize("prefix", [True, False])
def test_a_long_output_holds_a_window_of_pages(overlap, prefix):
    world = World(windows=(None, WINDOW), overlap=overlap, prefix=prefix)
    world.add(prompt(50), max_tokens=100, eos=None)
    full, windowed = run_and_count(world)
    assert full >= 37 and windowed <= HELD + 16 // PAGE


@BOTH
def test_a_model_of_windows_alone_decodes_more_than_its_pool_holds(overlap):
    world = World(windows=(WINDOW,), overlap=overlap, chunk=8)
    world.add(prompt(100), max_tokens=100, eos=None)
    world.run()
    world.check()
    assert world.cache.pools[0].num_usable * PAGE < 60
    assert world.stats.snapshot(num_running=0, num_waiting=0).counters["num_preemptions"] == 0


@BOTH
@pytest.mark.parametrize("chunk", [4, 8, 16])
def test_a_second_turn_hits_though_its_window_pages_were_freed_and_reused_by_others(chunk, overlap):
    world = World(windows=(None, WINDOW), overlap=overlap, chunk=chunk, num_pages=200)
    first = world.add(prompt(41), max_tokens=20, eos=None)
    world.run()
    again = world.add([*prompt(41), *world.tokens(first)], max_tokens=9, eos=None)
    world.run()
    for number in range(9):
        world.add(prompt(30, start=3 + number), max_tokens=9, eos=None)
    world.run()
    late = world.add([*prompt(41), *world.tokens(first), 5], max_tokens=9, eos=None)
    world.run()
    world.check()
    assert world.outputs[again.request_id][0].num_cached_tokens == 60
    assert world.outputs[late.request_id][0].num_cached_tokens < 60


@BOTH
def test_prompts_beyond_the_pool_of_windows_are_preempted_and_end_the_same(overlap):
    world = World(windows=(None, WINDOW), overlap=overlap, chunk=16, budget=64)
    requests = [world.add(prompt(60, start=2 + number), max_tokens=20) for number in range(6)]
    world.run()
    world.check(*requests)


@BOTH
def test_choices_and_beams_share_and_free_the_pages_of_windows(overlap):
    world = World(windows=(WINDOW, None), overlap=overlap, num_pages=200, chunk=8)
    world.add_group(prompt(45), 4, max_tokens=30, temperature=1.0, eos=None)
    world.search(prompt(33), 3, max_tokens=30, eos=None)
    world.run()
    world.check()


@pytest.mark.parametrize("copy", ["row table", "decode batch"])
def test_an_audit_compares_every_copy_of_the_page_tables(copy):
    world = World(windows=(None, WINDOW))
    world.add(prompt(20), max_tokens=20, eos=None)
    for _ in range(4):
        world.step()
    requests = world.scheduler._requests
    tables = requests.rows.page_tables_RW if copy == "row table" else world.scheduler._decode._cache.page_tables_BW
    row = requests.running[0].row if copy == "row table" else 0
    tables[1][row, 0] = 7
    with pytest.raises(CacheInvariantError, match="page tables"):
        world.audit()
