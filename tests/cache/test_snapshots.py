"""Snapshots of recurrent states: where they are found, who owns their slots, and which is evicted first."""

from jaxserve.cache.groups import GroupSize
from jaxserve.cache.invariants import audit_pages
from jaxserve.cache.manager import CacheManager
from jaxserve.cache.slot_pool import SlotPool, SnapshotCounts

PAGE, STATES = 4, 1
TOKENS = list(range(50))


def make(num_slots=6, num_rows=2, num_host_pages=0) -> CacheManager:
    states = GroupSize(num_pages=1 + num_slots, num_rows=num_rows, num_host_pages=num_host_pages)
    return CacheManager([GroupSize(num_pages=99), states], page_size=PAGE)


def start(cache, tokens=TOKENS):
    pages = cache.new_pages()
    hit = cache.find_hit(pages, tokens)
    copies = cache.start(pages, hit, cache.count_missing(hit, len(tokens), len(tokens)), (0, 0))
    return pages, hit, copies


def keep(cache, position, tokens=TOKENS):
    """Compute a sequence with a snapshot at this position; return the snapshot's slot."""
    pages, _, _ = start(cache, tokens)
    assert cache.snapshots.is_missing(pages, tokens, position)
    [(group, source, slot)] = cache.snapshots.plan(pages, position)
    assert (group, source) == (STATES, pages.by_group[STATES][0])
    audit_pages(cache, [pages])
    cache.register(pages, tokens, len(tokens))
    cache.free(pages)
    audit_pages(cache, [])
    return slot


def test_a_hit_ends_at_a_snapshot_though_more_pages_are_cached():
    cache = make()
    slot = keep(cache, 20)
    pages, hit, copies = start(cache)
    assert (hit.num_pages, hit.num_matched) == (5, 12)
    assert copies == [(STATES, slot, pages.by_group[STATES][0])]
    assert cache.snapshot_counts.num_restored == 1
    audit_pages(cache, [pages], [(pages, 20)])


def test_a_snapshot_is_found_when_its_tokens_are_written_and_not_before():
    cache = make()
    pages, _, _ = start(cache)
    cache.snapshots.plan(pages, 20)
    cache.register(pages, TOKENS, 16)
    assert cache.snapshots.is_missing(pages, TOKENS, 20)
    cache.register(pages, TOKENS, 20)
    assert not cache.snapshots.is_missing(pages, TOKENS, 20)
    cache.snapshots.plan(pages, 16)  # is written already
    assert not cache.snapshots.is_missing(pages, TOKENS, 16)
    audit_pages(cache, [pages])


def test_a_snapshot_whose_tokens_are_never_written_leaves_nothing():
    cache = make()
    pages, _, _ = start(cache)
    cache.snapshots.plan(pages, 20)
    cache.snapshots.roll(pages, 40)
    cache.free(pages)
    assert (cache.num_active, cache.snapshots.num_held, len(cache.indexes[STATES])) == (0, 0, 0)


def test_the_rolling_snapshot_is_overwritten_at_page_borders_and_registered_at_the_end():
    cache = make()
    pages, _, _ = start(cache)
    [(_, _, slot)] = cache.snapshots.roll(pages, 20)
    assert cache.snapshots.roll(pages, 22) == cache.snapshots.roll(pages, 24) == []
    assert [target for _, _, target in cache.snapshots.roll(pages, 36)] == [slot]
    audit_pages(cache, [pages])
    cache.register(pages, TOKENS, 39)
    cache.free(pages)
    _, hit, _ = start(cache)
    assert (hit.num_pages, hit.snapshot) == (9, ((STATES, slot),))


def test_snapshots_leave_a_slot_to_each_row_and_one_to_restore_from():
    cache = make(num_slots=5)
    first, _, _ = start(cache)
    assert cache.snapshots.plan(first, 4) and cache.snapshots.plan(first, 8)
    assert cache.snapshots.plan(first, 12) == []
    second, _, _ = start(cache)
    assert second.by_group[STATES] and cache.pools[STATES].num_free == 1
    audit_pages(cache, [first, second])


def test_the_snapshot_of_a_hit_is_not_evicted_for_the_slot_of_the_row_that_restores_it():
    cache = make(num_slots=3, num_rows=1)
    slot = keep(cache, 8)
    other = keep(cache, 48, [7] * 50)
    assert slot != other
    pages, hit, copies = start(cache)
    assert hit.num_pages == 2 and copies == [(STATES, slot, pages.by_group[STATES][0])]
    cache.free(pages)
    assert start(cache)[1].num_pages == 2


