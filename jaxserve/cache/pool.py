"""Who holds which page: free pages, counted holders, and an audit. Host side, plain Python.

A page is in exactly one of three sets: free, active (held at least once) or cached (known to the prefix index
and held by nobody, so it may be taken away). Page 0 is in none: padding writes there and nobody reads it.
What a page contains is the prefix index's affair (prefix.py); where it lies in memory is pages.py's.
Everything costs O(1) a page. One thread owns a pool; others may read the counts.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Protocol

from jaxserve.errors import BadConfig


class CacheInvariantError(AssertionError):
    """The books do not add up: a bug, never the caller's input. Raised, not asserted, so `python -O` keeps it."""


class EvictionListener(Protocol):
    """Whoever remembers what idle pages contain; told when a page is taken away."""

    def on_evict(self, page: int) -> None: ...

    def audit(self) -> None: ...


class PagePool:
    """Pages 1 .. num_pages-1, counted. The same calls in the same order give the same pages."""

    def __init__(self, num_pages: int) -> None:
        if num_pages < 2:
            raise BadConfig(f"A pool of {num_pages} pages can hold nothing: page 0 is for padding; 2 is the least.")
        self.num_pages = num_pages
        self._refcount = [0] * num_pages
        self._free = list(range(num_pages - 1, 0, -1))  # a stack; the lowest page goes first
        self._marked: set[int] = set()  # pages the index can find again
        self._evictable: OrderedDict[int, None] = OrderedDict()  # known and held by nobody, oldest first
        self._listener: EvictionListener | None = None

    @property
    def num_usable(self) -> int:
        """Every page but page 0."""
        return self.num_pages - 1

    @property
    def num_free(self) -> int:
        """Pages that `allocate` could hand out now: empty ones, and cached ones that it may evict."""
        return len(self._free) + len(self._evictable)

    @property
    def num_cached(self) -> int:
        """Pages held by nobody that the index can still find; they count as free, too."""
        return len(self._evictable)

    @property
    def num_active(self) -> int:
        """Pages held by somebody."""
        return max(0, self.num_usable - self.num_free)  # another thread may look between two moves

    def allocate(self, num_pages: int) -> list[int] | None:
        """n pages, each held once by the caller; or None, and nothing has changed.

        Empty pages go first, then cached ones, the longest unused first, and no more than needed.
        """
        if num_pages > self.num_free:
            return None
        pages = [self._free.pop() if self._free else self._evict() for _ in range(num_pages)]
        for page in pages:
            self._refcount[page] = 1
        return pages

    def incref(self, pages: Iterable[int]) -> None:
        """One more holder for each page; the page must be held or cached."""
        for page in pages:
            if not self._refcount[page]:
                if page not in self._evictable:
                    raise CacheInvariantError(f"page {page} is free and cannot be shared")
                del self._evictable[page]
            self._refcount[page] += 1

    def decref(self, pages: Sequence[int]) -> None:
        """One holder less for each page; a page that appears twice is released twice.

        Goes from the last page to the first, so that of one request's cached pages the tail is evicted first:
        a chain without its tail is still found, a chain without its head is lost.
        """
        for page in reversed(pages):
            if self._refcount[page] < 1:
                raise CacheInvariantError(f"page {page} is released more often than it is held")
            self._refcount[page] -= 1
            if not self._refcount[page]:
                if page in self._marked:
                    self._evictable[page] = None
                else:
                    self._free.append(page)

    def refcount(self, page: int) -> int:
        """How many hold this page."""
        return self._refcount[page]

    def attach_listener(self, listener: EvictionListener) -> None:
        """Names the index to be told of evictions; a pool has at most one."""
        if self._listener is not None:
            raise CacheInvariantError("a pool has one prefix index")
        self._listener = listener

    def mark_cached(self, page: int) -> None:
        """From now on the page stays cached when its last holder leaves. It must be held."""
        if not self._refcount[page]:
            raise CacheInvariantError(f"page {page} is held by nobody and cannot become known")
        self._marked.add(page)

    def unmark_cached(self, page: int) -> None:
        """The index has forgotten the page: if nobody holds it, it is free at once."""
        self._marked.discard(page)
        if page in self._evictable:
            del self._evictable[page]
            self._free.append(page)

    def is_marked_cached(self, page: int) -> bool:
        """Whether the index can find this page again."""
        return page in self._marked

    def audit(self, page_lists: Iterable[Iterable[int]], writable: Iterable[int] = ()) -> None:
        """Checks the books against the page lists of everybody who holds pages; raises CacheInvariantError.

        page_lists  every holder's pages; together they must explain each count
        writable   pages the next step may write into: each held once and not known to the index
        """
        self._audit_counts(Counter(chain.from_iterable(page_lists)))
        self._audit_sets()
        for page in writable:
            _require(self._refcount[page] == 1, f"page {page} may be written and has {self._refcount[page]} holders")
            _require(page not in self._marked, f"page {page} may be written and is known to the prefix index")
        if self._listener is not None:
            self._listener.audit()

    def _evict(self) -> int:
        page, _ = self._evictable.popitem(last=False)
        self._marked.discard(page)
        if self._listener is not None:
            self._listener.on_evict(page)
        return page

    def _audit_counts(self, expected: Counter[int]) -> None:
        _require(expected[0] == 0, "page 0 is held, but it is nobody's")
        for page, count in enumerate(self._refcount):
            _require(
                count == expected[page],
                f"page {page} counts {count} holders and is in {expected[page]} page lists",
            )
        outside = [page for page in expected if not 0 <= page < self.num_pages]
        _require(not outside, f"pages {outside} are held and not in the pool")

    def _audit_sets(self) -> None:
        free, cached = set(self._free), set(self._evictable)
        active = {page for page, count in enumerate(self._refcount) if count}
        _require(len(free) == len(self._free), "a page is on the free list twice")
        overlap = (free & cached) | (free & active) | (cached & active)
        _require(not overlap, f"pages {sorted(overlap)} are in two of free, cached and active")
        lost = set(range(1, self.num_pages)) ^ (free | cached | active)
        _require(not lost, f"pages {sorted(lost)} are lost, or do not belong to the pool")
        _require(cached <= self._marked, f"pages {sorted(cached - self._marked)} are cached and unknown")
        _require(not free & self._marked, f"pages {sorted(free & self._marked)} are free and still known")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise CacheInvariantError(message)
