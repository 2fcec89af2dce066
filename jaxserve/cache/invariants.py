"""The invariants of pages: what is wrong with pools, prefix indexes and the pages of sequences, taken together."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from jaxserve.cache.manager import CacheManager
from jaxserve.cache.pool import Fault, raise_first
from jaxserve.cache.sequence_pages import SequencePages


def audit_pages(
    cache: CacheManager, owned: Iterable[SequencePages], writable: Iterable[tuple[SequencePages, int]] = ()
) -> None:
    """Raise CacheInvariantError if `find_page_faults` finds anything."""
    raise_first(find_page_faults(cache, owned, writable))


def find_page_faults(
    cache: CacheManager, owned: Iterable[SequencePages], writable: Iterable[tuple[SequencePages, int]] = ()
) -> Iterator[Fault]:
    """Compare pools and prefix indexes with the pages of all sequences; yield what does not match (I1 to I6, I20).

    owned      the pages of every sequence and beam
    writable   those of sequences that will be computed further, each with the first position of a later step
    """
    owned = list(owned)
    yield from _find_wrong_zeros(cache, owned)
    first_pages = [(pages, max(pages.num_registered, start // cache.page_size)) for pages, start in writable]
    for group, pool in enumerate(cache.pools):
        is_recurrent = cache.sizes[group].is_recurrent
        yield from pool.find_faults(
            ([page for owner, page in pages.iter_owned() if owner == group] for pages in owned),
            chain.from_iterable(pages.by_group[group][0 if is_recurrent else first :] for pages, first in first_pages),
        )
        yield from _find_misplaced(group, owned)
    if cache.snapshots is not None:
        held = [snapshot for pages in owned for snapshot in (*pages.planned, pages.rolling) if snapshot is not None]
        if cache.snapshots.num_held != len(held):
            yield "I2", f"{cache.snapshots.num_held} snapshots are counted, and sequences own {len(held)}"
        for group, slot in chain.from_iterable(snapshot.slots for snapshot in held):
            if cache.pools[group].refcount(slot) != 1 or cache.pools[group].is_marked_cached(slot):
                yield "I4", f"page {slot} in group {group} will be a snapshot, and is shared or cached"
        for host in cache.snapshots.hosts.values():
            yield from host.find_faults()
    for group, index in enumerate(cache.indexes):
        for pages in owned if not cache.sizes[group].is_recurrent else ():
            hashes, start = pages.hashes.hashes, pages.num_freed[group]
            for number in range(start, min(pages.num_registered, len(hashes))):
                page = pages.by_group[group][number]
                if index.find_hash(page) not in (None, hashes[number]):
                    yield "I6", f"page {page} in group {group} is cached for other tokens than those of its sequence"


def _find_wrong_zeros(cache: CacheManager, owned: Sequence[SequencePages]) -> Iterator[Fault]:
    """Yield the sequences that have not freed the pages behind their windows, and no others."""
    for pages in owned:
        for group, (group_pages, num) in enumerate(zip(pages.by_group, pages.num_freed, strict=True)):
            if any(group_pages[:num]) or not all(group_pages[num:]) or num > len(group_pages):
                yield "I5", f"the first {num} pages and no others should be freed: {group_pages}"
            if num < cache.first_visible(group, pages.num_registered * cache.page_size):
                yield "I5", f"a sequence keeps pages in group {group} from {num} on that no query sees"


def _find_misplaced(group: int, owned: Sequence[SequencePages]) -> Iterator[Fault]:
    """Yield the pages that their owners have at different places: they share a prefix, and so a page of it."""
    places: dict[int, int] = {}
    for pages in owned:
        for number, page in enumerate(pages.by_group[group]):
            if page and places.setdefault(page, number) != number:
                yield (
                    "I20",
                    f"page {page} in group {group} is page {places[page]} of one sequence and {number} of another",
                )
