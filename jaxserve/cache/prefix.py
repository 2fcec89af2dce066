"""Full pages found again: a chain of SHA-256 keys, and an index from key to page.

A page's key is the hash of its parent's key and its own tokens, so equal keys mean equal tokens *and* an equal
prefix. A salt goes into the root of the chain; without one the root is a class of its own. Model, dtype and page
layout need no place in the key: an index lives and dies with one engine, which has one of each.
The pool counts holders and evicts (pool.py); this file only remembers what the pages contain.
"""

from collections.abc import Iterable, Sequence
from hashlib import sha256

import numpy as np

from jaxserve.cache.pool import CacheInvariantError, PagePool

# The first byte keeps the kinds of hash input apart: no salt can be made to look like a page.
_NO_SALT, _SALT, _PAGE = b"\x00", b"\x01", b"\x02"


def max_cached_pages(num_tokens: int, page_size: int) -> int:
    """The most pages a prefix hit may cover: at least one token is left, whose logits are wanted."""
    return max(0, num_tokens - 1) // page_size


class PageHashes:
    """One request's page keys, growing with its tokens, so that no page is hashed twice."""

    __slots__ = ("_page_size", "_parent", "hashes")

    def __init__(self, page_size: int, salt: str | None = None) -> None:
        self._page_size = page_size
        self._parent = _root_hash(salt)
        self.hashes: list[bytes] = []

    def extend(self, token_ids: Sequence[int]) -> list[bytes]:
        """The keys of all full pages. token_ids are all the request's tokens so far, old ones included."""
        start, full = len(self.hashes) * self._page_size, len(token_ids) // self._page_size * self._page_size
        if full > start:
            data = np.asarray(token_ids[start:full], dtype="<i4").tobytes()
            stride = 4 * self._page_size
            for offset in range(0, len(data), stride):
                self._parent = sha256(_PAGE + self._parent + data[offset : offset + stride]).digest()
                self.hashes.append(self._parent)
        return self.hashes


def hash_pages(token_ids: Sequence[int], page_size: int, salt: str | None = None) -> list[bytes]:
    """The keys of the full pages of token_ids."""
    return PageHashes(page_size, salt).extend(token_ids)


class PrefixIndex:
    """From a page's key to the page that holds those tokens. Oldest forgotten first, tails before heads."""

    def __init__(self, pool: PagePool, page_size: int) -> None:
        self.page_size = page_size
        self._pool = pool
        self._page_by_hash: dict[bytes, int] = {}
        self._hash_by_page: dict[int, bytes] = {}
        pool.attach_listener(self)

    def __len__(self) -> int:
        """Pages that can be found, held or not."""
        return len(self._page_by_hash)

    def start_hashes(self, salt: str | None = None) -> PageHashes:
        """An empty chain of keys for one request."""
        return PageHashes(self.page_size, salt)

    def match(self, hashes: Iterable[bytes]) -> list[int]:
        """The pages of the longest known beginning of keys. The caller holds them, before it allocates any."""
        pages: list[int] = []
        for page_hash in hashes:
            page = self._page_by_hash.get(page_hash)
            if page is None:
                break
            pages.append(page)
        return pages

    def register(self, page_hash: bytes, page: int) -> bool:
        """Makes a full, completely written page findable. The caller holds it and will not write it again.

        The first page with a key wins: a second one stays private to its holder, and the answer is False.
        """
        if page_hash in self._page_by_hash:
            return self._page_by_hash[page_hash] == page
        if page in self._hash_by_page:
            raise CacheInvariantError(f"page {page} already stands for other tokens")
        self._pool.mark_cached(page)
        self._page_by_hash[page_hash] = page
        self._hash_by_page[page] = page_hash
        return True

    def forget(self, page: int) -> None:
        """Makes a page unfindable; a page that is not known is left alone. Its holders keep it."""
        if page in self._hash_by_page:
            self.on_evict(page)
            self._pool.unmark_cached(page)

    def clear(self) -> None:
        """Forgets every page."""
        for page in list(self._hash_by_page):
            self.forget(page)

    def on_evict(self, page: int) -> None:
        """The pool has taken this page away (for the pool to call)."""
        del self._page_by_hash[self._hash_by_page.pop(page)]

    def audit(self) -> None:
        """Checks that keys and pages pair up and that the pool knows the same pages; raises CacheInvariantError."""
        if {page: key for key, page in self._page_by_hash.items()} != self._hash_by_page:
            raise CacheInvariantError("the prefix index names a page twice, or has lost one")
        for page in range(self._pool.num_pages):
            if self._pool.is_marked_cached(page) != (page in self._hash_by_page):
                raise CacheInvariantError(f"the pool and the prefix index disagree whether page {page} is known")


def _root_hash(salt: str | None) -> bytes:
    """The parent key of a first page. A salt is any text, lone surrogates included."""
    if salt is None:
        return sha256(_NO_SALT).digest()
    return sha256(_SALT + salt.encode("utf-8", "surrogatepass")).digest()
