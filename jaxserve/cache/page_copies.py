"""The copies of pages that a step begins with, in an order in which they may be executed one by one or at once.

Where host memory keeps snapshots, two sequences that start together may take the slots of each other's snapshots: one
evicts what the other one finds in host memory. Such pages are exchanged, for which there is no order.
"""

from collections.abc import Collection, Iterable, Sequence

from jaxserve.cache.groups import PageCopy
from jaxserve.cache.pool import CacheInvariantError


class PageCopies:
    """The page copies of one step, planned one after another; each is of what its source holds after those before it.

    They are kept as copies of what pages hold before the step: a copy of a copy becomes one of the original, and a page
    that is copied into twice gets the later one.

    num_pages   by group the number of pages on the device; those behind are in host memory
    exchanging  the groups whose pages may be exchanged
    """

    def __init__(self, num_pages: Sequence[int], exchanging: Collection[int] = ()) -> None:
        self._num_pages, self._exchanging = tuple(num_pages), frozenset(exchanging)
        self._sources: dict[tuple[int, int], int] = {}  # (group, target) → source

    @property
    def num_for_requests(self) -> int:
        """The number of copies that requests need: into pages on the device."""
        return sum(1 for group, target in self._sources if target < self._num_pages[group])

    def plan(self, copies: Iterable[PageCopy]) -> None:
        """Plan further copies."""
        for group, source, target in copies:
            original = self._sources.get((group, source), source)
            self._sources.pop((group, target), None)
            if original != target:
                self._sources[group, target] = original

    def forget(self) -> None:
        """Forget the copies that requests need. Those to host memory, where the prefix cache finds them, are made."""
        self._sources = {
            (group, target): source
            for (group, target), source in self._sources.items()
            if target >= self._num_pages[group]
        }

    def take(self) -> tuple[PageCopy, ...]:
        """Return all copies, and forget them: each is of what its source holds before the step.

        Pages are copied from before anything is copied into them, except for those that are exchanged.

        Raises CacheInvariantError if pages are exchanged in a group whose pages cannot be.
        """
        left, self._sources = self._sources, {}
        copies: list[PageCopy] = []
        while left:
            read = {(group, source) for (group, _), source in left.items()}
            ready = [place for place in left if place not in read]
            if not ready:
                ready = [place for place in left if place[0] in self._exchanging][:1]
            if not ready:
                raise CacheInvariantError(f"pages are copied in a circle: {left}")
            copies += [(group, left.pop((group, target)), target) for group, target in ready]
        return tuple(copies)
