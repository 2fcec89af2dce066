"""A router that knows the prefix cache by its events alone, and checks each of them by what it has heard before."""

from collections.abc import Iterable
from typing import Any

from jaxserve.cache.events import CacheEvent, shorten
from jaxserve.cache.manager import CacheManager
from jaxserve.cache.prefix import CacheContext, hash_pages


class EventReplay:
    """What the events of a cache say that it holds.

    cached   pairs of a cache group and the number of a page's hash
    """

    def __init__(self) -> None:
        self.cached: set[tuple[int, int]] = set()
        self._prefixes: dict[int, tuple[tuple[int, ...], CacheContext]] = {}  # of all pages ever stored

    def publish(self, events: tuple[CacheEvent, ...]) -> None:
        """Take events, as the publisher does."""
        self.apply(event.to_map() for event in events)

    def apply(self, events: Iterable[dict[str, Any]]) -> None:
        """Take events in vLLM's form."""
        for event in events:
            match event["type"]:
                case "BlockStored":
                    self._store(event)
                case "BlockRemoved":
                    for page_hash in event["block_hashes"]:
                        self.cached.remove((event["group_idx"], page_hash))
                case "AllBlocksCleared":
                    self.cached.clear()

    def _store(self, event: dict[str, Any]) -> None:
        hashes, tokens, size = event["block_hashes"], event["token_ids"], event["block_size"]
        assert len(tokens) == size * len(hashes) and len(event["extra_keys"]) == len(hashes) > 0
        pages = {(event["group_idx"], page_hash) for page_hash in hashes}
        assert len(pages) == len(hashes) and not pages & self.cached, "stored twice"
        self.cached |= pages
        known = self._find_prefix(event)
        if known is None:
            return  # pages behind a window, whose beginning was never cached
        before, context = known
        for end, page_hash in zip(range(size, len(tokens) + 1, size), hashes, strict=True):
            prefix = (*before, *tokens[:end])
            assert shorten(hash_pages(prefix, size, context)[-1]) == page_hash
            self._prefixes[page_hash] = prefix, context

    def _find_prefix(self, event: dict[str, Any]) -> tuple[tuple[int, ...], CacheContext] | None:
        """Return the tokens before those of an event and their context; None if they are not known."""
        name, parent = event["lora_name"], event["parent_block_hash"]
        first, *others = event["extra_keys"]
        assert all(keys == (None if name is None else (name,)) for keys in others)
        if parent is not None:
            return self._prefixes.get(parent)
        salts = (first or ())[name is not None :]
        salt = salts[0] if salts else None
        return (), CacheContext(salt=salt, adapter=None if name is None else f"key of {name}")

    def check(self, cache: CacheManager) -> None:
        """Check that exactly those pages are cached that the events say."""
        if cache.events is not None:
            cache.events.flush()
        assert self.cached == list_cached(cache)


def list_cached(cache: CacheManager) -> set[tuple[int, int]]:
    """Return pairs of a cache group and the number of a page's hash for all cached pages that hold tokens."""
    return {
        (group, shorten(page_hash))
        for group, (size, index) in enumerate(zip(cache.sizes, cache.indexes, strict=False))
        if not size.is_recurrent
        for page_hash in index.hashes()
    }
