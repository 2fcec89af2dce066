"""The choice of a replica: a cached beginning counts as much as the tokens that it saves."""

from hypothesis import given
from hypothesis import strategies as st

from jaxserve.router import MAX_PAGES, PrefixRouter, choose_replica

PAGE = 4
LONG = list(range(40))


def test_equals_take_turns():
    router = PrefixRouter(3, PAGE)
    assert [router.route([i], [0, 0, 0]) for i in range(6)] == [0, 1, 2, 0, 1, 2]


def test_a_beginning_is_served_again_where_it_was():
    router = PrefixRouter(2, PAGE)
    assert router.route([99], [0, 0]) == 0
    assert router.route(LONG, [0, 0]) == 1
    assert [router.route([*LONG, i], [0, 0]) for i in range(3)] == [1, 1, 1]
    assert router.route([50, *LONG], [0, 0]) == 0  # the same tokens elsewhere are another beginning


def test_a_busy_replica_loses_even_what_it_has_cached():
    router = PrefixRouter(2, PAGE)
    assert router.route(LONG, [0, 9]) == 0
    assert router.route(LONG, [40, 1]) == 0  # 40 tokens are cached: as good as a load that is 40 lower
    assert router.route(LONG, [42, 1]) == 1


def test_salts_share_nothing():
    router = PrefixRouter(2, PAGE)
    assert router.route(LONG, [0, 1], cache_salt="a") == 0
    assert router.route(LONG, [5, 1], cache_salt="b") == 1
    assert router.route(LONG, [5, 1], cache_salt="a") == 0


def test_the_dead_are_left_out_unless_they_are_named():
    router = PrefixRouter(2, PAGE)
    assert [router.route(LONG, [None, 10**6]) for _ in range(2)] == [1, 1]
    assert router.route(LONG, [None, 0], rank=0) == 0
    assert router.route(LONG, [None, None]) == 0


def test_only_the_first_pages_of_a_prompt_are_compared():
    router = PrefixRouter(1, PAGE)
    assert len(list(router._hash_prefixes(range(10 * PAGE * MAX_PAGES), None))) == MAX_PAGES
    assert len(list(router._hash_prefixes(range(2 * PAGE + 3), None))) == 2


@given(st.lists(st.tuples(st.none() | st.integers(0, 99), st.integers(0, 99)), min_size=1, max_size=5))
def test_the_chosen_one_begins_first_of_the_living(replicas):
    new, loads = zip(*replicas, strict=True)
    costs = [None if tokens is None else tokens + load for tokens, load in replicas]
    chosen = choose_replica(new, loads, [0] * len(loads))
    alive = [cost for cost in costs if cost is not None]
    assert costs[chosen] == min(alive) if alive else chosen == 0
