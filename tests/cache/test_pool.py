"""Reference counts of pages, eviction, and what an audit finds."""

import pytest

from jaxserve.cache.pool import CacheInvariantError, PagePool
from jaxserve.errors import BadConfig


def test_page_zero_is_never_allocated():
    pool = PagePool(4)
    assert sorted(pool.allocate(3)) == [1, 2, 3]
    assert pool.num_free == 0


def test_a_pool_without_usable_pages_is_refused():
    with pytest.raises(BadConfig, match="page 0 is for padding"):
        PagePool(1)


def test_an_allocation_that_does_not_fit_changes_nothing():
    pool = PagePool(4)
    held = pool.allocate(2)
    assert pool.allocate(2) is None
    assert pool.num_free == 1
    pool.audit([held])


def test_zero_pages_can_be_allocated():
    assert PagePool(2).allocate(0) == []


def test_a_page_is_active_until_its_last_reference_is_released():
    pool = PagePool(3)
    pages = pool.allocate(1)
    pool.incref(pages)
    pool.decref(pages)
    assert pool.num_active == 1
    pool.decref(pages)
    assert (pool.num_active, pool.num_free) == (0, 2)


def test_a_page_listed_twice_is_released_twice():
    pool = PagePool(3)
    [page] = pool.allocate(1)
    pool.incref([page])
    pool.decref([page, page])
    pool.audit([])


def test_a_marked_page_stays_cached_and_can_be_referenced_again():
    pool = PagePool(3)
    pages = pool.allocate(1)
    pool.mark_cached(pages[0])
    pool.decref(pages)
    assert (pool.num_cached, pool.num_free, pool.num_active) == (1, 2, 0)
    pool.incref(pages)
    assert (pool.num_cached, pool.num_free, pool.num_active) == (0, 1, 1)
    pool.audit([pages])


def test_free_pages_are_allocated_before_cached_ones_are_evicted():
    pool = PagePool(5)
    pages = pool.allocate(2)
    for page in pages:
        pool.mark_cached(page)
    pool.decref(pages)
    assert set(pool.allocate(3)).issuperset({3, 4})
    assert pool.num_cached == 1


@pytest.mark.parametrize("misuse", ["decref", "incref", "mark_cached"])
def test_a_free_page_cannot_be_released_shared_or_marked(misuse):
    pool = PagePool(3)
    with pytest.raises(CacheInvariantError, match="page 1"):
        pool.mark_cached(1) if misuse == "mark_cached" else getattr(pool, misuse)([1])


def test_the_same_calls_give_the_same_pages():
    def trace():
        pool = PagePool(8)
        first, second = pool.allocate(3), pool.allocate(2)
        pool.decref(first)
        return first, second, pool.allocate(4)

    assert trace() == trace()


def test_an_audit_finds_a_missing_owner():
    pool = PagePool(3)
    pages = pool.allocate(1)
    with pytest.raises(CacheInvariantError, match="has 1 references and is in 0"):
        pool.audit([])
    with pytest.raises(CacheInvariantError, match="has 1 references and is in 2"):
        pool.audit([pages, pages])
    pool.audit([pages])


def test_an_audit_finds_an_owner_of_page_zero():
    with pytest.raises(CacheInvariantError, match="page 0"):
        PagePool(3).audit([[0]])


def test_an_audit_finds_a_writable_page_that_is_shared_or_marked():
    pool = PagePool(3)
    [page] = pool.allocate(1)
    pool.audit([[page]], writable=[page])
    pool.incref([page])
    with pytest.raises(CacheInvariantError, match="has 2 references"):
        pool.audit([[page], [page]], writable=[page])
    pool.decref([page])
    pool.mark_cached(page)
    with pytest.raises(CacheInvariantError, match="may be written and is marked"):
        pool.audit([[page]], writable=[page])


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda pool: pool._free.append(pool._free[0]), "free list twice"),
        (lambda pool: pool._free.pop(), "are lost"),
        (lambda pool: pool._free.append(0), "are lost, or do not belong"),
        (lambda pool: pool._evictable.update({1: None}), "in two of"),
        (lambda pool: pool._marked.add(2), "free and still marked"),
    ],
)
def test_an_audit_finds_damaged_sets(damage, complaint):
    pool = PagePool(4)
    damage(pool)
    with pytest.raises(CacheInvariantError, match=complaint):
        pool.audit([])
