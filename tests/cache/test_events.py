"""Events of the prefix cache: their form, and that they say what it holds, whatever becomes of its pages."""

from hypothesis import given, settings
from hypothesis import strategies as st

from jaxserve.cache.events import CacheCleared, CacheEvent, PageRemoved, PagesStored, shorten
from jaxserve.cache.groups import GroupSize
from jaxserve.cache.manager import CacheManager
from jaxserve.cache.prefix import NO_CONTEXT, CacheContext, hash_pages
from tests.engine.event_replay import EventReplay

PAGE, WINDOW = 4, 6
FULL, WINDOWED = 0, 1
TOKENS = tuple(range(22))
HASHES = hash_pages(TOKENS, PAGE)


class Recorder:
    """A cache with two groups, and the events that it publishes."""

    def __init__(self, num_pages: int = 20, is_latent: bool = False) -> None:
        full, windowed = GroupSize(num_pages=num_pages, is_latent=is_latent), GroupSize(num_pages=99, window=WINDOW)
        self.events: list[CacheEvent] = []
        self.replay = EventReplay()
        self.cache = CacheManager([full, windowed], page_size=PAGE, publish=self.publish)

    def publish(self, events: tuple[CacheEvent, ...]) -> None:
        self.events += events
        self.replay.publish(events)

    def compute(self, tokens: tuple[int, ...], context: CacheContext = NO_CONTEXT) -> None:
        """Compute a sequence to its end and free it."""
        pages = self.cache.new_pages(context)
        hit = self.cache.find_hit(pages, tokens)
        copies = self.cache.start(pages, hit, self.cache.count_missing(hit, len(tokens), len(tokens)), (0, 0))
        assert copies == []
        self.cache.register(pages, tokens, len(tokens))
        self.cache.free(pages)
        self.replay.check(self.cache)

    def take(self) -> list[CacheEvent]:
        """Return the events since the last time."""
        events, self.events = self.events, []
        return events


def test_a_new_cache_says_that_it_is_empty():
    assert Recorder().take() == [CacheCleared()]


def test_full_pages_of_each_group_are_told_once_as_one_event():
    recorder = Recorder()
    recorder.compute(TOKENS)
    _, full, windowed = recorder.take()
    assert isinstance(full, PagesStored) and isinstance(windowed, PagesStored)
    assert (full.group, full.hashes, full.parent, full.token_ids) == (FULL, tuple(HASHES), None, TOKENS[:20])
    assert (windowed.group, windowed.hashes) == (WINDOWED, tuple(HASHES))
    recorder.compute(TOKENS)
    assert recorder.take() == []


def test_pages_behind_a_cached_prefix_name_the_page_before_them():
    recorder = Recorder()
    recorder.compute(TOKENS[:13])
    recorder.take()
    recorder.compute(TOKENS)
    full, _ = recorder.take()
    assert isinstance(full, PagesStored)
    assert (full.hashes, full.parent, full.token_ids) == (tuple(HASHES[3:]), HASHES[2], TOKENS[12:20])


def test_an_evicted_page_is_told():
    recorder = Recorder(num_pages=7)
    recorder.compute(TOKENS)
    recorder.take()
    recorder.compute(tuple(range(100, 109)))
    removed = [event for event in recorder.take() if isinstance(event, PageRemoved)]
    assert removed and all(event.group == FULL and event.page_hash in HASHES for event in removed)


def test_a_cleared_cache_is_told_at_once_and_nothing_from_before_it():
    recorder = Recorder()
    recorder.compute(TOKENS)
    recorder.take()
    recorder.cache.clear_prefix_cache()
    assert recorder.take() == [CacheCleared()]
    recorder.cache.reset()
    assert recorder.take() == [CacheCleared()]


def test_a_cache_whose_events_nobody_wants_keeps_none():
    assert CacheManager([GroupSize(num_pages=9)], page_size=PAGE).events is None


def test_an_event_is_a_map_with_the_fields_of_vllm():
    recorder = Recorder(is_latent=True)
    context = CacheContext(salt="salt", adapter="key of sql", adapter_name="sql")
    recorder.compute(TOKENS[:9], context)
    recorder.compute(TOKENS[:13], context)
    _, stored, windowed, later, _ = (event.to_map() for event in recorder.take())
    numbers = [int.from_bytes(page_hash, "big") % 2**64 for page_hash in hash_pages(TOKENS, PAGE, context)]
    assert stored == {
        "type": "BlockStored",
        "block_hashes": numbers[:2],
        "parent_block_hash": None,
        "token_ids": TOKENS[:8],
        "block_size": PAGE,
        "lora_id": None,
        "medium": "GPU",
        "lora_name": "sql",
        "extra_keys": [("sql", "salt"), ("sql",)],
        "group_idx": FULL,
        "kv_cache_spec_kind": "mla_attention",
    }
    assert windowed["kv_cache_spec_kind"] == "sliding_window"
    assert (windowed["kv_cache_spec_sliding_window"], windowed["group_idx"]) == (WINDOW, WINDOWED)
    assert (later["parent_block_hash"], later["extra_keys"]) == (numbers[1], [("sql",)])
    assert PageRemoved(WINDOWED, HASHES[0]).to_map() == {
        "type": "BlockRemoved",
        "block_hashes": [shorten(HASHES[0])],
        "medium": "GPU",
        "group_idx": WINDOWED,
    }
    assert CacheCleared().to_map() == {"type": "AllBlocksCleared"}


@settings(deadline=None)
@given(
    st.integers(6, 20),
    st.lists(
        st.tuples(st.sampled_from([None, "", "a", "\ud800"]), st.integers(0, 2), st.integers(1, 19), st.booleans()),
        max_size=12,
    ),
)
def test_events_say_what_is_cached_after_any_requests_and_evictions(num_pages, requests):
    recorder = Recorder(num_pages=num_pages)
    for salt, start, length, clears in requests:
        recorder.compute(tuple(range(start, start + length)), CacheContext(salt=salt))
        if clears:
            recorder.cache.clear_prefix_cache()
            recorder.replay.check(recorder.cache)
