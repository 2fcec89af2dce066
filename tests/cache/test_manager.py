"""The cache manager with a full and a window group: hits that both can serve, pages behind windows, forks, audits."""

import pytest

from jaxserve.cache.groups import GroupSize, first_visible_page, max_window_pages
from jaxserve.cache.invariants import audit_pages
from jaxserve.cache.manager import CacheManager
from jaxserve.cache.pool import CacheInvariantError
from jaxserve.cache.prefix import NO_CONTEXT, CacheContext

PAGE, WINDOW = 4, 6
FULL, WINDOWED = 0, 1
TOKENS = list(range(22))


def make(num_pages=20, **settings) -> CacheManager:
    sizes = [GroupSize(num_pages=num_pages), GroupSize(num_pages=num_pages, window=WINDOW)]
    return CacheManager(sizes, page_size=PAGE, **settings)


def start(cache, tokens=TOKENS, context=NO_CONTEXT):
    """Start a sequence with its longest hit; its first step computes all other tokens."""
    pages = cache.new_pages(context)
    hit = cache.find_hit(pages, tokens)
    assert cache.start(pages, hit, cache.count_missing(hit, len(tokens), len(tokens)), (0, 0)) == []
    return pages, hit


def finish(cache, tokens=TOKENS, **settings):
    """Compute a sequence to its end and free it; return its pages as they were."""
    pages, _ = start(cache, tokens, **settings)
    before = tuple(list(group) for group in pages.by_group)
    cache.register(pages, tokens, len(tokens))
    audit_pages(cache, [pages], [(pages, len(tokens))])
    cache.free(pages)
    audit_pages(cache, [])
    return before


@pytest.mark.parametrize("window", range(1, 14))
def test_a_query_sees_no_more_pages_than_the_most_and_no_key_of_the_page_before(window):
    for position in range(60):
        first, last = first_visible_page(position, window, PAGE), position // PAGE
        assert last - first + 1 <= max_window_pages(window, PAGE)
        assert first == 0 or first * PAGE - 1 <= position - window


def test_pages_behind_the_window_are_zeros_and_can_be_found_until_they_are_reused():
    cache = make()
    pages, _ = start(cache)
    assert cache.register(pages, TOKENS, 21)
    assert (pages.by_group[WINDOWED][:4], pages.num_freed) == ([0] * 4, [0, 4])
    assert cache.pools[WINDOWED].num_active == 2 and cache.pools[FULL].num_active == 6
    assert cache.find_hit(cache.new_pages(), TOKENS).num_pages == 5


def test_pages_that_a_step_in_flight_may_read_are_not_freed():
    cache = make()
    pages, _ = start(cache)
    cache.register(pages, TOKENS, 12)
    assert pages.num_freed == [0, 1]


def test_a_hit_has_every_full_page_but_only_the_window_pages_that_the_next_query_sees():
    cache = make()
    full, windowed = finish(cache)
    hit = cache.find_hit(cache.new_pages(), TOKENS)
    assert hit.by_group == (full[:5], [0, 0, 0, *windowed[3:5]])


@pytest.mark.parametrize(("lost", "hit"), [(0, 5), (2, 5), (3, 3), (4, 4)])
def test_a_lost_window_page_shortens_the_hit_to_what_does_not_need_it(lost, hit):
    cache = make()
    _, windowed = finish(cache)
    cache.indexes[WINDOWED].forget(windowed[lost])
    assert cache.find_hit(cache.new_pages(), TOKENS).num_pages == hit


def test_a_lost_full_page_ends_the_hit_before_it():
    cache = make()
    full, _ = finish(cache)
    cache.indexes[FULL].forget(full[2])
    assert cache.find_hit(cache.new_pages(), TOKENS).num_pages == 2


def test_another_context_finds_nothing():
    cache = make()
    finish(cache)
    assert cache.find_hit(cache.new_pages(CacheContext(adapter="other")), TOKENS).num_pages == 0


