"""Equal hashes mean equal tokens and an equal prefix; pages are evicted least recently used first."""

import hashlib
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxserve.cache.pool import CacheInvariantError, PagePool
from jaxserve.cache.prefix import CacheContext, PageHashes, PrefixIndex, hash_pages, max_cached_pages

TOKENS = st.lists(st.integers(0, 2**31 - 1), max_size=20)


def index_with(num_pages: int) -> tuple[PagePool, PrefixIndex]:
    pool = PagePool(num_pages)
    return pool, PrefixIndex(pool)


def fill(pool: PagePool, index: PrefixIndex, tokens: list[int]) -> list[int]:
    """Allocate the pages of a request, register and release them."""
    hashes = hash_pages(tokens, 2)
    pages = pool.allocate(len(hashes))
    for page_hash, page in zip(hashes, pages, strict=True):
        index.register(page_hash, page)
    pool.decref(pages)
    return pages


@given(TOKENS, st.lists(st.integers(0, 5), max_size=6), st.sampled_from([None, "", "salt", "\ud800"]))
def test_hashes_are_the_same_however_the_tokens_arrive(tokens, cuts, salt):
    context = CacheContext(salt=salt)
    page_hashes = PageHashes(4, context)
    for cut in sorted(cuts):
        page_hashes.extend(tokens[: cut * len(tokens) // 5])
    assert page_hashes.extend(tokens) == hash_pages(tokens, 4, context)
    assert len(page_hashes.hashes) == len(tokens) // 4


@given(TOKENS, TOKENS)
def test_hashes_agree_exactly_as_far_as_the_tokens_do(first, second):
    for page, (a, b) in enumerate(zip(hash_pages(first, 2), hash_pages(second, 2), strict=False), start=1):
        assert (a == b) == (first[: 2 * page] == second[: 2 * page])


def test_a_page_hash_covers_parent_and_little_endian_tokens():
    root = CacheContext().hash()
    first = hashlib.sha256(b"\x02" + root + struct.pack("<2i", 7, 300)).digest()
    assert hash_pages([7, 300, 9], 2) == [first]
    assert hash_pages(np.array([7, 300, 9, 1]), 2)[0] == first


def test_every_context_gives_different_hashes():
    texts = (None, "", "a", "ab", "b")
    contexts = [CacheContext(salt=salt, adapter=adapter) for salt in texts for adapter in texts]
    contexts += [CacheContext(weights_version=version) for version in texts[1:]]
    assert len({hash_pages([1, 2], 2, context)[0] for context in contexts}) == len(contexts) == 29


@pytest.mark.parametrize(("num_tokens", "pages"), [(0, 0), (1, 0), (4, 0), (5, 1), (8, 1), (9, 2)])
def test_a_hit_never_covers_the_whole_prompt(num_tokens, pages):
    assert max_cached_pages(num_tokens, 4) == pages


def test_the_longest_cached_prefix_is_found():
    pool, index = index_with(8)
    pages = fill(pool, index, [1, 2, 3, 4, 5, 6])
    assert index.match(hash_pages([1, 2, 3, 4, 9, 9], 2)) == pages[:2]
    assert index.match(hash_pages([3, 4], 2)) == []


def test_the_first_page_with_a_hash_wins_and_the_second_stays_private():
    pool, index = index_with(4)
    [page_hash], (first, second) = hash_pages([1, 2], 2), pool.allocate(2)
    assert index.register(page_hash, first)
    assert not index.register(page_hash, second)
    pool.decref([first, second])
    assert (index.match([page_hash]), pool.num_cached, len(index)) == ([first], 1, 1)


def test_registering_again_is_harmless_but_not_for_other_tokens():
    pool, index = index_with(4)
    (page_hash, other), [page] = hash_pages([1, 2, 3, 4], 2), pool.allocate(1)
    assert index.register(page_hash, page)
    assert index.register(page_hash, page)
    with pytest.raises(CacheInvariantError, match="other tokens"):
        index.register(other, page)


def test_the_last_page_of_a_prefix_is_evicted_before_the_first():
    pool, index = index_with(4)
    pages = fill(pool, index, [1, 2, 3, 4, 5, 6])
    pool.allocate(1)
    assert index.match(hash_pages([1, 2, 3, 4, 5, 6], 2)) == pages[:2]


def test_a_hit_makes_the_whole_prefix_recently_used():
    pool, index = index_with(5)
    older, newer = fill(pool, index, [1, 2, 3, 4]), fill(pool, index, [5, 6, 7, 8])
    hit = index.match(hash_pages([1, 2, 3, 4], 2))
    pool.incref(hit)
    pool.decref(hit)
    assert set(pool.allocate(2)) == set(newer)
    assert index.match(hash_pages([1, 2, 3, 4], 2)) == older


def test_a_referenced_page_is_not_evicted():
    pool, index = index_with(3)
    pages = fill(pool, index, [1, 2, 3, 4])
    pool.incref(pages)
    assert pool.allocate(1) is None


def test_forgetting_a_referenced_page_keeps_its_references():
    pool, index = index_with(3)
    [page_hash], [page] = hash_pages([1, 2], 2), pool.allocate(1)
    index.register(page_hash, page)
    index.forget(page)
    assert index.match([page_hash]) == []
    pool.audit([[page]], writable=[page])
    pool.decref([page])
    assert pool.num_cached == 0


def test_after_clearing_nothing_is_found_and_everything_is_free():
    pool, index = index_with(4)
    fill(pool, index, [1, 2, 3, 4])
    index.clear()
    assert (len(index), pool.num_cached, pool.num_free) == (0, 0, 3)
    pool.audit([])


def test_an_audit_finds_a_pool_and_an_index_that_disagree():
    pool, index = index_with(3)
    fill(pool, index, [1, 2])
    pool._marked.add(2)
    pool._free.remove(2)
    pool._evictable[2] = None
    with pytest.raises(CacheInvariantError, match="disagree whether page 2"):
        pool.audit([])


def test_a_pool_has_one_index():
    pool, _ = index_with(3)
    with pytest.raises(CacheInvariantError):
        PrefixIndex(pool)
