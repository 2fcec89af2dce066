"""The prefix cache: chained SHA-256 hashes of full pages, and an index from hash to page.

A page's hash covers the hash of the page before it and its own tokens, so equal hashes mean equal tokens and an equal
prefix. The chain starts from the hash of the context, which is everything besides the tokens that keys and values
depend on. Model, dtype and page layout are not hashed, because an index belongs to one cache group of one engine, which
has one of each. pool.py counts references and evicts; this file only knows what pages contain.
"""

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from jaxserve.cache.pool import CacheInvariantError, Fault, PagePool

# The first byte separates the kinds of hash input, so that no context can imitate a page.
_CONTEXT, _PAGE = b"\x01", b"\x02"


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheContext:
    """The facts besides the tokens that keys and values depend on; pages are shared only between equal contexts.

    salt              a secret of the client, so that others cannot find out what it has sent
    adapter           the key of the adapter that changes the weights
    weights_version   the version of the weights, where they are replaced while the engine runs
    adapter_name      what the client calls the adapter. That changes nothing: pages are shared by its key
    """

    salt: str | None = None
    adapter: str | None = None
    weights_version: str | None = None
    adapter_name: str | None = field(default=None, compare=False)

    def hash(self) -> bytes:
        """Return the hash before the first page. A field is any text, lone surrogates included, or None."""
        digest = sha256(_CONTEXT)
        for value in (self.salt, self.adapter, self.weights_version):
            data = b"" if value is None else value.encode("utf-8", "surrogatepass")
            digest.update(b"\x00" if value is None else b"\x01" + len(data).to_bytes(8, "little"))
            digest.update(data)
        return digest.digest()


NO_CONTEXT = CacheContext()


def max_cached_pages(num_tokens: int, page_size: int) -> int:
    """Return how many pages a prefix hit may cover: at least one token must be computed, for its logits."""
    return max(0, num_tokens - 1) // page_size


class PageHashes:
    """The hashes of one sequence's full pages, extended as it grows, so that no page is hashed twice."""

    __slots__ = ("_page_size", "_parent", "context", "hashes")

    def __init__(self, page_size: int, context: CacheContext = NO_CONTEXT) -> None:
        self._page_size, self.context = page_size, context
        self._parent = context.hash()
        self.hashes: list[bytes] = []

    def extend(self, token_ids: Sequence[int]) -> list[bytes]:
        """Return the hashes of all full pages. token_ids are all tokens of the sequence, from the first."""
        start, full = len(self.hashes) * self._page_size, len(token_ids) // self._page_size * self._page_size
        if full > start:
            data = array("i", token_ids[start:full]).tobytes()
            stride = 4 * self._page_size
            for offset in range(0, len(data), stride):
                self._parent = sha256(_PAGE + self._parent + data[offset : offset + stride]).digest()
                self.hashes.append(self._parent)
        return self.hashes


def hash_pages(token_ids: Sequence[int], page_size: int, context: CacheContext = NO_CONTEXT) -> list[bytes]:
    """Return the hashes of the full pages of token_ids."""
    return PageHashes(page_size, context).extend(token_ids)


class PrefixIndex:
    """Index from page hash to the page of one pool with those tokens. The pool evicts the least recently used pages.

    on_forget   called with the hash of each page that is removed; None: nobody wants to know
    """

    def __init__(self, pool: PagePool, on_forget: Callable[[bytes], None] | None = None) -> None:
        self._pool, self._on_forget = pool, on_forget
        self._page_by_hash: dict[bytes, int] = {}
        self._hash_by_page: dict[int, bytes] = {}
        pool.attach_listener(self)

    def __len__(self) -> int:
        """Return how many pages can be found, whatever their reference count."""
        return len(self._page_by_hash)

    def find(self, page_hash: bytes) -> int | None:
        """Return the page with this hash, or None."""
        return self._page_by_hash.get(page_hash)

    def hashes(self) -> frozenset[bytes]:
        """Return the hashes of all pages that can be found."""
        return frozenset(self._page_by_hash)

    def match(self, hashes: Iterable[bytes]) -> list[int]:
        """Return the pages of the longest cached prefix of these page hashes.

        The caller increments their reference counts before it allocates any page, which could evict them.
        """
        pages: list[int] = []
        for page_hash in hashes:
            page = self._page_by_hash.get(page_hash)
            if page is None:
                break
            pages.append(page)
        return pages

    def register(self, page_hash: bytes, page: int) -> bool:
        """Add a full, completely written page to the index; return False if another page has this hash already.

        The page must have a reference and must not be written again.
        Raises CacheInvariantError if the page is in the index under another hash.
        """
        if page_hash in self._page_by_hash:
            return self._page_by_hash[page_hash] == page
        if page in self._hash_by_page:
            raise CacheInvariantError(f"page {page} is already registered for other tokens")
        self._pool.mark_cached(page)
        self._page_by_hash[page_hash] = page
        self._hash_by_page[page] = page_hash
        return True

    def forget(self, page: int) -> None:
        """Remove a page from the index, if it is there. References to it stay valid."""
        if page in self._hash_by_page:
            self.on_evict(page)
            self._pool.unmark_cached(page)

    def clear(self) -> None:
        """Remove every page from the index."""
        for page in list(self._hash_by_page):
            self.forget(page)

    def on_evict(self, page: int) -> None:
        """Remove a page that the pool evicts. Called by the pool."""
        page_hash = self._hash_by_page.pop(page)
        del self._page_by_hash[page_hash]
        if self._on_forget is not None:
            self._on_forget(page_hash)

    def find_hash(self, page: int) -> bytes | None:
        """Return the hash under which this page is found, or None."""
        return self._hash_by_page.get(page)

    def find_faults(self) -> Iterator[Fault]:
        """Yield where hashes and pages do not match one to one, or the pool has not marked the same pages."""
        if {page: key for key, page in self._page_by_hash.items()} != self._hash_by_page:
            yield "I6", "the prefix index has a page twice, or a hash without a page"
        for page in range(self._pool.num_pages):
            if self._pool.is_marked_cached(page) != (page in self._hash_by_page):
                yield "I6", f"the pool and the prefix index disagree whether page {page} is cached"
