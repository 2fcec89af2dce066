"""The evaluation of invariants: all hold in a busy engine, and each damage is found under its own name."""

import pytest

from jaxserve.cache.pool import CacheInvariantError
from jaxserve.engine.invariants import INVARIANTS
from jaxserve.engine.plan import StepPlan
from jaxserve.sampling.columns import TEMPERATURE
from tests.engine.world import BOTH, World, prompt

WINDOWS = (None, 40)


def make_busy(overlap=False, **settings) -> World:
    """A world in which requests run and wait, and choices share pages."""
    world = World(windows=WINDOWS, max_num_seqs=5, num_pages=100, overlap=overlap, chunk=16, budget=40, **settings)
    world.add(prompt(50), max_tokens=60, eos=None, repetition_penalty=1.5)
    world.add_group(prompt(9, start=9), 2, max_tokens=40, eos=None, temperature=1.0)
    world.search(prompt(13, start=5), 2, max_tokens=30, eos=None)
    for start in range(3):
        world.add(prompt(30, start=12 + start), max_tokens=40, eos=None, priority=1)
    for _ in range(8):
        world.step()
    return world


def make_searching() -> World:
    world = World()
    world.search(prompt(13), 2, max_tokens=30, eos=None)
    for _ in range(4):
        world.step()
    return world


def check(world: World) -> dict[str, bool | str]:
    return world.scheduler.check_invariants([plan for plan, _ in world.in_flight])


@BOTH
def test_all_hold_in_a_busy_engine_and_in_an_idle_one(overlap):
    world = make_busy(overlap)
    assert world.scheduler.num_running > 2 and world.scheduler.num_waiting
    assert check(world) == dict.fromkeys(INVARIANTS, True)
    world.run()
    assert check(world) == dict.fromkeys(INVARIANTS, True)


def table(world):
    return world.scheduler._requests


def running(world, index=0):
    return table(world).running[index]


def beam_state(world):
    return table(world).beams.list_states()[0]


def duplicate_running(world):
    table(world).waiting.append(running(world))


def keep_outputs_of_one_that_left(world):
    request_id = running(world).request.request_id
    timeline = table(world).request_outputs._timelines[request_id]
    world.scheduler.finish(request_id)
    table(world).request_outputs._timelines[request_id] = timeline


def append_page(world):
    pages = running(world).pages
    pages.by_group[0].append(*world.cache.pools[0].allocate(1))
    table(world).rows.write_pages(running(world), pages.lengths)


def keep_page_behind_window(world):
    pages = running(world).pages
    [page] = world.cache.pools[1].allocate(1)
    pages.num_freed[1] -= 1
    pages.by_group[1][pages.num_freed[1]] = page


def find_page_under_other_tokens(world):
    index, page = world.cache.indexes[0], running(world).pages.by_group[0][0]
    index.forget(page)
    index.register(b"other", page)


def cache_unfilled_page(world):
    world.cache.indexes[0].register(b"unfilled", running(world).pages.by_group[0][-1])


def share_at_another_place(world):
    first, second = running(world).pages.by_group[0], running(world, 1).pages.by_group[0]
    world.cache.pools[0].decref([second[0]])
    world.cache.pools[0].incref([first[1]])
    second[0] = first[1]


def announce_without_running(world):
    table(world).prefix_reuse._computing[b"hash"] = table(world).waiting[-1].request.request_id


def lose_beam_results(world):
    beam_state(world).has_results = False


DAMAGE = {
    "I1": lambda world: world.cache.pools[0]._free.pop(),
    "I2": lambda world: world.cache.pools[0].incref(running(world).pages.by_group[0][:1]),
    "I3": lambda world: world.cache.pools[0]._free.append(world.cache.pools[0]._free[0]),
    "I4": lambda world: table(world).rows.page_tables_RW[0].__setitem__((running(world).row, 0), 39),
    "I5": append_page,
    "I5 beams": lambda world: beam_state(world).pages[0].by_group[0].extend(world.cache.pools[0].allocate(2)),
    "I5 window": keep_page_behind_window,
    "I6": find_page_under_other_tokens,
    "I7": cache_unfilled_page,
    "I9": duplicate_running,
    "I9 outputs": keep_outputs_of_one_that_left,
    "I9 beams": lambda world: table(world).beams._owners.pop(beam_state(world).sequence.request.choice_ids[1]),
    "I9 waiting": lambda world: setattr(table(world).waiting[0], "num_computed", 1),
    "I10": lambda world: setattr(running(world), "row", running(world, 1).row),
    "I10 free": lambda world: table(world).rows.free_rows.append(running(world).row),
    "I11": lambda world: setattr(running(world), "num_computed", running(world).num_tokens + 1),
    "I11 prompt": lambda world: running(world).tokens.__setitem__(0, 1),
    "I13": lambda world: object.__setattr__(running(world).request, "max_total_tokens", 10**6),
    "I14": lambda world: setattr(running(world), "num_pending", 2),
    "I14 prefix": announce_without_running,
    "I14 beams": lose_beam_results,
    "I16": lambda world: table(world).waiting.reverse(),
    "I18": lambda world: table(world).rows.sampling_RS.__setitem__((running(world).row, TEMPERATURE), 7),
    "I20": share_at_another_place,
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damage_is_found_under_the_name_of_its_invariant(name):
    world = make_searching() if "beams" in name else make_busy()
    DAMAGE[name](world)
    sentence = check(world)[name.split()[0]]
    assert isinstance(sentence, str) and sentence


@pytest.mark.parametrize(
    "keep",
    [
        lambda world: world.cache.pools[0].allocate(1),
        lambda world: table(world).rows.free_rows.pop(),
        lambda world: table(world).prefix_reuse._computing.update({b"hash": 1}),
        lambda world: world.scheduler._search._groups.append({1: 1}),
        lambda world: world.scheduler._prefill.page_copies.append((0, 1, 2)),
    ],
)
def test_what_is_kept_without_requests_is_found(keep):
    world = make_busy()
    world.run()
    keep(world)
    assert isinstance(check(world)["I19"], str)
    with pytest.raises(CacheInvariantError, match="I19"):
        world.scheduler.audit_leftovers()


@pytest.mark.parametrize("damage", ["budget", "row", "nothing"])
def test_a_wrong_step_is_found(damage):
    world = make_busy()
    [plan] = [plan for plan in world.plans if plan.chunks and plan.decode][:1]
    wrong = {
        "budget": StepPlan(chunks=plan.chunks * 9),
        "row": StepPlan(decode=plan.decode, chunks=plan.chunks * 2),
        "nothing": StepPlan(chunks=(_empty(plan.chunks[0]),)),
    }[damage]
    assert isinstance(world.scheduler.check_invariants([wrong])["I10"], str)


def _empty(chunk):
    return type(chunk)(**{name: getattr(chunk, name) for name in chunk.__slots__} | {"token_ids": chunk.token_ids[:0]})


def test_a_request_that_comes_and_goes_while_copies_are_due_leaves_nothing():
    world = World()
    requests = world.add_group(prompt(9), 2, temperature=1.0)
    world.step()
    assert world.scheduler._prefill.page_copies, "the last page of the prompt is copied in the next step"
    for request in requests:
        world.scheduler.finish(request.request_id)
    assert check(world) == dict.fromkeys(INVARIANTS, True)
