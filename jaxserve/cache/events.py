"""Events of the prefix cache: what it gets and loses, for routers that send a prompt to where its beginning is cached.

The form is vLLM's (vllm/distributed/kv_events.py since vLLM 0.24): each event is a map with its name under "type", and
hashes are the last 64 bits of ours. A field that has vLLM's default is left out, as there. Device memory is called
"GPU" on every device, as vLLM does on TPUs, too: routers know no other word for it.

Snapshots of recurrent states are not told: a state has no block of tokens, and routers leave those of vLLM out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from jaxserve.cache.groups import GroupSize
from jaxserve.cache.prefix import CacheContext

MEDIUM = "GPU"
HASH_BYTES = 8  # of a page's hash that an event has


@dataclass(frozen=True, slots=True)
class PagesStored:
    """Consecutive full pages that the prefix cache has got.

    group       the index of their cache group
    size        that group
    hashes      of the pages, in order
    parent      the hash of the page before them; None: they begin the prompt
    token_ids   the tokens of all of them
    context     what the hashes depend on besides
    """

    group: int
    size: GroupSize
    hashes: tuple[bytes, ...]
    parent: bytes | None
    token_ids: tuple[int, ...]
    context: CacheContext

    def to_map(self) -> dict[str, Any]:
        """Return it as vLLM's BlockStored."""
        num_pages, adapter = len(self.hashes), self.context.adapter_name
        extra = None if adapter is None else (adapter,)
        keys: list[tuple[str, ...] | None] = [extra] * num_pages
        if self.parent is None and self.context.salt is not None:
            keys[0] = (*(extra or ()), self.context.salt)
        window = {} if self.size.window is None else {"kv_cache_spec_sliding_window": self.size.window}
        return {
            "type": "BlockStored",
            "block_hashes": [shorten(page_hash) for page_hash in self.hashes],
            "parent_block_hash": None if self.parent is None else shorten(self.parent),
            "token_ids": self.token_ids,
            "block_size": len(self.token_ids) // num_pages,
            "lora_id": None,
            "medium": MEDIUM,
            "lora_name": adapter,
            "extra_keys": keys,
            "group_idx": self.group,
            "kv_cache_spec_kind": _name_kind(self.size),
            **window,
        }


@dataclass(frozen=True, slots=True)
class PageRemoved:
    """A page of a cache group that the prefix cache has lost."""

    group: int
    page_hash: bytes

    def to_map(self) -> dict[str, Any]:
        """Return it as vLLM's BlockRemoved."""
        hashes = [shorten(self.page_hash)]
        return {"type": "BlockRemoved", "block_hashes": hashes, "medium": MEDIUM, "group_idx": self.group}


@dataclass(frozen=True, slots=True)
class CacheCleared:
    """The prefix cache is empty."""

    def to_map(self) -> dict[str, Any]:
        """Return it as vLLM's AllBlocksCleared."""
        return {"type": "AllBlocksCleared"}


CacheEvent: TypeAlias = PagesStored | PageRemoved | CacheCleared


class CacheEvents:
    """The collector of the events of one prefix cache, for the thread that owns it.

    sizes       the size of each cache group
    page_size   the number of tokens of a page
    publish     takes the events since the last call, in order; it must not block
    """

    def __init__(
        self, sizes: Sequence[GroupSize], page_size: int, publish: Callable[[tuple[CacheEvent, ...]], None]
    ) -> None:
        self._sizes, self._page_size, self._publish = sizes, page_size, publish
        self._pending: list[CacheEvent] = []

    def on_store(
        self,
        group: int,
        numbers: Sequence[int],
        hashes: Sequence[bytes],
        token_ids: Sequence[int],
        context: CacheContext,
    ) -> None:
        """Record that pages of a sequence are cached now.

        numbers     which of its pages, ascending
        hashes      of all its pages
        token_ids   all its tokens
        """
        first = 0
        for end in range(1, len(numbers) + 1):
            if end == len(numbers) or numbers[end] != numbers[end - 1] + 1:
                start, stop = numbers[first], numbers[end - 1] + 1
                tokens = token_ids[start * self._page_size : stop * self._page_size]
                parent = hashes[start - 1] if start else None
                pages = tuple(hashes[start:stop])
                self._pending.append(PagesStored(group, self._sizes[group], pages, parent, tuple(tokens), context))
                first = end

    def on_remove(self, group: int, page_hash: bytes) -> None:
        """Record that a page is not cached any more."""
        self._pending.append(PageRemoved(group, page_hash))

    def on_clear(self) -> None:
        """Record that nothing is cached any more, and publish that: an idle engine does no step that would."""
        self._pending = [CacheCleared()]
        self.flush()

    def flush(self) -> None:
        """Publish the events since the last time, if there are any."""
        if self._pending:
            events, self._pending = tuple(self._pending), []
            self._publish(events)


def shorten(page_hash: bytes) -> int:
    """Return the number that stands for a page in events: the last 64 bits of its hash, big-endian, as in vLLM."""
    return int.from_bytes(page_hash[-HASH_BYTES:], "big")


def _name_kind(size: GroupSize) -> str:
    if size.is_latent:
        return "mla_attention"
    return "full_attention" if size.window is None else "sliding_window"
