"""The pool of a recurrent group: of its cached pages the one goes first that is the cheapest to compute again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jaxserve.cache.pool import PagePool


@dataclass(slots=True)
class SnapshotCounts:
    """The counts of snapshots since the start, for the metrics.

    num_taken      the number that were planned, a rolling one counted once
    num_restored   the number of sequences that began with one
    num_evicted    the number of their pages that were evicted from the prefix cache
    num_offloaded  the number of their pages that were moved to host memory instead
    num_reloaded   the number of sequences that began with one from there
    """

    num_taken: int = 0
    num_restored: int = 0
    num_evicted: int = 0
    num_offloaded: int = 0
    num_reloaded: int = 0


class SlotPool(PagePool):
    """Pages that hold a state each, of equal size, whose recomputation costs as many tokens as were computed for it.

    A cached page is worth its cost above what the last evicted one was worth when it was last used (GreedyDual: Cao and
    Irani, Cost-Aware WWW Proxy Caching Algorithms, 1997). So a page that costs more stays longer without use, but not
    for ever, and among equals the least recently used one is evicted.

    counts   counts the evictions
    """

    def __init__(self, num_pages: int, counts: SnapshotCounts) -> None:
        super().__init__(num_pages)
        self._counts = counts
        self._costs: dict[int, int] = {}
        self._values: dict[int, int] = {}  # of cached pages; a reused page gets another
        self._last_value = 0  # of the page that was evicted last
        self._keep_elsewhere: Callable[[int, int], bool] | None = None

    def attach_keeper(self, keep_elsewhere: Callable[[int, int], bool]) -> None:
        """Set what is called before a page is evicted, with the page and its cost; it returns whether it is kept."""
        self._keep_elsewhere = keep_elsewhere

    def set_cost(self, page: int, num_tokens: int) -> None:
        """Set how many tokens must be computed again if this page is lost."""
        self._costs[page] = num_tokens

    def decref(self, pages: Sequence[int]) -> None:
        """Decrement the reference count of each page; those without references are worth their cost again.

        Raises CacheInvariantError if a reference count would become negative.
        """
        super().decref(pages)
        for page in pages:
            if page in self._evictable:
                self._values[page] = self._last_value + self._costs.get(page, 0)

    def _evict(self) -> int:
        page = min(self._evictable, key=self._values.__getitem__)
        self._last_value = self._values[page]
        if self._keep_elsewhere is None or not self._keep_elsewhere(page, self._costs.get(page, 0)):
            self._counts.num_evicted += 1
        self._evictable.move_to_end(page, last=False)
        return super()._evict()
