"""Snapshots of recurrent states for the prefix cache: copies of a sequence's slots, found by the tokens before them.

A recurrent layer can go on behind a prefix only from its state at the very end of the prefix. So states are copied at
page borders that later prompts may share; the scheduler chooses them. A snapshot is a cached page of each recurrent
group under the hash of the page that ends at its position. It is

* planned: its slots are allocated, and copies into them planned for the beginning of the next step; its sequence owns
  it;
* registered, once finite results show that its tokens are written: the prefix cache finds it, and may evict it;
* restored, by a copy into the slots of a new sequence. Copies are executed as if in the order in which they were
  planned, so a snapshot may be evicted as soon as the copy of it is planned;
* offloaded, where there is host memory for it: an evicted snapshot is copied there first, and restored from there.

The rolling snapshot of a sequence is that of its newest page border while it generates. Each border overwrites it, and
it is registered when the sequence ends or is preempted. A step reads and writes the whole state of each of its rows, so
a copy every ROLL_TOKENS tokens costs at most a sixteenth of that, whatever the model.
"""

from collections.abc import Sequence
from functools import partial

from jaxserve.cache.groups import GroupSize, PageCopy
from jaxserve.cache.host_slots import HostSlots
from jaxserve.cache.page_copies import PageCopies
from jaxserve.cache.prefix import PrefixIndex
from jaxserve.cache.sequence_pages import SequencePages, Snapshot
from jaxserve.cache.slot_pool import SlotPool, SnapshotCounts

ROLL_TOKENS = 16  # the least between two rolling snapshots of a sequence
INTERVAL_TOKENS = 2048  # the least between two snapshots of a long prompt that no border asks for
MAX_PER_PROMPT = 8  # such snapshots of one prompt, so that it does not displace those of all others


