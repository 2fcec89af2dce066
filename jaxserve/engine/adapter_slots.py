"""The adapters that are on the device: a slot for each, kept for later requests until another adapter needs it."""

from collections.abc import Iterator, Sequence

from jaxserve.cache.pool import Fault
from jaxserve.engine.sequence import Sequence as TokenSequence
from jaxserve.layers.adapter import NO_ADAPTER, Adapter


class AdapterSlots:
    """The slots of adapters, and the number of running sequences that use each of them.

    num_slots   The number of adapters that may be on the device together.
    """

    def __init__(self, num_slots: int) -> None:
        self._num_slots = num_slots
        self.reset()

    def reset(self) -> None:
        """Make all slots empty and unused."""
        self._slots: dict[str, int] = {}  # by the key of the adapter, least recently used first
        self._num_users: dict[str, int] = {}
        self._updates: list[tuple[int, Adapter]] = []

    def has_room(self, adapter: Adapter | None) -> bool:
        """Whether a sequence with this adapter could start now."""
        if adapter is None or adapter.key in self._slots:
            return True
        return len(self._slots) < self._num_slots or len(self._num_users) < len(self._slots)

    def acquire(self, adapter: Adapter | None) -> int:
        """Return the slot of an adapter for which there is room, until `release`; the next plan writes it if need be.

        An adapter that is not on the device gets an empty slot, or that of the one unused for longest.
        """
        if adapter is None:
            return NO_ADAPTER
        slot = self._slots.pop(adapter.key, None)
        if slot is None:
            slot = self._take_slot()
            self._updates.append((slot, adapter))
        self._slots[adapter.key] = slot
        self._num_users[adapter.key] = self._num_users.get(adapter.key, 0) + 1
        return slot

    def release(self, adapter: Adapter | None) -> None:
        """Withdraw one use of an adapter's slot. It stays there until the slot is needed."""
        if adapter is None:
            return
        self._num_users[adapter.key] -= 1
        if not self._num_users[adapter.key]:
            del self._num_users[adapter.key]

    def pop_updates(self) -> tuple[tuple[int, Adapter], ...]:
        """Return the queued (slot, adapter) pairs, to be written before the next step."""
        updates, self._updates = self._updates, []
        return tuple(updates)

    def _take_slot(self) -> int:
        if len(self._slots) < self._num_slots:
            return len(self._slots) + 1
        key = next(key for key in self._slots if key not in self._num_users)
        return self._slots.pop(key)

    def find_faults(self, running: Sequence[TokenSequence]) -> Iterator[Fault]:
        """Yield the running sequences that are in another slot than their adapter, and uses that are nobody's."""
        users: dict[str, int] = {}
        for sequence in running:
            adapter = sequence.request.adapter
            slot = NO_ADAPTER if adapter is None else self._slots.get(adapter.key)
            if sequence.adapter_slot != slot:
                yield "I18", f"request {sequence.request.request_id} has slot {sequence.adapter_slot}, not {slot}"
            if adapter is not None:
                users[adapter.key] = users.get(adapter.key, 0) + 1
        if users != self._num_users:
            yield (
                "I19",
                f"adapters are used {sorted(users.values())} times, and {sorted(self._num_users.values())} told",
            )
        if sorted(self._slots.values()) != list(range(1, len(self._slots) + 1)) or len(self._slots) > self._num_slots:
            yield "I18", f"adapters have the slots {sorted(self._slots.values())} of {self._num_slots}"
