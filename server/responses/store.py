"""The responses that are kept in memory, so that clients can read them again and go on from them.

They are lost when the server ends. Each belongs to the API key that asked for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from server.config import ServerConfig
from server.errors import ApiError, preview, unavailable
from server.json_bytes import encode_json
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

    response        the object, as it is now
    items           the conversation up to its input; its output is in the response
    item_bytes      of these items, as JSON
    run             what generates it, or has done so; None: it was not made in the background
    response_bytes  of the response, as JSON
    output_bytes    of its output, as JSON
    num_bytes       of all of it, as JSON
    stored_s        when it was put in, by the store's clock
    """

    response: dict[str, Any]
    items: Sequence[Item]
    item_bytes: int
    run: Run | None = None
    response_bytes: int = 0
    output_bytes: int = 0
    num_bytes: int = 0
    stored_s: float = 0.0

    @property
    def conversation(self) -> list[Item]:
        """The items from which the next response goes on."""
        return [*self.items, *self.response["output"]]

    @property
    def is_running(self) -> bool:
        """Whether it is still being generated."""
        return self.response["status"] in ("queued", "in_progress")

    def find_item(self, item_id: str) -> Item:
        """Return an item of its output, which must be there."""
        return next(item for item in self.response["output"] if item["id"] == item_id)

    def measure(self) -> int:
        """Measure the response, and return how many bytes it has more than before."""
        before = self.response_bytes
        self.output_bytes = len(encode_json(self.response["output"]))
        self.response_bytes = self.output_bytes + len(encode_json({**self.response, "output": None})) - len("null")
        return self.response_bytes - before


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
        key = (owner, entry.response["id"])
        self._remove(key)
        entry.stored_s = self._now_s()
        entry.num_bytes = entry.measure() + entry.item_bytes
        fixed_bytes = sum(other.num_bytes for other in self._by_id.values() if other.is_running)
        needed_bytes = fixed_bytes + entry.num_bytes + NUM_FIRST_EVENTS * entry.response_bytes
        if entry.is_running and needed_bytes > self._max_bytes:
            raise unavailable(NO_ROOM)
        if entry.num_bytes > self._max_bytes or not self._max_size:
            return False
        self._by_id[key] = entry
        self.num_bytes += entry.num_bytes
        self._index_items(owner, entry)
        self._evict()
        return True

    def replace(self, owner: str, entry: StoredResponse, response: dict[str, Any]) -> None:
        """Replace the response of an entry by what has become of it."""
        is_kept = self._by_id.get((owner, response["id"])) is entry
        if is_kept:
            self._unindex_items(owner, entry)
        entry.response = response
        num_bytes = entry.measure()
        if is_kept:
            self._count(entry, num_bytes)
            self._index_items(owner, entry)

    def grow(self, owner: str, entry: StoredResponse, num_bytes: int) -> None:
        """Count bytes that a response that is kept has got.

        Raises ApiError (503) if they do not fit even when all that have ended are forgotten. They count all the same.
        """
        key = (owner, entry.response["id"])
        if self._by_id.get(key) is not entry:
            return
        self._count(entry, num_bytes)
        self._evict(kept=key)
        if self.num_bytes > self._max_bytes:
            raise unavailable(NO_ROOM)

    def shrink(self, owner: str, entry: StoredResponse, num_bytes: int) -> None:
        """Count bytes less of a response, if it is kept."""
        if self._by_id.get((owner, entry.response["id"])) is entry:
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
        self._by_item_id.update(((owner, item["id"]), entry) for item in entry.response["output"])

    def _unindex_items(self, owner: str, entry: StoredResponse) -> None:
        for item in entry.response["output"]:
            self._by_item_id.pop((owner, item["id"]), None)
