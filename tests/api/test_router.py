"""The choice of a replica: a cached beginning counts as much as the tokens that it saves."""

import pickle
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from jaxserve.cache.prefix import CacheContext, hash_pages
from jaxserve.router import MAX_PAGES, PrefixRouter, hash_prompt

PAGE = 4
LONG = list(range(40))
PROMPTS = st.lists(st.integers(0, 2), max_size=5 * PAGE)
LOADS = st.dictionaries(st.sampled_from("abcde"), st.integers(0, 99), min_size=1)


def route(router, prompt_ids, loads, **context):
    """Choose as EngineClient does, by number; a load of None stands for a replica that is dead."""
    prompt = hash_prompt(prompt_ids, PAGE, CacheContext(**context))
    alive = {name: load for name, load in enumerate(loads) if load is not None}
    name = router.rank(prompt, alive)[0]
    router.record(prompt, name)
    return name


def test_short_prompts_take_turns():
    router = PrefixRouter()
    assert [route(router, [i], [0, 0, 0]) for i in range(6)] == [0, 1, 2, 0, 1, 2]


def test_a_beginning_is_served_again_where_it_was():
    router = PrefixRouter()
    first = route(router, LONG, [0, 0])
    loads = [0, 0]
    loads[first] = len(LONG) // 2  # less than what is saved
    assert [route(router, [*LONG, i], loads) for i in range(3)] == [first] * 3
    assert route(router, [50, *LONG], loads) != first  # the same tokens elsewhere are another beginning


def test_a_busy_replica_loses_even_what_it_has_cached():
    router = PrefixRouter()
    assert route(router, LONG, [0, 9]) == 0
    assert route(router, LONG, [40, 1]) == 0  # 40 tokens are cached: as good as a load that is 40 lower
    assert route(router, LONG, [42, 1]) == 1


def test_salts_and_adapters_share_nothing():
    router = PrefixRouter()
    assert route(router, LONG, [0, 1], salt="a") == 0
    assert route(router, LONG, [5, 1], salt="b") == 1
    assert route(router, LONG, [5, 1], adapter="a") == 1
    assert route(router, LONG, [5, 1], salt="a") == 0


def test_a_replica_that_is_gone_is_forgotten():
    router = PrefixRouter()
    assert route(router, LONG, [0, 9]) == 0
    router.retain([1])
    assert route(router, LONG, [9, 1]) == 1
    router.retain([])
    assert (router._served, router._num_routed) == ({}, Counter())


def test_only_the_first_pages_of_a_prompt_are_compared():
    assert len(hash_prompt(range(10 * PAGE * MAX_PAGES), PAGE).hashes) == MAX_PAGES
    assert hash_prompt(range(2 * PAGE + 3), PAGE).num_tokens == 2 * PAGE + 3


@settings(deadline=None)
@given(PROMPTS, st.none() | st.text(max_size=3), st.none() | st.text(max_size=3))
def test_the_hashes_are_those_of_the_prefix_cache(prompt_ids, salt, adapter):
    context = CacheContext(salt=salt, adapter=adapter)
    prompt = hash_prompt(prompt_ids, PAGE, context)
    assert list(prompt.hashes) == hash_pages(prompt_ids, PAGE, context)
    assert pickle.loads(pickle.dumps(prompt)) == prompt


@settings(deadline=None)
@given(st.lists(PROMPTS, max_size=6), PROMPTS, LOADS)
def test_the_first_one_begins_first(earlier, prompt_ids, loads):
    router = PrefixRouter()
    for number, ids in enumerate(earlier):
        router.record(hash_prompt(ids, PAGE), "abcde"[number % 5])
    prompt = hash_prompt(prompt_ids, PAGE)

    def cost(name):
        served = [ids for number, ids in enumerate(earlier) if "abcde"[number % 5] == name]
        ends = range(PAGE, len(prompt_ids) + 1, PAGE)
        cached = [end for end in ends if any(ids[:end] == prompt_ids[:end] for ids in served)]
        return loads[name] + len(prompt_ids) - max(cached, default=0)

    ranked = router.rank(prompt, loads)
    assert sorted(ranked) == sorted(loads)
    assert [cost(name) for name in ranked] == sorted(map(cost, loads))


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), min_size=PAGE, max_size=PAGE), st.lists(PROMPTS, max_size=8), st.data())
def test_one_beginning_goes_to_one_replica_while_they_are_equally_busy(beginning, ends, data):
    """Whichever router it comes to, one that has seen others of them or none, and in whatever order."""
    names = data.draw(st.lists(st.text(), min_size=1, max_size=4, unique=True))
    routers = [PrefixRouter() for _ in range(3)]
    chosen = set()
    for end in ends:
        router = data.draw(st.sampled_from(routers))
        prompt = hash_prompt([*beginning, *end], PAGE)
        name = router.rank(prompt, dict.fromkeys(data.draw(st.permutations(names)), 7))[0]
        router.record(prompt, name)
        chosen.add(name)
    assert len(chosen) <= 1
