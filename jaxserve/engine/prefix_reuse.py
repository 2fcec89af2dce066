"""What requests share of their prompts: pages known from others, and pages that another one is just computing."""

from jaxserve.engine.sequence import Sequence
from jaxserve.kvcache.prefix import PrefixIndex, most_cached_pages


class PrefixReuse:
    """Stands between the scheduler and the prefix index; without an index nobody shares."""

    def __init__(self, index: PrefixIndex | None, page_size: int) -> None:
        self._index, self._page_size = index, page_size
        self._computing: dict[bytes, int] = {}  # page keys that a running prefill is about to know

    def is_enabled_for(self, sequence: Sequence) -> bool:
        return self._index is not None and sequence.request.reads_prefix_cache

    def find_cached_pages(self, sequence: Sequence) -> list[int]:
        """Pages, found again, of the beginning of the request's tokens."""
        if self._index is None or not sequence.request.reads_prefix_cache:
            return []
        return self._index.match(self._cacheable_hashes(sequence))

    def is_being_computed(self, sequence: Sequence) -> bool:
        """Whether the next page this request lacks is on its way in another one's prefill: worth waiting for."""
        if not self._computing or not sequence.request.reads_prefix_cache:
            return False
        keys = self._cacheable_hashes(sequence)
        known = len(self.find_cached_pages(sequence))
        return known < len(keys) and keys[known] in self._computing

    def mark_computing(self, sequence: Sequence, num_cached_pages: int) -> None:
        """The request begins to compute its pages behind the first num_known."""
        for key in self._cacheable_hashes(sequence)[num_cached_pages:]:
            self._computing.setdefault(key, sequence.request.request_id)

    def unmark_computing(self, sequence: Sequence) -> None:
        """The request computes no more."""
        for key in [key for key, owner in self._computing.items() if owner == sequence.request.request_id]:
            del self._computing[key]

    def register(self, sequence: Sequence, num_written: int) -> None:
        """Makes pages findable that a finished step has filled completely."""
        full = num_written // self._page_size
        if self._index is None or full <= sequence.num_registered_pages:
            return
        keys = sequence.page_hashes.extend(sequence.tokens)
        for at in range(sequence.num_registered_pages, full):
            self._index.register(keys[at], sequence.pages[at])
            if self._computing.get(keys[at]) == sequence.request.request_id:
                del self._computing[keys[at]]
        sequence.num_registered_pages = full

    def _cacheable_hashes(self, sequence: Sequence) -> list[bytes]:
        """Keys of the pages that a prefix hit may cover; at least one token is always computed."""
        if self._index is None:
            return []
        keys = sequence.page_hashes.extend(sequence.tokens)
        return keys[: most_cached_pages(len(sequence.tokens), self._page_size)]
