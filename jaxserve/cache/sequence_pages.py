"""The pages of one sequence in all cache groups, and a cached prefix of it."""

from collections.abc import Iterable
from dataclasses import dataclass

from jaxserve.cache.prefix import PageHashes


@dataclass(slots=True, eq=False)
class SequencePages:
    """The pages of one sequence: of a choice or of a beam. Only the cache manager changes them.

    hashes           the hashes of its full pages
    by_group         for each cache group its pages in order, with zeros in place of freed ones
    num_freed        for each group how many of its first pages are freed
    copy_sources     for each group the page of which its next page will be a copy, or 0
    num_registered   the number of its first pages that no step will write again; the prefix index has seen them
    """

    hashes: PageHashes
    by_group: tuple[list[int], ...]
    num_freed: list[int]
    copy_sources: list[int]
    num_registered: int = 0

    @property
    def lengths(self) -> tuple[int, ...]:
        """The number of pages by group, freed ones included."""
        return tuple(map(len, self.by_group))

    def clear(self) -> None:
        """Forget all pages, which are free or lost."""
        for group, group_pages in enumerate(self.by_group):
            group_pages.clear()
            self.num_freed[group] = self.copy_sources[group] = 0
        self.num_registered = 0

    def iter_owned(self) -> Iterable[tuple[int, int]]:
        """Yield (index of the group, page) of every page that is not freed."""
        for group, (pages, num_freed) in enumerate(zip(self.by_group, self.num_freed, strict=True)):
            for page in pages[num_freed:]:
                yield group, page


@dataclass(frozen=True, slots=True)
class PrefixHit:
    """A cached prefix.

    num_pages   the number of its pages
    by_group    for each cache group these pages, with zeros for those that no later query sees
    """

    num_pages: int
    by_group: tuple[list[int], ...]