def test_an_evicted_snapshot_goes_to_host_memory_and_is_restored_from_there():
    cache = make(num_slots=3, num_rows=1, num_host_pages=2)
    slot = keep(cache, 8)
    for first in (100, 200):  # each has a slot for its row and one for its snapshot
        keep(cache, 8, [first, *TOKENS[1:]])
    [(_, source, host)] = cache.page_copies.take()
    assert (source, host >= cache.sizes[STATES].num_pages) == (slot, True)
    assert cache.snapshot_counts.num_offloaded == 1 and cache.snapshot_counts.num_evicted == 0
    pages, hit, copies = start(cache)
    assert hit.num_pages == 2 and copies == [(STATES, host, pages.by_group[STATES][0])]
    assert cache.snapshot_counts.num_reloaded == 1
    assert not cache.snapshots.is_missing(pages, TOKENS, 8)
    audit_pages(cache, [pages])


def test_host_memory_never_loses_what_is_being_restored():
    cache = make(num_slots=3, num_rows=1, num_host_pages=1)
    for first in (100, 200, 300):
        keep(cache, 8, [first, *TOKENS[1:]])
    [(_, _, host)] = cache.page_copies.take()
    pages, _, [(_, source, slot)] = start(cache, [100, *TOKENS[1:]])
    assert source == host >= cache.sizes[STATES].num_pages > slot
    assert all(target != host for _, _, target in cache.page_copies.take())
    audit_pages(cache, [pages])


def test_two_sequences_that_start_together_may_exchange_the_slots_of_their_snapshots():
    """The first evicts what the second one restores, and its own snapshot is the cheapest to evict then."""
    cache = make(num_slots=5, num_rows=3, num_host_pages=4)
    first, second = ([number, *TOKENS[1:]] for number in (100, 200))
    slots = [keep(cache, 8, first), keep(cache, 8, second)]
    for number in (300, 400):
        keep(cache, 48, [number, *TOKENS[1:]])
    start(cache, [500] * 50)  # has the last free slot
    rows = []
    for tokens in (second, first):
        pages, hit, copies = start(cache, tokens)
        assert hit.num_pages == 2
        cache.page_copies.plan(copies)
        rows += pages.by_group[STATES]
    assert rows == slots
    copies = cache.page_copies.take()
    assert {copy for copy in copies if copy[2] in slots} == {(STATES, slots[1], slots[0]), (STATES, slots[0], slots[1])}


def test_host_memory_counts_what_it_loses_and_a_cleared_cache_has_nothing_there():
    cache = make(num_slots=3, num_rows=1, num_host_pages=1)
    for first in range(100, 600, 100):
        keep(cache, 8, [first, *TOKENS[1:]])
    counts = cache.snapshot_counts
    assert counts.num_offloaded == counts.num_evicted + 1 > 1
    cache.clear_prefix_cache()
    assert all(not start(cache, [first, *TOKENS[1:]])[1].num_pages for first in range(100, 200, 100))


def make_pool(costs):
    """A pool whose pages 1, 2, … are cached in this order, with these costs."""
    pool = SlotPool(len(costs) + 1, SnapshotCounts())
    for page in pool.allocate(len(costs)) or ():
        pool.mark_cached(page)
        pool.set_cost(page, costs[page - 1])
        pool.decref([page])
    return pool


def test_what_costs_least_goes_first_and_of_equals_the_least_recently_used():
    pool = make_pool([30, 10, 20, 10])
    assert [pool.allocate(1) for _ in range(4)] == [[2], [4], [3], [1]]
    pool = make_pool([10, 10, 10])
    pool.incref([1])
    pool.decref([1])
    assert [pool.allocate(1) for _ in range(3)] == [[2], [3], [1]]


def test_a_costly_snapshot_that_nobody_uses_does_not_stay_for_ever():
    pool = make_pool([100, 30])
    evicted = []
    for _ in range(5):
        [page] = pool.allocate(1)
        evicted.append(page)
        pool.mark_cached(page)
        pool.set_cost(page, 30)
        pool.decref([page])
    assert evicted == [2, 2, 2, 1, 2]
    pool.audit([])
