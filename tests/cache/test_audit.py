"""Pool and index together against a naive model: every set spelled out, the oldest found by searching."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from jaxserve.cache.pool import PagePool
from jaxserve.cache.prefix import PrefixIndex, hash_pages

PAGE_SIZE = 2
TOKENS = st.lists(st.integers(0, 1), max_size=10)  # two letters, so that prefixes meet


class Books(RuleBasedStateMachine):
    """`held` lists every holder's pages; `known` maps a tuple of tokens, the whole prefix, to its page."""

    @initialize(num_pages=st.integers(2, 12))
    def open(self, num_pages: int) -> None:
        self.pool = PagePool(num_pages)
        self.index = PrefixIndex(self.pool, PAGE_SIZE)
        self.held: list[list[int]] = []
        self.known: dict[tuple[int, ...], int] = {}
        self.age: dict[int, int] = {}  # when a page was last let go
        self.now = 0

    def pages_held(self) -> set[int]:
        return {page for pages in self.held for page in pages}

    def evictable(self) -> list[int]:
        """Known pages that nobody holds, oldest first."""
        return sorted(set(self.known.values()) - self.pages_held(), key=self.age.__getitem__)

    def prefixes(self, tokens: list[int]) -> list[tuple[int, ...]]:
        return [tuple(tokens[:end]) for end in range(PAGE_SIZE, len(tokens) + 1, PAGE_SIZE)]

    @rule(n=st.integers(0, 6))
    def allocate(self, n: int) -> None:
        evictable = self.evictable()
        num_empty = self.pool.num_usable - len(self.pages_held()) - len(evictable)
        pages = self.pool.allocate(n)
        if n > num_empty + len(evictable):
            assert pages is None
            return
        victims = evictable[: max(0, n - num_empty)]
        assert len(set(pages)) == n
        assert set(victims) <= set(pages)
        assert not set(pages) & (self.pages_held() | set(evictable[len(victims) :]) | {0})
        self.known = {prefix: page for prefix, page in self.known.items() if page not in victims}
        self.held.append(pages)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def hold(self, data: st.DataObject) -> None:
        pages = data.draw(st.sampled_from(self.held))
        self.pool.incref(pages)
        self.held.append(list(pages))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        pages = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        self.pool.decref(pages)
        for page in reversed(pages):
            self.age[page] = self.now = self.now + 1

    @precondition(lambda self: self.held)
    @rule(data=st.data(), tokens=TOKENS)
    def register(self, data: st.DataObject, tokens: list[int]) -> None:
        pages = [page for page in data.draw(st.sampled_from(self.held)) if page not in self.known.values()]
        for key, prefix, page in zip(hash_pages(tokens, PAGE_SIZE), self.prefixes(tokens), pages, strict=False):
            assert self.index.register(key, page) == (prefix not in self.known)
            self.known.setdefault(prefix, page)

    @rule(tokens=TOKENS)
    def match_and_hold(self, tokens: list[int]) -> None:
        expected = []
        for prefix in self.prefixes(tokens):
            if prefix not in self.known:
                break
            expected.append(self.known[prefix])
        pages = self.index.match(hash_pages(tokens, PAGE_SIZE))
        assert pages == expected
        self.pool.incref(pages)
        self.held.append(pages)

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        prefix = data.draw(st.sampled_from(sorted(self.known)))
        self.index.forget(self.known.pop(prefix))

    @rule()
    def clear(self) -> None:
        self.index.clear()
        self.known.clear()

    @invariant()
    def the_books_add_up(self) -> None:
        if not hasattr(self, "pool"):
            return
        self.pool.audit(self.held)
        assert self.pool.num_active == len(self.pages_held())
        assert self.pool.num_cached == len(self.evictable())
        assert self.pool.num_free == self.pool.num_usable - len(self.pages_held())
        assert len(self.index) == len(self.known)


Books.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestBooks = Books.TestCase
