"""Full pages found again: a chain of SHA-256 keys, and an index from key to page.

A page's key is the hash of its parent's key and its own tokens, so equal keys mean equal tokens *and* an equal
prefix. A salt goes into the root of the chain; without one the root is a class of its own. Model, dtype and page
layout need no place in the key: an index lives and dies with one engine, which has one of each.
The pool counts holders and evicts (pool.py); this file only remembers what the pages contain.
"""

from collections.abc import Iterable, Sequence
from hashlib import sha256

import numpy as np

from jaxserve.kvcache.pool import InvariantBroken, PagePool

# The first byte keeps the kinds of hash input apart: no salt can be made to look like a page.
_NO_SALT, _SALT, _PAGE = b"\x00", b"\x01", b"\x02"


def most_cached_pages(num_tokens: int, page_size: int) -> int:
    """The most pages a prefix hit may cover: at least one token is left, whose logits are wanted."""
    return max(0, num_tokens - 1) // page_size


class KeyChain:
    """One request's page keys, growing with its tokens, so that no page is hashed twice."""

    __slots__ = ("_page_size", "_parent", "keys")

    def __init__(self, page_size: int, salt: str | None = None) -> None:
        self._page_size = page_size
        self._parent = _root(salt)
        self.keys: list[bytes] = []

    def extend(self, token_ids: Sequence[int]) -> list[bytes]:
        """The keys of all full pages. token_ids are all the request's tokens so far, old ones included."""
        start, full = len(self.keys) * self._page_size, len(token_ids) // self._page_size * self._page_size
        if full > start:
            data = np.asarray(token_ids[start:full], dtype="<i4").tobytes()
            stride = 4 * self._page_size
            for at in range(0, len(data), stride):
                self._parent = sha256(_PAGE + self._parent + data[at : at + stride]).digest()
                self.keys.append(self._parent)
        return self.keys


def page_keys(token_ids: Sequence[int], page_size: int, salt: str | None = None) -> list[bytes]:
    """The keys of the full pages of token_ids."""
    return KeyChain(page_size, salt).extend(token_ids)


class PrefixIndex:
    """From a page's key to the page that holds those tokens. Oldest forgotten first, tails before heads."""

    def __init__(self, pool: PagePool, page_size: int) -> None:
        self.page_size = page_size
        self._pool = pool
        self._page_of: dict[bytes, int] = {}
        self._key_of: dict[int, bytes] = {}
        pool.attach(self)

    def __len__(self) -> int:
        """Pages that can be found, held or not."""
        return len(self._page_of)

    def chain(self, salt: str | None = None) -> KeyChain:
        """An empty chain of keys for one request."""
        return KeyChain(self.page_size, salt)

    def match(self, keys: Iterable[bytes]) -> list[int]:
        """The pages of the longest known beginning of keys. The caller holds them, before it allocates any."""
        pages: list[int] = []
        for key in keys:
            page = self._page_of.get(key)
            if page is None:
                break
            pages.append(page)
        return pages

    def register(self, key: bytes, page: int) -> bool:
        """Makes a full, completely written page findable. The caller holds it and will not write it again.

        The first page with a key wins: a second one stays private to its holder, and the answer is False.
        """
        if key in self._page_of:
            return self._page_of[key] == page
        if page in self._key_of:
            raise InvariantBroken(f"page {page} already stands for other tokens")
        self._pool.know(page)
        self._page_of[key] = page
        self._key_of[page] = key
        return True

    def forget(self, page: int) -> None:
        """Makes a page unfindable; a page that is not known is left alone. Its holders keep it."""
        if page in self._key_of:
            self.evicted(page)
            self._pool.unknow(page)

    def clear(self) -> None:
        """Forgets every page."""
        for page in list(self._key_of):
            self.forget(page)

    def evicted(self, page: int) -> None:
        """The pool has taken this page away (for the pool to call)."""
        del self._page_of[self._key_of.pop(page)]

    def audit(self) -> None:
        """Checks that keys and pages pair up and that the pool knows the same pages; raises InvariantBroken."""
        if {page: key for key, page in self._page_of.items()} != self._key_of:
            raise InvariantBroken("the prefix index names a page twice, or has lost one")
        for page in range(self._pool.num_pages):
            if self._pool.knows(page) != (page in self._key_of):
                raise InvariantBroken(f"the pool and the prefix index disagree whether page {page} is known")


def _root(salt: str | None) -> bytes:
    """The parent key of a first page. A salt is any text, lone surrogates included."""
    if salt is None:
        return sha256(_NO_SALT).digest()
    return sha256(_SALT + salt.encode("utf-8", "surrogatepass")).digest()
