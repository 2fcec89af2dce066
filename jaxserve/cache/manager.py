"""The cache manager: the pages of all sequences, with a pool and a prefix index for each cache group. Host side.

A recurrent group gives a running sequence one page, its slot, with the state after its computed tokens.

A page of a window group is freed when no later query of its sequence sees it: its place in the sequence's list, and so
in the page table, becomes 0. If the page is in the prefix index, it stays there until the pool reuses it.

Pages are freed at once, even while a step in flight reads them: the device runs steps in the order in which they were
enqueued, and a step in flight has its own page tables. So what a later owner writes into a page is written after it was
last read.
"""

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

from jaxserve.cache.events import CacheEvent, CacheEvents
from jaxserve.cache.groups import GroupSize, PageCopy, first_visible_page, num_pages_for
from jaxserve.cache.page_copies import PageCopies
from jaxserve.cache.pool import PagePool
from jaxserve.cache.prefix import NO_CONTEXT, CacheContext, PageHashes, PrefixIndex, max_cached_pages
from jaxserve.cache.sequence_pages import PrefixHit, SequencePages
from jaxserve.cache.slot_pool import SlotPool, SnapshotCounts
from jaxserve.cache.snapshots import Snapshots


class CacheManager:
    """The owner of all pages: pools, prefix indexes, and the pages of sequences. One thread owns it.

    sizes               the size of each cache group
    page_size           the number of tokens of a page
    has_prefix_cache    whether pages are found again by their tokens
    publish             takes the events of the prefix cache (events.py); None: there are none

    events              the collector of these events, or None
    windows             the window of each cache group; None: full attention
    has_windows         whether a group frees pages behind a window
    has_states          whether a group is recurrent
    snapshots           of a prefix cache with recurrent groups; else None
    snapshot_counts     how many snapshots there were since the start
    page_copies         the page copies to make before the step that is being planned; what this class returns, its
                        caller plans
    num_served_tokens   by group the tokens that it could serve of all prefixes of started sequences
    """

    def __init__(
        self,
        sizes: Sequence[GroupSize],
        *,
        page_size: int,
        has_prefix_cache: bool = True,
        publish: Callable[[tuple[CacheEvent, ...]], None] | None = None,
    ) -> None:
        self.sizes, self.page_size = tuple(sizes), page_size
        self._has_prefix_cache = has_prefix_cache
        self.events = None if publish is None else CacheEvents(self.sizes, page_size, publish)
        self.snapshot_counts = SnapshotCounts()
        self.num_served_tokens = [0] * len(self.sizes)
        self.reset()
        self.windows = tuple(size.window for size in sizes)
        self.has_windows = any(window is not None for window in self.windows)
        self.has_states = any(size.is_recurrent for size in sizes)
        groups = range(len(self.sizes))
        self._lookup_order = sorted(
            groups, key=lambda group: (sizes[group].is_recurrent, self.windows[group] is not None)
        )
        self._num_full = sum(1 for size in sizes if size.window is None and not size.is_recurrent)

    @property
    def num_active(self) -> int:
        """The number of pages with a reference, of all groups together."""
        return sum(pool.num_active for pool in self.pools)

    def new_pages(self, context: CacheContext = NO_CONTEXT) -> SequencePages:
        """Return the empty pages of a new sequence."""
        num = len(self.sizes)
        return SequencePages(PageHashes(self.page_size, context), tuple([] for _ in range(num)), [0] * num, [0] * num)

    def capacity(self, pages: SequencePages) -> int:
        """Return the first position for which a group has no page; without groups there is none."""
        if not self.sizes:
            return sys.maxsize
        if not self.has_states:
            return min(map(len, pages.by_group)) * self.page_size
        return min(len(pages.by_group[group]) for group in self._paged_groups()) * self.page_size

    # Prefix cache

    def find_hit(self, pages: SequencePages, token_ids: Sequence[int]) -> PrefixHit:
        """Return the longest cached prefix that every group can serve; at least one token is left to compute.

        A full group needs all pages of the prefix, a window group those that the next query sees, a recurrent group a
        snapshot at its end.
        """
        by_group: list[list[int]] = [[] for _ in self.sizes]
        hashes = self.cacheable_hashes(pages, token_ids) if self.indexes else []
        if not hashes:
            return PrefixHit(0, tuple(by_group), num_served=(0,) * len(by_group))
        num, num_served = len(hashes), [0] * len(by_group)
        for group in self._lookup_order:
            num = num_served[group] = self._fit(group, hashes, num)
        before = None
        while num != before:  # a group may need a shorter prefix than the one before it can serve
            before = num
            for group in self._lookup_order[self._num_full :]:
                num = self._fit(group, hashes, num)
        for group in self._paged_groups():
            first, index = self.first_visible(group, num * self.page_size), self.indexes[group]
            by_group[group] = [0] * first + [index.find(page_hash) or 0 for page_hash in hashes[first:num]]
        snapshot = self.snapshots.find(hashes[num - 1]) if num and self.snapshots is not None else None
        return PrefixHit(num, tuple(by_group), snapshot or (), tuple(num_served))

    def _fit(self, group: int, hashes: Sequence[bytes], num: int) -> int:
        """Return the largest number of pages up to `num` that a group can serve."""
        if self.sizes[group].is_recurrent:
            assert self.snapshots is not None
            find = partial(self.snapshots.find_slot, group)
            return next((each for each in range(num, 0, -1) if find(hashes[each - 1]) is not None), 0)
        index, window = self.indexes[group], self.windows[group]
        return len(index.match(hashes[:num])) if window is None else self._fit_window(index, hashes, num, window)

    def cacheable_hashes(self, pages: SequencePages, token_ids: Sequence[int]) -> list[bytes]:
        """Return the hashes of the pages that a prefix hit may cover."""
        return pages.hashes.extend(token_ids)[: max_cached_pages(len(token_ids), self.page_size)]

    def _fit_window(self, index: PrefixIndex, hashes: Sequence[bytes], num: int, window: int) -> int:
        """Return the largest number of pages up to `num` of which all that the next query sees are cached."""
        while num:
            first = first_visible_page(num * self.page_size, window, self.page_size)
            missing = next((each for each in reversed(range(first, num)) if index.find(hashes[each]) is None), None)
            if missing is None:
                break
            num = missing  # every longer prefix up to here needs this page, too
        return num

    # Life of a sequence

    def count_missing(self, hit: PrefixHit, num_tokens: int, max_tokens: int) -> tuple[int, ...]:
        """Return by group how many pages a sequence needs at its start besides those of a hit.

        num_tokens   the number of its tokens; full groups need pages for all of them
        max_tokens   the largest number of tokens of its first step; window groups need pages for them
        """
        end = min(num_tokens, hit.num_pages * self.page_size + max_tokens)
        return tuple(
            self._num_needed(group, num_tokens if window is None else end) - len(hit.by_group[group])
            for group, window in enumerate(self.windows)
        )

    def start(
        self, pages: SequencePages, hit: PrefixHit, missing: Sequence[int], watermarks: Sequence[int]
    ) -> list[PageCopy] | None:
        """Give a sequence the pages of a hit and new ones.

        Returns the page copies to make before the next step, or None, without any change, if too few pages are free.

        missing      the number of new pages by group
        watermarks   by group how many pages must stay free besides
        """
        for pool, hits in zip(self.pools, hit.by_group, strict=True):
            pool.incref(page for page in hits if page)
        if self.snapshots is not None:
            self.snapshots.incref(hit.snapshot)
        new_pages = self._allocate(missing, watermarks)
        if self.snapshots is not None:
            self.snapshots.decref(hit.snapshot)
        if new_pages is None:
            for pool, hits in zip(self.pools, hit.by_group, strict=True):
                pool.decref([page for page in hits if page])
            return None
        for group, (hits, new) in enumerate(zip(hit.by_group, new_pages, strict=True)):
            pages.by_group[group][:] = hits + new
            pages.num_freed[group] = self.first_visible(group, hit.num_pages * self.page_size)
        pages.num_registered = hit.num_pages
        for group, num in enumerate(hit.num_served):
            self.num_served_tokens[group] += num * self.page_size
        if self.snapshots is not None and hit.snapshot:
            self.snapshots.on_restore(pages, hit.num_pages * self.page_size, hit.snapshot)
        return [(group, page, pages.by_group[group][0]) for group, page in hit.snapshot]

    def append(self, pages: SequencePages, end: int, watermarks: Sequence[int] | None = None) -> list[PageCopy] | None:
        """Append the pages that a sequence misses for its tokens before position `end`.

        Returns the page copies to make before the next step, or None, without any change, if too few pages are free.

        watermarks   by group how many pages must stay free besides
        """
        needed = num_pages_for(end, self.page_size)
        nums = [max(0, needed - num) for num in pages.lengths]
        if self.has_states:
            nums = [max(0, self._num_needed(group, end) - num) for group, num in enumerate(pages.lengths)]
        new_pages = self._allocate(nums, watermarks)
        if new_pages is None:
            return None
        copies = []
        for group, new in enumerate(new_pages):
            pages.by_group[group].extend(new)
            if new and pages.copy_sources[group]:
                copies.append((group, pages.copy_sources[group], new[0]))
                pages.copy_sources[group] = 0
        return copies

    def move(self, pages: SequencePages) -> SequencePages:
        """Move the pages of a sequence to another one without hashes, which is returned: to its first beam."""
        moved = self.new_pages()
        moved.by_group, pages.by_group = pages.by_group, moved.by_group
        moved.num_freed, pages.num_freed = pages.num_freed, moved.num_freed
        moved.num_registered, pages.num_registered = pages.num_registered, 0
        return moved

    def fork(self, parent: SequencePages, child: SequencePages, num_tokens: int) -> SequencePages:
        """Give a sequence without pages those of a parent with which it shares num_tokens tokens, and return it.

        Full pages are shared. If the last page is not full, the next `append` gives a copy of it; and one of the state.
        """
        num_full, num_in_last = divmod(num_tokens, self.page_size)
        child.num_registered = num_full  # what the parent has not registered yet, it will
        if self.has_states:  # and until then no snapshot of it is registered
            child.num_registered = min(num_full, parent.num_registered)
            child.last_snapshot = parent.last_snapshot
        for group, (pool, pages) in enumerate(zip(self.pools, parent.by_group, strict=True)):
            if self.sizes[group].is_recurrent:
                child.copy_sources[group] = pages[0]
                continue
            first = self.first_visible(group, num_tokens)
            shared = pages[first:num_full]
            pool.incref(shared)
            child.by_group[group][:] = [0] * first + shared
            child.num_freed[group] = first
            child.copy_sources[group] = pages[num_full] if num_in_last else 0
        return child

    def free_behind(self, pages: SequencePages, position: int) -> bool:
        """Free the pages that no query at `position` or later sees; return whether there were any."""
        has_freed = False
        for group, window in enumerate(self.windows):
            first, end = pages.num_freed[group], self.first_visible(group, position)
            if window is not None and end > first:
                group_pages = pages.by_group[group]
                self.pools[group].decref(group_pages[first:end])
                group_pages[first:end] = [0] * (end - first)
                pages.num_freed[group] = end
                has_freed = True
        return has_freed

    def register(self, pages: SequencePages, token_ids: Sequence[int], num_written: int) -> bool:
        """Add the pages to the prefix index that a finished step has filled, and free those behind the window.

        num_written   the number of the sequence's tokens whose keys and values are written

        Returns whether pages were freed. A step in flight may compute any position from num_written on.
        """
        num_full = num_written // self.page_size
        if num_full > pages.num_registered:
            hashes = pages.hashes.extend(token_ids) if self.indexes else []
            for group in self._paged_groups() if self.indexes else ():
                index = self.indexes[group]
                numbers = range(max(pages.num_registered, pages.num_freed[group]), num_full)
                if self.events is not None:
                    new = [number for number in numbers if index.find(hashes[number]) is None]
                    self.events.on_store(group, new, hashes, token_ids, pages.hashes.context)
                for number in numbers:
                    index.register(hashes[number], pages.by_group[group][number])
            pages.num_registered = num_full
            if pages.planned and self.snapshots is not None:
                self.snapshots.register(pages)
        return self.has_windows and self.free_behind(pages, num_written)

    def free(self, pages: SequencePages) -> None:
        """Free all pages of a sequence, which may start again."""
        if self.snapshots is not None:
            self.snapshots.release(pages)
        for group, pool in enumerate(self.pools):
            pool.decref(pages.by_group[group][pages.num_freed[group] :])
        pages.clear()

    def clear_prefix_cache(self) -> None:
        """Forget what cached pages contain. Sequences keep theirs."""
        for index in self.indexes:
            index.clear()
        if self.snapshots is not None:
            self.snapshots.clear_hosts()
        if self.events is not None:
            self.events.on_clear()

    def reset(self) -> None:
        """Make all pages free, and none of them cached: what they held is lost. Sequences must clear theirs."""
        slots = {
            group: SlotPool(size.num_pages, self.snapshot_counts)
            for group, size in enumerate(self.sizes)
            if size.is_recurrent
        }
        self.pools = tuple(slots.get(group) or PagePool(size.num_pages) for group, size in enumerate(self.sizes))
        self.indexes = tuple(map(self._make_index, range(len(self.pools)))) if self._has_prefix_cache else ()
        if self.events is not None:
            self.events.on_clear()
        in_host_memory = [group for group, size in enumerate(self.sizes) if size.num_host_pages]
        self.page_copies = PageCopies([size.num_pages for size in self.sizes], in_host_memory)
        self.snapshots: Snapshots | None = None
        if slots and self.indexes:
            indexes = {group: self.indexes[group] for group in slots}
            self.snapshots = Snapshots(
                self.sizes, slots, indexes, self.page_size, self.snapshot_counts, self.page_copies
            )

    def _make_index(self, group: int) -> PrefixIndex:
        if self.events is None or self.sizes[group].is_recurrent:
            return PrefixIndex(self.pools[group])
        return PrefixIndex(self.pools[group], partial(self.events.on_remove, group))

    def plan_release(self, hit: PrefixHit) -> "PlannedRelease":
        """Return a count of what would be free for a sequence with this hit if others freed their pages."""
        return PlannedRelease(self.pools, hit)

    def _allocate(self, nums: Sequence[int], watermarks: Sequence[int] | None = None) -> tuple[list[int], ...] | None:
        """Return new pages by group, or None if one of the pools has too few."""
        if any(
            num + reserve > pool.num_free
            for pool, num, reserve in zip(self.pools, nums, watermarks or [0] * len(nums), strict=True)
        ):
            return None
        return tuple(pool.allocate(num) or [] for pool, num in zip(self.pools, nums, strict=True))

    def _paged_groups(self) -> range | tuple[int, ...]:
        """Return the indices of the groups whose pages hold tokens."""
        if not self.has_states:
            return range(len(self.sizes))
        return tuple(group for group, size in enumerate(self.sizes) if not size.is_recurrent)

    def _num_needed(self, group: int, num_tokens: int) -> int:
        """Return how many pages of a group a sequence of num_tokens tokens has, freed ones included."""
        return 1 if self.sizes[group].is_recurrent else num_pages_for(num_tokens, self.page_size)

    def first_visible(self, group: int, position: int) -> int:
        """Return the index of the first page of a group that a query at `position` or a later one sees."""
        return first_visible_page(position, self.windows[group], self.page_size)


