"""Reuse of prefix pages: those in the cache, and those that another running prefill is about to add to it."""

from jaxserve.cache.manager import CacheManager
from jaxserve.cache.sequence_pages import PrefixHit
from jaxserve.engine.sequence import Sequence


class PrefixReuse:
    """The cached prefixes of sequences, and the pages that running prefills will add to the cache."""

    def __init__(self, cache: CacheManager) -> None:
        self._cache = cache
        self._computing: dict[bytes, int] = {}  # page hash → id of the request whose running prefill computes the page

    def is_enabled_for(self, sequence: Sequence) -> bool:
        """Whether a sequence looks its prompt up in the prefix cache."""
        return bool(self._cache.indexes) and sequence.request.reads_prefix_cache

    def find_hit(self, sequence: Sequence) -> PrefixHit:
        """Return the longest cached prefix of a sequence, empty if it may not use one."""
        return self._cache.find_hit(sequence.pages, sequence.tokens if self.is_enabled_for(sequence) else ())

    def is_being_computed(self, sequence: Sequence) -> bool:
        """Whether another running prefill computes the first page that this sequence lacks: it is worth waiting for."""
        if not self._computing or not self.is_enabled_for(sequence):
            return False
        hashes, num_cached = self._cacheable_hashes(sequence), self.find_hit(sequence).num_pages
        return num_cached < len(hashes) and hashes[num_cached] in self._computing

    def mark_computing(self, sequence: Sequence, num_cached_pages: int) -> None:
        """Announce that a sequence computes its pages after the first num_cached_pages."""
        for page_hash in self._cacheable_hashes(sequence)[num_cached_pages:]:
            self._computing.setdefault(page_hash, sequence.request.request_id)

    def unmark_computing(self, sequence: Sequence, first_page: int = 0) -> None:
        """Withdraw what a sequence has announced, from page first_page up to those that it has registered, or all."""
        if not self._computing:
            return
        request_id = sequence.request.request_id
        end = sequence.pages.num_registered
        hashes = sequence.pages.hashes.hashes[first_page:end] if end else list(self._computing)
        for page_hash in hashes:
            if self._computing.get(page_hash) == request_id:
                del self._computing[page_hash]

    def computing_ids(self) -> set[int]:
        """Return the ids of the requests that have announced pages which they have not registered."""
        return set(self._computing.values())

    def _cacheable_hashes(self, sequence: Sequence) -> list[bytes]:
        return self._cache.cacheable_hashes(sequence.pages, sequence.tokens) if self._cache.indexes else []
