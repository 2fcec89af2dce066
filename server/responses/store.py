"""The responses that are kept in memory, so that clients can read them again and go on from them.

They are lost when the server ends. Each belongs to the API key that asked for it.

They are kept as JSON, so that they take the bytes that are counted. Python's objects take as many for long texts, but 4
times as many for one emoji in a long ASCII text, 4 to 7 for calls, short messages and log-probabilities, and 20 to 30
for empty lists and objects (tracemalloc, CPython 3.11).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from jaxserve import load_exact_json
from server.config import ServerConfig
from server.errors import ApiError, preview, unavailable
from server.json_bytes import encode_kept_json
from server.responses.items import Item

NUM_FIRST_EVENTS = 3  # events before the first token, each of which has the whole response
NO_ROOM = (
    "Responses in the background have more bytes than --responses-store-bytes allows; please try again when some have "
    "ended, send less, or do without background."
)


class Run(Protocol):
    """The generation of a response in the background."""

    def cancel(self) -> None:
        """End it, and with it the response."""
        ...

    @property
    def num_events(self) -> int:
        """Number of its events so far."""
        ...

    def read(self, after: int = -1) -> AsyncIterator[bytes]:
        """Yield the events behind the one with the number `after`, and those that are still to come."""
        ...


@dataclass(slots=True)
class StoredResponse:
    """A response that is kept.

    id         of the response
    status     of the response, as it is now
    body       the response, as JSON
    item_ids   ids of the items of its output
    items      the conversation up to its input: arrays of items, as JSON; responses of one conversation share them
    run        what generates it, or has done so; None: it was not made in the background
    num_bytes  of all of it
    stored_s   when it was put in, by the store's clock
    """

    id: str
    status: str
    body: bytes
    item_ids: tuple[str, ...]
    items: tuple[bytes, ...] = ()
    run: Run | None = None
    num_bytes: int = 0
    stored_s: float = 0.0

    @classmethod
    def from_response(
        cls, response: Mapping[str, Any], items: tuple[bytes, ...] = (), run: Run | None = None
    ) -> StoredResponse:
        """Make the entry of a response."""
        entry = cls(response["id"], "", b"", (), items, run)
        entry.set_response(response)
        return entry

    def set_response(self, response: Mapping[str, Any]) -> None:
        """Replace the response by what has become of it."""
        self.status, self.body = response["status"], encode_kept_json(response)
        self.item_ids = tuple(item["id"] for item in response["output"])

    @property
    def response(self) -> dict[str, Any]:
        """The object."""
        return load_exact_json(self.body)

    @property
    def conversation(self) -> tuple[bytes, ...]:
        """The items from which the next response goes on, as `items`."""
        return (*self.items, encode_kept_json(self.response["output"]))

    @property
    def is_running(self) -> bool:
        """Whether it is still being generated."""
        return self.status in ("queued", "in_progress")

    @property
    def own_bytes(self) -> int:
        """Bytes of the response and its items, without its events."""
        return len(self.body) + sum(map(len, self.items))

    def read_items(self) -> dict[str, Item]:
        """Return the items of its output, by their ids."""
        return {item["id"]: item for item in self.response["output"]}


class ResponseStore:
    """The store of a server's responses, within limits of number, bytes and age; the oldest go first.

    Those that are still being generated stay: the queue limits them. One that alone is too large is not kept.
    """

    def __init__(self, config: ServerConfig, now_s: Callable[[], float] | None = None) -> None:
        """now_s: the clock; None is the time since the machine has started."""
        self._max_size, self._max_bytes = config.responses_store_size, config.responses_store_bytes
        self._max_age_s, self._now_s = config.responses_store_age_s, now_s or time.monotonic
        self._by_id: dict[tuple[str, str], StoredResponse] = {}
        self._by_item_id: dict[tuple[str, str], StoredResponse] = {}  # of each item in their outputs
        self._claimed: set[tuple[str, str]] = set()
        self.num_bytes = 0

    def __len__(self) -> int:
        return len(self._by_id)

    def claim(self, owner: str, response_id: str) -> bool:
        """Take an id for the response that the current task makes, until that is done.

        Return False if a response of the owner is kept under that id, or comes.
        """
        key, task = (owner, response_id), asyncio.current_task()
        if key in self._by_id or key in self._claimed:
            return False
        self._claimed.add(key)
        if task is not None:
            task.add_done_callback(lambda _: self._claimed.discard(key))
        return True

    def put(self, owner: str, entry: StoredResponse) -> bool:
        """Keep a response. One of the same id and owner is replaced. Return False if it is larger than all may be.

        Raises ApiError (503) if it is still being generated, and does not fit beside the others that are.
        """
        key = (owner, entry.id)
        self._remove(key)
        entry.stored_s = self._now_s()
        entry.num_bytes = entry.own_bytes
        fixed_bytes = sum(other.num_bytes for other in self._by_id.values() if other.is_running)
        needed_bytes = fixed_bytes + entry.num_bytes + NUM_FIRST_EVENTS * len(entry.body)
        if entry.is_running and needed_bytes > self._max_bytes:
            raise unavailable(NO_ROOM)
        if entry.num_bytes > self._max_bytes or not self._max_size:
            return False
        self._by_id[key] = entry
        self.num_bytes += entry.num_bytes
        self._index_items(owner, entry)
        self._evict()
        return True

    def replace(self, owner: str, entry: StoredResponse, response: Mapping[str, Any]) -> None:
        """Replace the response of an entry by what has become of it."""
        before, is_kept = len(entry.body), self._by_id.get((owner, entry.id)) is entry
        if is_kept:
            self._unindex_items(owner, entry)
        entry.set_response(response)
        if is_kept:
            self._count(entry, len(entry.body) - before)
            self._index_items(owner, entry)

    def grow(self, owner: str, entry: StoredResponse, num_bytes: int) -> None:
        """Count bytes that a response that is kept has got.

        Raises ApiError (503) if they do not fit even when all that have ended are forgotten. They count all the same.
        """
        key = (owner, entry.id)
        if self._by_id.get(key) is not entry:
            return
        self._count(entry, num_bytes)
        self._evict(kept=key)
        if self.num_bytes > self._max_bytes:
            raise unavailable(NO_ROOM)

    def shrink(self, owner: str, entry: StoredResponse, num_bytes: int) -> None:
        """Count bytes less of a response, if it is kept."""
        if self._by_id.get((owner, entry.id)) is entry:
            self._count(entry, -num_bytes)

    def get(self, owner: str, response_id: str, param: str) -> StoredResponse:
        """Return a response. param: the field that has its id. Raises ApiError (404) if it is not kept."""
        self._evict()
        entry = self._by_id.get((owner, response_id))
        if entry is None:
            message = f"There is no response {preview(response_id)}; responses are kept for a while only."
            raise ApiError(404, message, param=param)
        return entry

    def find_holder(self, owner: str, item_id: str) -> StoredResponse | None:
        """Return the response in whose output an item is; None if none is kept."""
        self._evict()
        return self._by_item_id.get((owner, item_id))

    def delete(self, owner: str, response_id: str) -> StoredResponse:
        """Forget a response and return it. Raises ApiError (404) if it is not kept."""
        entry = self.get(owner, response_id, "response_id")
        self._remove((owner, response_id))
        return entry

    def _evict(self, kept: tuple[str, str] | None = None) -> None:
        """Forget what is too old, and the oldest while there are too many, or too many bytes. kept: not this one."""
        while (key := self._find_excess(kept)) is not None:
            self._remove(key)

    def _find_excess(self, kept: tuple[str, str] | None) -> tuple[str, str] | None:
        """Find the oldest response that must go. Most often the first entry shows that none must."""
        oldest_s = self._now_s() - self._max_age_s
        is_excess = len(self._by_id) > self._max_size or self.num_bytes > self._max_bytes
        for key, entry in self._by_id.items():
            if not is_excess and entry.stored_s >= oldest_s:
                return None
            if not entry.is_running and key != kept:
                return key
        return None

    def _count(self, entry: StoredResponse, num_bytes: int) -> None:
        entry.num_bytes += num_bytes
        self.num_bytes += num_bytes

    def _remove(self, key: tuple[str, str]) -> None:
        entry = self._by_id.pop(key, None)
        if entry is not None:
            self.num_bytes -= entry.num_bytes
            self._unindex_items(key[0], entry)

    def _index_items(self, owner: str, entry: StoredResponse) -> None:
        self._by_item_id.update(((owner, item_id), entry) for item_id in entry.item_ids)

    def _unindex_items(self, owner: str, entry: StoredResponse) -> None:
        for item_id in entry.item_ids:
            self._by_item_id.pop((owner, item_id), None)