class PlannedRelease:
    """A count of the pages that would be free for a waiting sequence if some others freed theirs.

    pools   the pools of all groups
    hit     the cached prefix of the waiting sequence, which is not free for it
    """

    def __init__(self, pools: Sequence[PagePool], hit: PrefixHit) -> None:
        self._pools = pools
        self._hits = tuple({page for page in pages if page} for pages in hit.by_group)
        for group, page in hit.snapshot:
            if page < pools[group].num_pages:
                self._hits[group].add(page)
        self._num_free = [
            pool.num_free - sum(1 for page in hits if not pool.refcount(page))
            for pool, hits in zip(pools, self._hits, strict=True)
        ]
        self._released: Counter[tuple[int, int]] = Counter()

    def add(self, pages: SequencePages) -> None:
        """Count the pages of a sequence as freed."""
        for group, page in pages.iter_owned():
            self._released[group, page] += 1
            is_free = self._released[group, page] == self._pools[group].refcount(page)
            self._num_free[group] += is_free and page not in self._hits[group]

    def allows(self, nums: Sequence[int], watermarks: Sequence[int]) -> bool:
        """Return whether so many pages by group would be free, and so many more."""
        return all(
            num + reserve <= num_free for num, reserve, num_free in zip(nums, watermarks, self._num_free, strict=True)
        )
