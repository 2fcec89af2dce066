"""Equal keys mean equal tokens and an equal prefix; what is found again is forgotten oldest first."""

import hashlib
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxserve.cache.pool import CacheInvariantError, PagePool
from jaxserve.cache.prefix import PageHashes, PrefixIndex, hash_pages, max_cached_pages

TOKENS = st.lists(st.integers(0, 2**31 - 1), max_size=20)


def index_with(num_pages: int) -> tuple[PagePool, PrefixIndex]:
    pool = PagePool(num_pages)
    return pool, PrefixIndex(pool, page_size=2)


def fill(pool: PagePool, index: PrefixIndex, tokens: list[int]) -> list[int]:
    """A request comes, computes its pages, registers them and goes."""
    keys = hash_pages(tokens, 2)
    pages = pool.allocate(len(keys))
    for key, page in zip(keys, pages, strict=True):
        index.register(key, page)
    pool.decref(pages)
    return pages


@given(TOKENS, st.lists(st.integers(0, 5), max_size=6), st.sampled_from([None, "", "salt", "\ud800"]))
def test_keys_are_the_same_however_the_tokens_arrive(tokens, cuts, salt):
    chain = PageHashes(4, salt)
    for cut in sorted(cuts):
        chain.extend(tokens[: cut * len(tokens) // 5])
    assert chain.extend(tokens) == hash_pages(tokens, 4, salt)
    assert len(chain.hashes) == len(tokens) // 4


@given(TOKENS, TOKENS)
def test_keys_agree_exactly_as_far_as_the_tokens_do(first, second):
    for page, (a, b) in enumerate(zip(hash_pages(first, 2), hash_pages(second, 2), strict=False), start=1):
        assert (a == b) == (first[: 2 * page] == second[: 2 * page])


def test_a_key_is_the_hash_of_parent_and_little_endian_tokens():
    root = hashlib.sha256(b"\x00").digest()
    first = hashlib.sha256(b"\x02" + root + struct.pack("<2i", 7, 300)).digest()
    assert hash_pages([7, 300, 9], 2) == [first]
    assert hash_pages(np.array([7, 300, 9, 1]), 2)[0] == first


def test_every_salt_is_a_world_of_its_own_and_so_is_none():
    keys = [hash_pages([1, 2], 2, salt)[0] for salt in (None, "", "a", "b")]
    assert len(set(keys)) == 4


@pytest.mark.parametrize(("num_tokens", "pages"), [(0, 0), (1, 0), (4, 0), (5, 1), (8, 1), (9, 2)])
def test_a_hit_never_covers_the_whole_prompt(num_tokens, pages):
    assert max_cached_pages(num_tokens, 4) == pages


def test_the_longest_known_beginning_is_found():
    pool, index = index_with(8)
    pages = fill(pool, index, [1, 2, 3, 4, 5, 6])
    assert index.match(hash_pages([1, 2, 3, 4, 9, 9], 2)) == pages[:2]
    assert index.match(hash_pages([3, 4], 2)) == []


def test_the_first_page_with_a_key_wins_and_the_second_stays_private():
    pool, index = index_with(4)
    [key], (first, second) = hash_pages([1, 2], 2), pool.allocate(2)
    assert index.register(key, first)
    assert not index.register(key, second)
    pool.decref([first, second])
    assert (index.match([key]), pool.num_cached, len(index)) == ([first], 1, 1)


def test_registering_again_is_harmless_but_not_for_other_tokens():
    pool, index = index_with(4)
    (one, other), [page] = hash_pages([1, 2, 3, 4], 2), pool.allocate(1)
    assert index.register(one, page)
    assert index.register(one, page)
    with pytest.raises(CacheInvariantError, match="other tokens"):
        index.register(other, page)


def test_the_tail_of_a_chain_is_forgotten_before_its_head():
    pool, index = index_with(4)
    pages = fill(pool, index, [1, 2, 3, 4, 5, 6])
    pool.allocate(1)
    assert index.match(hash_pages([1, 2, 3, 4, 5, 6], 2)) == pages[:2]


def test_a_hit_makes_the_whole_chain_young_again():
    pool, index = index_with(5)
    old, young = fill(pool, index, [1, 2, 3, 4]), fill(pool, index, [5, 6, 7, 8])
    hit = index.match(hash_pages([1, 2, 3, 4], 2))
    pool.incref(hit)
    pool.decref(hit)
    assert set(pool.allocate(2)) == set(young)
    assert index.match(hash_pages([1, 2, 3, 4], 2)) == old


def test_a_held_page_is_not_evicted():
    pool, index = index_with(3)
    pages = fill(pool, index, [1, 2, 3, 4])
    pool.incref(pages)
    assert pool.allocate(1) is None


def test_forgetting_a_held_page_leaves_it_to_its_holders():
    pool, index = index_with(3)
    [key], [page] = hash_pages([1, 2], 2), pool.allocate(1)
    index.register(key, page)
    index.forget(page)
    assert index.match([key]) == []
    pool.audit([[page]], writable=[page])
    pool.decref([page])
    assert pool.num_cached == 0


def test_after_clearing_nothing_is_found_and_everything_is_free():
    pool, index = index_with(4)
    fill(pool, index, [1, 2, 3, 4])
    index.clear()
    assert (len(index), pool.num_cached, pool.num_free) == (0, 0, 3)
    pool.audit([])


def test_an_audit_notices_a_pool_and_an_index_that_disagree():
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
        PrefixIndex(pool, page_size=2)