def test_a_start_that_one_group_cannot_serve_changes_no_group():
    cache = CacheManager([GroupSize(num_pages=20), GroupSize(num_pages=4, window=WINDOW)], page_size=PAGE)
    pages = cache.new_pages()
    hit = cache.find_hit(pages, TOKENS)
    assert cache.start(pages, hit, (6, 6), (0, 0)) is None
    assert cache.start(pages, hit, (6, 2), (0, 2)) is None
    assert cache.num_active == 0
    assert cache.start(pages, hit, cache.count_missing(hit, len(TOKENS), 12), (0, 0)) == []
    assert pages.lengths == (6, 3)


def test_a_fork_shares_what_it_sees_and_copies_the_page_that_it_will_write():
    cache = make()
    parent, _ = start(cache)
    child = cache.fork(parent, cache.new_pages(), len(TOKENS))
    assert child.by_group == (parent.by_group[FULL][:5], [0] * 4 + parent.by_group[WINDOWED][4:5])
    copies = cache.append(child, len(TOKENS))
    assert copies == [(group, parent.by_group[group][5], child.by_group[group][5]) for group in (FULL, WINDOWED)]
    audit_pages(cache, [parent, child], [(parent, 22), (child, 22)])
    assert cache.append(child, 25) == []


def test_without_prefix_cache_pages_behind_the_window_are_free_at_once():
    cache = make(has_prefix_cache=False)
    pages, hit = start(cache)
    cache.register(pages, TOKENS, 22)
    assert (hit.num_pages, pages.num_freed, cache.pools[WINDOWED].num_free) == (0, [0, 4], 17)


def test_what_others_would_release_counts_shared_and_wanted_pages_once():
    cache = make(num_pages=9)
    finish(cache)
    first, hit = start(cache)
    second = cache.fork(first, cache.new_pages(), len(TOKENS))
    cache.append(second, len(TOKENS))
    release = cache.plan_release(hit)
    assert release.allows((1, 0), (0, 0)) and not release.allows((2, 0), (0, 0))
    release.add(first)
    assert release.allows((2, 0), (0, 0)) and not release.allows((3, 0), (0, 0))
    release.add(second)
    assert release.allows((3, 0), (0, 0)) and not release.allows((4, 0), (0, 0))


def test_an_audit_finds_a_zero_in_place_of_a_page_and_a_page_in_place_of_a_zero():
    cache = make()
    pages, _ = start(cache)
    cache.register(pages, TOKENS, 22)
    for change in ((WINDOWED, 0, 9), (FULL, 3, 0), (WINDOWED, 5, 0)):
        group, number, page = change
        before, pages.by_group[group][number] = pages.by_group[group][number], page
        with pytest.raises(CacheInvariantError, match="freed"):
            audit_pages(cache, [pages])
        pages.by_group[group][number] = before
    audit_pages(cache, [pages])


def test_a_sequence_has_one_slot_of_a_recurrent_group_and_a_fork_a_copy_of_it():
    sizes = [GroupSize(num_pages=20), GroupSize(num_pages=4, num_rows=2, name="recurrent state")]
    cache = CacheManager(sizes, page_size=PAGE)
    parent = cache.new_pages()
    hit = cache.find_hit(parent, TOKENS)
    assert cache.count_missing(hit, len(TOKENS), 8) == (6, 1)
    cache.start(parent, hit, (6, 1), (0, 0))
    assert (parent.lengths, cache.capacity(parent)) == ((6, 1), 24)
    cache.register(parent, TOKENS, 20)
    child = cache.fork(parent, cache.new_pages(), 20)
    assert cache.append(child, 20) == [(1, parent.by_group[1][0], child.by_group[1][0])]
    assert cache.append(parent, 25) == []
    audit_pages(cache, [parent, child], [(parent, 22), (child, 20)])
    cache.free(parent)
    cache.free(child)
    assert cache.num_active == 0
