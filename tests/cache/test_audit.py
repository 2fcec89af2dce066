"""Pool and index together against a naive model: every set spelled out, the oldest found by a search."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from jaxserve.cache.pool import PagePool
from jaxserve.cache.prefix import PrefixIndex, hash_pages

PAGE_SIZE = 2
TOKENS = st.lists(st.integers(0, 1), max_size=10)  # two different tokens, so that prefixes coincide


class PoolModel(RuleBasedStateMachine):
    """A model of pool and index: the page list of every owner, and the cached page of every prefix of tokens."""

    @initialize(num_pages=st.integers(2, 12))
    def open(self, num_pages: int) -> None:
        self.pool = PagePool(num_pages)
        self.index = PrefixIndex(self.pool)
        self.owned: list[list[int]] = []
        self.cached: dict[tuple[int, ...], int] = {}
        self.age: dict[int, int] = {}  # when a page was last released
        self.now = 0

    def owned_pages(self) -> set[int]:
        return {page for pages in self.owned for page in pages}

    def evictable(self) -> list[int]:
        """Return the cached pages without an owner, oldest first."""
        return sorted(set(self.cached.values()) - self.owned_pages(), key=self.age.__getitem__)

    def prefixes(self, tokens: list[int]) -> list[tuple[int, ...]]:
        return [tuple(tokens[:end]) for end in range(PAGE_SIZE, len(tokens) + 1, PAGE_SIZE)]

    @rule(n=st.integers(0, 6))
    def allocate(self, n: int) -> None:
        evictable = self.evictable()
        num_free = self.pool.num_usable - len(self.owned_pages()) - len(evictable)
        pages = self.pool.allocate(n)
        if n > num_free + len(evictable):
            assert pages is None
            return
        evicted = evictable[: max(0, n - num_free)]
        assert len(set(pages)) == n
        assert set(evicted) <= set(pages)
        assert not set(pages) & (self.owned_pages() | set(evictable[len(evicted) :]) | {0})
        self.cached = {prefix: page for prefix, page in self.cached.items() if page not in evicted}
        self.owned.append(pages)

    @precondition(lambda self: self.owned)
    @rule(data=st.data())
    def share(self, data: st.DataObject) -> None:
        pages = data.draw(st.sampled_from(self.owned))
        self.pool.incref(pages)
        self.owned.append(list(pages))

    @precondition(lambda self: self.owned)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        pages = self.owned.pop(data.draw(st.integers(0, len(self.owned) - 1)))
        self.pool.decref(pages)
        for page in reversed(pages):
            self.age[page] = self.now = self.now + 1

    @precondition(lambda self: self.owned)
    @rule(data=st.data(), tokens=TOKENS)
    def register(self, data: st.DataObject, tokens: list[int]) -> None:
        pages = [page for page in data.draw(st.sampled_from(self.owned)) if page not in self.cached.values()]
        for page_hash, prefix, page in zip(hash_pages(tokens, PAGE_SIZE), self.prefixes(tokens), pages, strict=False):
            assert self.index.register(page_hash, page) == (prefix not in self.cached)
            self.cached.setdefault(prefix, page)

    @rule(tokens=TOKENS)
    def match_and_share(self, tokens: list[int]) -> None:
        expected = []
        for prefix in self.prefixes(tokens):
            if prefix not in self.cached:
                break
            expected.append(self.cached[prefix])
        pages = self.index.match(hash_pages(tokens, PAGE_SIZE))
        assert pages == expected
        self.pool.incref(pages)
        self.owned.append(pages)

    @precondition(lambda self: self.cached)
    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        prefix = data.draw(st.sampled_from(sorted(self.cached)))
        self.index.forget(self.cached.pop(prefix))

    @rule()
    def clear(self) -> None:
        self.index.clear()
        self.cached.clear()

    @invariant()
    def pool_and_index_match_the_model(self) -> None:
        if not hasattr(self, "pool"):
            return
        self.pool.audit(self.owned)
        assert self.pool.num_active == len(self.owned_pages())
        assert self.pool.num_cached == len(self.evictable())
        assert self.pool.num_free == self.pool.num_usable - len(self.owned_pages())
        assert len(self.index) == len(self.cached)


PoolModel.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestPoolAndIndex = PoolModel.TestCase
