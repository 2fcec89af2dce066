"""Reuse of prefix pages: pages in the prefix index, and pages that another running prefill is about to add to it."""

from jaxserve.cache.prefix import PrefixIndex, max_cached_pages
from jaxserve.engine.sequence import Sequence


class PrefixReuse:
    """Access of sequences to the prefix index, and to the pages that running prefills will add to it.

    index       The prefix index; None: no sequence reuses pages.
    page_size   The number of tokens of a page.
    """

    def __init__(self, index: PrefixIndex | None, page_size: int) -> None:
        self._index, self._page_size = index, page_size
        self._computing: dict[bytes, int] = {}  # page hash → id of the request whose running prefill computes the page

    def is_enabled_for(self, sequence: Sequence) -> bool:
        """Whether a sequence looks its prompt up in the prefix index."""
        return self._index is not None and sequence.request.reads_prefix_cache

    def find_cached_pages(self, sequence: Sequence) -> list[int]:
        """Return the cached pages of a sequence's longest cached prefix, in order."""
        if self._index is None or not sequence.request.reads_prefix_cache:
            return []
        return self._index.match(self._cacheable_hashes(sequence))

    def is_being_computed(self, sequence: Sequence) -> bool:
        """Whether another running prefill computes the first page that this sequence lacks: it is worth waiting for."""
        if not self._computing or not sequence.request.reads_prefix_cache:
            return False
        hashes = self._cacheable_hashes(sequence)
        num_cached = len(self.find_cached_pages(sequence))
        return num_cached < len(hashes) and hashes[num_cached] in self._computing

    def mark_computing(self, sequence: Sequence, num_cached_pages: int) -> None:
        """Announce that a sequence computes its pages after the first num_cached_pages."""
        for page_hash in self._cacheable_hashes(sequence)[num_cached_pages:]:
            self._computing.setdefault(page_hash, sequence.request.request_id)

    def unmark_computing(self, sequence: Sequence) -> None:
        """Withdraw what a sequence has announced."""
        request_id = sequence.request.request_id
        for page_hash in [page_hash for page_hash, owner_id in self._computing.items() if owner_id == request_id]:
            del self._computing[page_hash]

    def register(self, sequence: Sequence, num_written: int) -> None:
        """Add the pages to the prefix index that a finished step has filled.

        num_written   The number of the sequence's tokens whose keys and values are written.
        """
        num_full = num_written // self._page_size
        if self._index is None or num_full <= sequence.num_registered_pages:
            return
        hashes = sequence.page_hashes.extend(sequence.tokens)
        for index in range(sequence.num_registered_pages, num_full):
            self._index.register(hashes[index], sequence.pages[index])
            if self._computing.get(hashes[index]) == sequence.request.request_id:
                del self._computing[hashes[index]]
        sequence.num_registered_pages = num_full

    def _cacheable_hashes(self, sequence: Sequence) -> list[bytes]:
        """Return the hashes of the pages that a prefix hit may cover; at least one token is always computed."""
        if self._index is None:
            return []
        hashes = sequence.page_hashes.extend(sequence.tokens)
        return hashes[: max_cached_pages(len(sequence.tokens), self._page_size)]
