"""What ties beam searches to the batch: their rows, the pages that their beams share, and the steps they take.

A search is one request that takes a row for each beam. Its prompt is computed like any other, in the first of them.
From then on its next step is planned when the results of the last one are home. Beams share full pages, each as one
more holder; of a parent's last page, when it is not full, the first child takes over the page and the others a copy.
A search that loses its pages begins again: nothing has been said of it yet, and it finds the same.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from jaxserve.engine.beams import BeamSearch
from jaxserve.engine.plan import DecodeBatch, DrawnRows, Mask
from jaxserve.engine.progress import Progress
from jaxserve.engine.request import Request, mask_of
from jaxserve.errors import InvalidParameter
from jaxserve.kvcache.pool import PagePool
from jaxserve.outputs import TokenOutput
from jaxserve.sampling.lines import Line, line
from jaxserve.sampling.sampler import SampleMode


def most_steps(prompt_tokens: int, width: int, num_pages: int, page_size: int) -> int:
    """Tokens that `width` beams of one prompt can have if each writes in pages of its own; num_pages are usable.

    The newest token needs no place, so one is always possible where the prompt fits.
    """
    shared = prompt_tokens // page_size
    pages_a_beam = shared + (num_pages - shared) // width
    return max(1, pages_a_beam * page_size - prompt_tokens + 1)


@dataclass(frozen=True, slots=True)
class Step:
    """A search's part of a step plan."""

    batch: DecodeBatch
    copies: tuple[tuple[int, int], ...]
    told: tuple[tuple[int, int], ...]
    lines: tuple[tuple[int, Line], ...]


@dataclass(slots=True, eq=False)
class Search:
    """One search while it lives.

    rows      while it runs; the first is its progress's own
    pages     of each live beam, in order; empty until the prompt is computed
    sources   for each live beam the page that its next one is a copy of
    is_home   the results of its last step are
    has_room  every live beam has a page for its newest token
    """

    progress: Progress
    tree: BeamSearch
    rows: list[int] = field(default_factory=list)
    pages: list[list[int]] = field(default_factory=list)
    sources: list[int | None] = field(default_factory=list)
    copies: list[tuple[int, int]] = field(default_factory=list)
    is_home: bool = False
    has_room: bool = False
    blank_line: Line | None = None

    @property
    def position(self) -> int:
        """Of the live beams' newest tokens, which are not computed yet."""
        return len(self.progress.request.prompt_ids) + len(self.tree.live[0].token_ids) - 1