class Snapshots:
    """The planner of snapshots, and the owner of their slots.

    sizes       the sizes of all cache groups
    pools       the pools of the recurrent ones, by group
    indexes     their prefix indexes
    page_size   the number of tokens of a page
    counts      counts the snapshots
    copies      gets the copies of evicted snapshots to host memory

    num_held    the number of snapshots that sequences own
    hosts       by group the snapshots in host memory, where there is some for them
    """

    def __init__(
        self,
        sizes: Sequence[GroupSize],
        pools: dict[int, SlotPool],
        indexes: dict[int, PrefixIndex],
        page_size: int,
        counts: SnapshotCounts,
        copies: PageCopies,
    ) -> None:
        self._pools, self._indexes, self._page_size, self._counts = pools, indexes, page_size, counts
        # What rows need stays free: a slot for each, and that of a snapshot which one of them is about to restore.
        self._max_held = min(pool.num_usable - sizes[group].num_rows - 1 for group, pool in pools.items())
        self.num_held = 0
        self._copies = copies
        self.hosts: dict[int, HostSlots] = {}
        for group, pool in pools.items():
            if num_slots := sizes[group].num_host_pages:
                self.hosts[group] = HostSlots(num_slots, pool.num_pages, counts)
                pool.attach_keeper(partial(self._offload, group))

    def find(self, page_hash: bytes) -> tuple[tuple[int, int], ...] | None:
        """Return the (group, slot) pairs of the registered snapshot behind this page, or None."""
        slots = [(group, self.find_slot(group, page_hash)) for group in self._indexes]
        found = tuple((group, slot) for group, slot in slots if slot is not None)
        return found if len(found) == len(slots) else None

    def find_slot(self, group: int, page_hash: bytes) -> int | None:
        """Return the slot of one group that holds its part of the snapshot behind this page, or None."""
        slot = self._indexes[group].find(page_hash)
        return self.hosts[group].find(page_hash) if slot is None and self.hosts else slot

    def incref(self, slots: Sequence[tuple[int, int]]) -> None:
        """Keep a snapshot from being evicted, given by its (group, slot) pairs."""
        for group, slot in slots:
            pool = self._pools[group]
            pool.incref([slot]) if slot < pool.num_pages else self.hosts[group].incref(slot)

    def decref(self, slots: Sequence[tuple[int, int]]) -> None:
        """Undo `incref`."""
        for group, slot in slots:
            pool = self._pools[group]
            pool.decref([slot]) if slot < pool.num_pages else self.hosts[group].decref(slot)

    def on_restore(self, pages: SequencePages, position: int, slots: Sequence[tuple[int, int]]) -> None:
        """Take note that a sequence begins with the state of a snapshot."""
        pages.last_snapshot = position
        self._counts.num_restored += 1
        self._counts.num_reloaded += any(slot >= self._pools[group].num_pages for group, slot in slots)

    def clear_hosts(self) -> None:
        """Forget the snapshots in host memory."""
        for host in self.hosts.values():
            host.clear()

    def is_missing(self, pages: SequencePages, token_ids: Sequence[int], position: int) -> bool:
        """Whether the prefix cache has no snapshot of a sequence at this position, a page border."""
        return position > 0 and self.find(pages.hashes.extend(token_ids)[position // self._page_size - 1]) is None

    def plan(self, pages: SequencePages, position: int) -> list[PageCopy]:
        """Plan a snapshot of a sequence that has computed its tokens before `position`, a page border.

        Returns the page copies to make before the next step; none if no slot is free.
        """
        snapshot = self._allocate(pages, position)
        pages.last_snapshot = position
        if snapshot is None:
            return []
        pages.planned.append(snapshot)
        if position <= pages.num_registered * self._page_size:
            self.register(pages)
        return _copy_state(pages, snapshot)

    def roll(self, pages: SequencePages, position: int) -> list[PageCopy]:
        """Plan the rolling snapshot of a sequence at `position`, if that is a page border and the last one is old."""
        rolling = pages.rolling
        last = max(pages.last_snapshot, 0 if rolling is None else rolling.position)
        if position % self._page_size or position - last < ROLL_TOKENS:
            return []
        if rolling is None:
            rolling = self._allocate(pages, position)
            if rolling is None:
                return []
        pages.rolling = Snapshot(position, rolling.slots, position - pages.last_snapshot)
        return _copy_state(pages, pages.rolling)

    def register(self, pages: SequencePages) -> None:
        """Register the planned snapshots of a sequence whose tokens are written."""
        written = pages.num_registered * self._page_size
        while pages.planned and pages.planned[0].position <= written:
            self._register(pages, pages.planned.pop(0))

    def release(self, pages: SequencePages) -> None:
        """Register the rolling snapshot of a sequence that ends or is preempted, and give up what is not written."""
        snapshots = pages.planned if pages.rolling is None else [*pages.planned, pages.rolling]
        for snapshot in snapshots:
            if snapshot.position <= pages.num_registered * self._page_size:
                self._register(pages, snapshot)
            else:
                self._give_up(snapshot)
        pages.planned, pages.rolling = [], None

    def _offload(self, group: int, slot: int, num_tokens: int) -> bool:
        """Plan the copy of a snapshot that is evicted to host memory; return whether it is found there."""
        page_hash, host = self._indexes[group].find_hash(slot), self.hosts[group]
        assert page_hash is not None, "only registered snapshots are evicted"
        if host.find(page_hash) is not None:
            return True
        target = host.add(page_hash, num_tokens)
        if target is None:
            return False
        self._copies.plan([(group, slot, target)])
        self._counts.num_offloaded += 1
        return True

    def _allocate(self, pages: SequencePages, position: int) -> Snapshot | None:
        if self.num_held >= self._max_held:
            return None
        slots = []
        for group, pool in self._pools.items():
            new = pool.allocate(1)
            assert new is not None, "rows and held snapshots never take all slots"
            slots.append((group, new[0]))
        self.num_held += 1
        self._counts.num_taken += 1
        return Snapshot(position, tuple(slots), position - pages.last_snapshot)

    def _register(self, pages: SequencePages, snapshot: Snapshot) -> None:
        hashes = pages.hashes.hashes[snapshot.position // self._page_size - 1 :]  # of a fork they may be unknown
        for group, slot in snapshot.slots if hashes else ():
            if self._indexes[group].register(hashes[0], slot):
                self._pools[group].set_cost(slot, snapshot.num_tokens)
        self._give_up(snapshot)

    def _give_up(self, snapshot: Snapshot) -> None:
        for group, slot in snapshot.slots:
            self._pools[group].decref([slot])
        self.num_held -= 1


def _copy_state(pages: SequencePages, snapshot: Snapshot) -> list[PageCopy]:
    return [(group, pages.by_group[group][0], slot) for group, slot in snapshot.slots]
