"""The pages of one sequence in all cache groups, and a cached prefix of it."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from jaxserve.cache.prefix import PageHashes


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A copy of the state of a sequence, which owns it.

    position     the number of the tokens whose state it is: a page border
    slots        the (cache group, page) pairs that hold it
    num_tokens   the tokens since the snapshot before it, which must be computed again without it
    """

    position: int
    slots: tuple[tuple[int, int], ...]
    num_tokens: int


@dataclass(slots=True, eq=False)
class SequencePages:
    """The pages of one sequence: of a choice or of a beam. Only the cache manager changes them.

    hashes           the hashes of its full pages
    by_group         for each cache group its pages in order, with zeros in place of freed ones
    num_freed        for each group how many of its first pages are freed
    copy_sources     for each group the page of which its next page will be a copy, or 0
    num_registered   the number of its first pages that no step will write again; the prefix index has seen them
    planned          its snapshots that are not registered yet, by position
    rolling          the snapshot of its newest page border while it generates
    last_snapshot    the position of its last snapshot that is not the rolling one
    """

    hashes: PageHashes
    by_group: tuple[list[int], ...]
    num_freed: list[int]
    copy_sources: list[int]
    num_registered: int = 0
    planned: list[Snapshot] = field(default_factory=list)
    rolling: Snapshot | None = None
    last_snapshot: int = 0

    @property
    def lengths(self) -> tuple[int, ...]:
        """The number of pages by group, freed ones included."""
        return tuple(map(len, self.by_group))

    def clear(self) -> None:
        """Forget all pages, which are free or lost."""
        for group, group_pages in enumerate(self.by_group):
            group_pages.clear()
            self.num_freed[group] = self.copy_sources[group] = 0
        self.num_registered = self.last_snapshot = 0
        self.planned, self.rolling = [], None

    def iter_owned(self) -> Iterable[tuple[int, int]]:
        """Yield (index of the group, page) of every page that is not freed, those of snapshots included."""
        for group, (pages, num_freed) in enumerate(zip(self.by_group, self.num_freed, strict=True)):
            for page in pages[num_freed:]:
                yield group, page
        for snapshot in self.planned if self.rolling is None else (*self.planned, self.rolling):
            yield from snapshot.slots


@dataclass(frozen=True, slots=True)
class PrefixHit:
    """A cached prefix.

    num_pages     the number of its pages
    by_group      for each cache group these pages, with zeros for those that no later query sees; of recurrent groups
                  none
    snapshot      the (cache group, page) pairs of the snapshot at its end, which the new sequence gets copies of
    num_served    for each cache group the number of pages that it can serve of what the groups before it can: those
                  with full attention come first, those with windows next
    """

    num_pages: int
    by_group: tuple[list[int], ...]
    snapshot: tuple[tuple[int, int], ...] = ()
    num_served: tuple[int, ...] = ()

    @property
    def num_matched(self) -> int:
        """The number of pages that other prompts have shared with this one, whether they are of use or not."""
        return max(self.num_served)
