"""What requests share of their prompts: pages known from others, and pages that another one is just computing."""

from jaxserve.engine.progress import Progress
from jaxserve.kvcache.prefix import PrefixIndex, most_cached_pages


class Sharing:
    """Stands between the scheduler and the prefix index; without an index nobody shares."""

    def __init__(self, index: PrefixIndex | None, page_size: int) -> None:
        self._index, self._page_size = index, page_size
        self._computing: dict[bytes, int] = {}  # page keys that a running prefill is about to know

    def reads(self, progress: Progress) -> bool:
        return self._index is not None and progress.request.reads_prefix_cache

    def known_pages(self, progress: Progress) -> list[int]:
        """Pages, found again, of the beginning of the request's tokens."""
        if self._index is None or not progress.request.reads_prefix_cache:
            return []
        return self._index.match(self._wanted_keys(progress))

    def is_being_computed(self, progress: Progress) -> bool:
        """Whether the next page this request lacks is on its way in another one's prefill: worth waiting for."""
        if not self._computing or not progress.request.reads_prefix_cache:
            return False
        keys = self._wanted_keys(progress)
        known = len(self.known_pages(progress))
        return known < len(keys) and keys[known] in self._computing

    def announce(self, progress: Progress, num_known: int) -> None:
        """The request begins to compute its pages behind the first num_known."""
        for key in self._wanted_keys(progress)[num_known:]:
            self._computing.setdefault(key, progress.request.request_id)

    def forget(self, progress: Progress) -> None:
        """The request computes no more."""
        for key in [key for key, owner in self._computing.items() if owner == progress.request.request_id]:
            del self._computing[key]

    def register(self, progress: Progress, num_written: int) -> None:
        """Makes pages findable that a finished step has filled completely."""
        full = num_written // self._page_size
        if self._index is None or full <= progress.num_registered:
            return
        keys = progress.keys.extend(progress.tokens)
        for at in range(progress.num_registered, full):
            self._index.register(keys[at], progress.pages[at])
            if self._computing.get(keys[at]) == progress.request.request_id:
                del self._computing[keys[at]]
        progress.num_registered = full

    def _wanted_keys(self, progress: Progress) -> list[bytes]:
        """Keys of the pages that a prefix hit may cover; at least one token is always computed."""
        if self._index is None:
            return []
        keys = progress.keys.extend(progress.tokens)
        return keys[: most_cached_pages(len(progress.tokens), self._page_size)]