class Searches:
    """Owns every live search. The scheduler gives rows and pages, and asks for steps.

    max_pages_per_row   the width of page tables
    """

    def __init__(self, pool: PagePool, *, page_size: int, max_pages_per_row: int, vocab_size: int) -> None:
        self._pool = pool
        self._page_size, self._table_width, self._vocab_size = page_size, max_pages_per_row, vocab_size
        self._searches: dict[int, Search] = {}
        self._owners: dict[int, int] = {}  # id of a hypothesis → id of its search

    def add(self, progress: Progress) -> None:
        request = progress.request
        if request.is_search:
            self._searches[request.request_id] = Search(progress, BeamSearch(request, progress.guide))
            self._owners.update(dict.fromkeys(request.choice_ids, request.request_id))

    def remove(self, request: Request) -> None:
        """Forgets a search that holds nothing any more."""
        if self._searches.pop(request.request_id, None) is not None:
            for choice_id in request.choice_ids:
                del self._owners[choice_id]

    def owner(self, request_id: int) -> int:
        """The request that answers under this id: for all but a search's further hypotheses it is the same."""
        return self._owners.get(request_id, request_id)

    # Rows and pages

    def room(self, request: Request, *, again: bool) -> int:
        """Pages beyond its prompt's that must be free before a search begins beside others: one for each beam.

        When it begins again, all that it can ever need: it would lose everything once more.
        """
        if not request.is_search:
            return 0
        prompt, width = len(request.prompt_ids), request.num_rows
        if not again:
            return width
        most = -(-(request.max_total_tokens - 1) // self._page_size)
        return max(1, width * (most - prompt // self._page_size))

    def enter(self, progress: Progress, rows: list[int]) -> None:
        """It begins to run, in these rows."""
        self._searches[progress.request.request_id].rows = rows

    def leave(self, progress: Progress) -> list[int]:
        """Gives back what it holds beside its progress's own row and pages: returns the rows. It would begin again."""
        search = self._searches.get(progress.request.request_id)
        if search is None:
            return []
        for pages in search.pages:
            self._pool.release(pages)
        self._searches[progress.request.request_id] = Search(progress, BeamSearch(progress.request, progress.guide))
        progress.num_promised = 0  # what is under way will not be looked at
        return search.rows[1:]

    def held(self, progress: Progress) -> list[int]:
        """Pages of its beams, one for each holder."""
        search = self._searches.get(progress.request.request_id)
        return [] if search is None else [page for pages in search.pages for page in pages]

    def further_rows(self) -> list[int]:
        """Rows in use beside those of their progress."""
        return [row for search in self._searches.values() for row in search.rows[1:]]

    def writable(self) -> Iterator[int]:
        """Pages that a step to come may write into."""
        for search in self._searches.values():
            for pages in search.pages:
                yield from pages[search.position // self._page_size :]

    # Steps

    def due(self) -> list[Progress]:
        """Searches whose next step may be planned once they have the pages for it, in the order of the queue."""
        if not self._searches:
            return []
        due = [search.progress for search in self._searches.values() if search.is_home and not search.has_room]
        return sorted(due, key=lambda progress: progress.place)

    def num_missing(self, progress: Progress) -> int | None:
        """Pages that the next step of a search needs; None if it has been preempted since it was due."""
        search = self._searches[progress.request.request_id]
        if not search.is_home:
            return None
        return sum(1 for pages in search.pages if len(pages) * self._page_size <= search.position)

    def give(self, progress: Progress, new: Iterable[int]) -> None:
        """Brings as many pages as were missing."""
        search, new = self._searches[progress.request.request_id], iter(new)
        for pages, source in zip(search.pages, search.sources, strict=True):
            if len(pages) * self._page_size <= search.position:
                pages.append(next(new))
                if source is not None:
                    search.copies.append((source, pages[-1]))
        search.has_room = True

    def steps(self) -> list[Step]:
        """The next step of every search that has room for it."""
        return [self._step(search) for search in self._searches.values() if search.is_home and search.has_room]

    def _step(self, search: Search) -> Step:
        progress, live = search.progress, search.tree.live
        request, num = progress.request, len(live)
        table_BW = np.zeros((num, self._table_width), np.int32)
        for line_W, pages in zip(table_BW, search.pages, strict=True):
            line_W[: len(pages)] = pages
        batch = DecodeBatch(
            request_ids=(request.request_id,) * num,
            epochs=(progress.epoch,) * num,
            row_B=np.array(search.rows[:num], np.int32),
            position_B=np.full(num, search.position, np.int32),
            page_table_BW=table_BW,
            sampling_BS=np.tile(progress.sampling_S, (num, 1)),
            mode=SampleMode.BEAM,
        )
        told = tuple((row, beam.token_ids[-1]) for row, beam in zip(search.rows, live, strict=False))
        copies, search.copies = tuple(search.copies), []
        search.is_home = search.has_room = False
        return Step(batch, copies, told, self._lines(search) if request.needs_line else ())

    def _lines(self, search: Search) -> tuple[tuple[int, Line], ...]:
        """What the sampler must know of each beam, whose row had another's history until now."""
        request = search.progress.request
        if search.blank_line is None:
            search.blank_line = line(request.prompt_ids, (), request.params.logit_bias, self._vocab_size)
        blank, found = search.blank_line, []
        for row, beam in zip(search.rows, search.tree.live, strict=False):
            count_V = np.bincount(beam.token_ids, minlength=self._vocab_size).astype(np.int32)
            found.append((row, blank._replace(count_V=count_V)))
        return tuple(found)

    def masks(self, batch: DecodeBatch) -> tuple[tuple[int, Mask], ...]:
        """What the beams of a batch, the newest of its search, may draw."""
        search = self._searches[batch.request_ids[0]]
        progress, min_tokens = search.progress, search.progress.request.params.min_tokens
        found = []
        for at, beam in enumerate(search.tree.live):
            held_back = progress.request.held_back_ids if len(beam.token_ids) < min_tokens else ()
            mask = mask_of(progress.bans, beam.guide, beam.token_ids, 0, held_back)
            if mask is not None:
                found.append((at, mask))
        return tuple(found)

    # Results

    def error(self, progress: Progress) -> str | None:
        """Why the grammar of one of its live beams cannot be followed any further."""
        return self._searches[progress.request.request_id].tree.error

    def advance(self, progress: Progress, drawn: DrawnRows) -> bool:
        """Takes what may follow the live beams, or the prompt; True: the search is over."""
        search = self._searches[progress.request.request_id]
        if not search.pages:
            search.pages, progress.pages = [progress.pages], []
        progress.num_promised = 0
        self._share(search, search.tree.advance(drawn))
        search.is_home = True
        return not search.tree.live

    def _share(self, search: Search, parents: tuple[int, ...]) -> None:
        """Gives each new beam what its parent has computed."""
        old, search.pages, search.sources = search.pages, [], []
        heirs: set[int] = set()
        for parent in parents:
            pages, source = old[parent], None
            if parent in heirs:
                full, partial = divmod(search.position, self._page_size)
                source = pages[full] if partial else None
                pages = pages[:full]
                self._pool.hold(pages)
            heirs.add(parent)
            search.pages.append(pages)
            search.sources.append(source)
        for at, pages in enumerate(old):
            if at not in heirs:
                self._pool.release(pages)

    def outputs(self, progress: Progress) -> list[TokenOutput]:
        """All that a search has found, each hypothesis whole and under its own id.

        Raises InvalidParameter when there are fewer than were asked for: the request's constraints allow no more.
        """
        request, found = progress.request, self._searches[progress.request.request_id].tree.found
        if len(found) < len(request.choice_ids):
            raise InvalidParameter(
                f"n={len(request.choice_ids)} answers cannot be found: the request's constraints (grammar,"
                f" allowed_token_ids, bad_words, min_tokens) leave {len(found)}.",
                "n",
            )
        return [
            TokenOutput(
                request_id=choice_id,
                token_ids=one.beam.token_ids,
                logprobs=None if request.params.logprobs is None else one.beam.logprobs,
                num_cached_tokens=progress.num_cached or 0,
                finish_reason=one.reason,
                stop_reason=one.stop_reason,
            )
            for choice_id, one in zip(request.choice_ids, found, strict=True)
        ]
