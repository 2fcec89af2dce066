"""Reuse of prefix pages: those in the cache, and those that another running prefill is about to add to it.

Of a model with recurrent layers a prefix can be reused only up to a snapshot, so of a running prefill only the pages
that end at its borders are announced.
"""

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
        if self._cache.snapshots is not None:
            return not self._computing.keys().isdisjoint(hashes[num_cached:])
        return num_cached < len(hashes) and hashes[num_cached] in self._computing

    def find_borders(self, sequence: Sequence, hit: PrefixHit) -> tuple[int, ...]:
        """Return the page borders of a prompt at which snapshots are missing that later prompts may need.

        They are those of the request, and the end of what other prompts have shared with this one: a third may, too.
        """
        page_size, snapshots = self._cache.page_size, self._cache.snapshots
        wanted = {border - border % page_size for border in sequence.request.snapshot_borders}
        wanted.add(hit.num_matched * page_size)
        end, start = len(sequence.tokens), hit.num_pages * page_size
        return tuple(
            border
            for border in sorted(wanted)
            if start < border < end
            and snapshots is not None
            and snapshots.is_missing(sequence.pages, sequence.tokens, border)
        )

    def unmark_borders(self, sequence: Sequence, num_written: int) -> None:
        """Withdraw the announced borders of a sequence before num_written whose snapshots are registered, or failed."""
        if not self._computing or not sequence.borders:
            return
        hashes, page_size = sequence.pages.hashes.hashes, self._cache.page_size
        planned = [snapshot.position for snapshot in sequence.pages.planned]
        for border in sequence.borders:
            if border <= num_written and border < sequence.num_computed and border not in planned:
                self._unmark(hashes[border // page_size - 1], sequence)

    def mark_computing(self, sequence: Sequence, num_cached_pages: int) -> None:
        """Announce that a sequence computes its pages after the first num_cached_pages."""
        hashes = self._cacheable_hashes(sequence)[num_cached_pages:]
        if self._cache.snapshots is not None:
            page_size, all_hashes = self._cache.page_size, sequence.pages.hashes.hashes
            hashes = [all_hashes[border // page_size - 1] for border in sequence.borders]
        for page_hash in hashes:
            self._computing.setdefault(page_hash, sequence.request.request_id)

    def unmark_computing(self, sequence: Sequence, first_page: int = 0) -> None:
        """Withdraw what a sequence has announced, from page first_page up to those that it has registered, or all."""
        if not self._computing:
            return
        end = sequence.pages.num_registered
        hashes = sequence.pages.hashes.hashes[first_page:end] if end else list(self._computing)
        for page_hash in hashes:
            self._unmark(page_hash, sequence)

    def _unmark(self, page_hash: bytes, sequence: Sequence) -> None:
        if self._computing.get(page_hash) == sequence.request.request_id:
            del self._computing[page_hash]

    def computing_ids(self) -> set[int]:
        """Return the ids of the requests that have announced pages which they have not registered."""
        return set(self._computing.values())

    def _cacheable_hashes(self, sequence: Sequence) -> list[bytes]:
        return self._cache.cacheable_hashes(sequence.pages, sequence.tokens) if self._cache.indexes else []
