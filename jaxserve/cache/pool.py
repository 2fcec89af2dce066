"""The page pool: free pages, reference counts, eviction order, and an audit. Host side, plain Python.

A page is in exactly one of three sets: free, active (reference count at least 1), or evictable (marked as cached by the
prefix index, reference count 0). Page 0 is in none: padding is written there and never read. prefix.py knows what pages
contain, pages.py where they are in memory. Every operation is O(1) a page. One thread owns a pool; others may read the
counts.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Protocol, TypeAlias

from jaxserve.errors import BadConfig

Fault: TypeAlias = tuple[str, str]
"""What is wrong with the state: the invariant that does not hold, as "I1", and a sentence."""


class CacheInvariantError(AssertionError):
    """An inconsistency in the accounting of pages: a bug, never caused by a request.

    Raised and not asserted, so that it is raised under `python -O`, too.
    """


class EvictionListener(Protocol):
    """An object that knows what cached pages contain and is called when one is evicted."""

    def on_evict(self, page: int) -> None:
        """Forget the contents of this page, which the pool is about to reuse."""
        ...

    def find_faults(self) -> Iterable[Fault]:
        """Yield what is inconsistent in the listener's own state."""
        ...


class PagePool:
    """Pages 1 to num_pages - 1 with reference counts. The same calls in the same order give the same pages.

    Raises BadConfig for fewer than 2 pages.
    """

    def __init__(self, num_pages: int) -> None:
        if num_pages < 2:
            raise BadConfig(f"A pool of {num_pages} pages can hold nothing: page 0 is for padding; 2 is the least.")
        self.num_pages = num_pages
        self._refcount = [0] * num_pages
        self._free = list(range(num_pages - 1, 0, -1))  # a stack; the lowest page is allocated first
        self._marked: set[int] = set()  # pages that the prefix index can find
        self._evictable: OrderedDict[int, None] = OrderedDict()  # marked, reference count 0; oldest first
        self._listener: EvictionListener | None = None

    @property
    def num_usable(self) -> int:
        """Number of pages without page 0."""
        return self.num_pages - 1

    @property
    def num_free(self) -> int:
        """Number of pages that `allocate` could return now: free ones, and cached ones that it may evict."""
        return len(self._free) + len(self._evictable)

    @property
    def num_cached(self) -> int:
        """Number of cached pages with reference count 0; they are counted as free, too."""
        return len(self._evictable)

    @property
    def num_active(self) -> int:
        """Number of pages with a reference count of at least 1."""
        return max(0, self.num_usable - self.num_free)  # another thread may read between two updates

    def allocate(self, num_pages: int) -> list[int] | None:
        """Return num_pages pages with a reference count of 1, or None, without any change, if there are too few.

        Free pages are taken first, then cached ones, the least recently used first.
        """
        if num_pages > self.num_free:
            return None
        pages = [self._free.pop() if self._free else self._evict() for _ in range(num_pages)]
        for page in pages:
            self._refcount[page] = 1
        return pages

    def incref(self, pages: Iterable[int]) -> None:
        """Increment the reference count of each page.

        Raises CacheInvariantError if a page is free, that is, neither active nor cached.
        """
        for page in pages:
            if not self._refcount[page]:
                if page not in self._evictable:
                    raise CacheInvariantError(f"page {page} is free and cannot be shared")
                del self._evictable[page]
            self._refcount[page] += 1

    def decref(self, pages: Sequence[int]) -> None:
        """Decrement the reference count of each page, twice if a page is listed twice.

        Goes from the last page to the first, so that of a sequence's cached pages the last are evicted first: a prefix
        without its last page is still found, one without its first page is lost.
        Raises CacheInvariantError if a reference count would become negative.
        """
        for page in reversed(pages):
            if self._refcount[page] < 1:
                raise CacheInvariantError(f"page {page} is released more often than it was referenced")
            self._refcount[page] -= 1
            if not self._refcount[page]:
                if page in self._marked:
                    self._evictable[page] = None
                else:
                    self._free.append(page)

    def refcount(self, page: int) -> int:
        """Return the reference count of a page."""
        return self._refcount[page]

    def attach_listener(self, listener: EvictionListener) -> None:
        """Set the object that is called on evictions.

        Raises CacheInvariantError if the pool already has one.
        """
        if self._listener is not None:
            raise CacheInvariantError("a pool has one listener")
        self._listener = listener

    def mark_cached(self, page: int) -> None:
        """Keep this page as cached when its reference count becomes 0.

        Raises CacheInvariantError if the reference count is 0 already.
        """
        if not self._refcount[page]:
            raise CacheInvariantError(f"page {page} has no reference and cannot be marked as cached")
        self._marked.add(page)

    def unmark_cached(self, page: int) -> None:
        """Undo `mark_cached`: with reference count 0 the page becomes free at once."""
        self._marked.discard(page)
        if page in self._evictable:
            del self._evictable[page]
            self._free.append(page)

    def is_marked_cached(self, page: int) -> bool:
        """Return whether this page is marked as cached, active or not."""
        return page in self._marked

    def find_faults(self, page_lists: Iterable[Iterable[int]], writable: Iterable[int] = ()) -> Iterator[Fault]:
        """Compare reference counts and sets with the page lists of all owners; yield what does not match.

        page_lists  the pages of every owner; together they must account for each reference count
        writable    pages that the next step may write into: reference count 1 and not marked as cached
        """
        yield from self._find_wrong_counts(Counter(chain.from_iterable(page_lists)))
        yield from self._find_wrong_sets()
        for page in writable:
            if self._refcount[page] != 1:
                yield "I4", f"page {page} may be written and has {self._refcount[page]} references"
            if page in self._marked:
                yield "I4", f"page {page} may be written and is marked as cached"
        if self._listener is not None:
            yield from self._listener.find_faults()

    def audit(self, page_lists: Iterable[Iterable[int]], writable: Iterable[int] = ()) -> None:
        """Raise CacheInvariantError if `find_faults` finds anything."""
        raise_first(self.find_faults(page_lists, writable))

    def _evict(self) -> int:
        page, _ = self._evictable.popitem(last=False)
        self._marked.discard(page)
        if self._listener is not None:
            self._listener.on_evict(page)
        return page

    def _find_wrong_counts(self, expected: Counter[int]) -> Iterator[Fault]:
        if expected[0]:
            yield "I1", "page 0 is referenced, but it is for padding"
        for page, count in enumerate(self._refcount):
            if count != expected[page]:
                yield "I2", f"page {page} has {count} references and is in {expected[page]} page lists"
        outside = [page for page in expected if not 0 <= page < self.num_pages]
        if outside:
            yield "I1", f"pages {outside} are referenced and not in the pool"

    def _find_wrong_sets(self) -> Iterator[Fault]:
        free, evictable = set(self._free), set(self._evictable)
        active = {page for page, count in enumerate(self._refcount) if count}
        if len(free) != len(self._free):
            yield "I3", "a page is on the free list twice"
        if overlap := (free & evictable) | (free & active) | (evictable & active):
            yield "I1", f"pages {sorted(overlap)} are in two of free, evictable and active"
        if lost := set(range(1, self.num_pages)) ^ (free | evictable | active):
            yield "I1", f"pages {sorted(lost)} are lost, or do not belong to the pool"
        if not evictable <= self._marked:
            yield "I2", f"pages {sorted(evictable - self._marked)} are evictable and not marked as cached"
        if free & self._marked:
            yield "I2", f"pages {sorted(free & self._marked)} are free and still marked as cached"


def raise_first(faults: Iterable[Fault]) -> None:
    """Raise the first of these faults, if there is one, as a CacheInvariantError."""
    for invariant, sentence in faults:
        raise CacheInvariantError(f"{invariant}: {sentence}")
