"""The slots of a recurrent group in host memory: where snapshots stay that its device memory has no room for."""

from collections.abc import Iterable, Iterator

from jaxserve.cache.pool import Fault
from jaxserve.cache.prefix import PrefixIndex
from jaxserve.cache.slot_pool import SlotPool, SnapshotCounts


class HostSlots:
    """Snapshots in host memory, each found by the hash of the page that it ends at.

    Their page ids follow those of the device, so that a copy to or from them is a page copy like all others. Here, too,
    that snapshot goes first whose recomputation is worth the least.

    num_slots   how many snapshots there is room for
    first       the page id of the first one: the number of the group's pages on the device
    counts      counts the evictions, by which a snapshot is lost
    """

    def __init__(self, num_slots: int, first: int, counts: SnapshotCounts) -> None:
        self._pool = SlotPool(num_slots + 1, counts)
        self._index = PrefixIndex(self._pool)
        self._offset = first - 1  # page 0 of a pool is nobody's

    def __len__(self) -> int:
        """Return the number of snapshots."""
        return len(self._index)

    def find(self, page_hash: bytes) -> int | None:
        """Return the page id of the snapshot behind the page with this hash, or None."""
        page = self._index.find(page_hash)
        return None if page is None else page + self._offset

    def add(self, page_hash: bytes, num_tokens: int) -> int | None:
        """Return the page id of a new snapshot, whose state the caller copies; None if all others are being restored.

        num_tokens   how many tokens must be computed again if it is lost
        """
        pages = self._pool.allocate(1)
        if pages is None:
            return None
        self._index.register(page_hash, pages[0])
        self._pool.set_cost(pages[0], num_tokens)
        self._pool.decref(pages)
        return pages[0] + self._offset

    def incref(self, page: int) -> None:
        """Keep a snapshot from being evicted."""
        self._pool.incref([page - self._offset])

    def decref(self, page: int) -> None:
        """Undo `incref`."""
        self._pool.decref([page - self._offset])

    def clear(self) -> None:
        """Forget all snapshots."""
        self._index.clear()

    def find_faults(self, page_lists: Iterable[Iterable[int]] = ()) -> Iterator[Fault]:
        """Yield what does not add up; page_lists as in `PagePool.find_faults`."""
        yield from self._pool.find_faults([page - self._offset for page in pages] for pages in page_lists)
