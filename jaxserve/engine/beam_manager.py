"""What ties beam searches to the batch: their rows, the pages that their beams share, and the steps they take.

A search is one request that takes a row for each beam. Its prompt is computed like any other, in the first of them.
From then on its next step is planned when the results of the last one are home. Beams share full pages, each as one
more holder; of a parent's last page, when it is not full, the first child takes over the page and the others a copy.
A search that loses its pages begins again: nothing has been said of it yet, and it finds the same.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from jaxserve.cache.pool import PagePool
from jaxserve.engine.beam_search import BeamSearch
from jaxserve.engine.plan import DecodeBatch, Mask, SampledTokens
from jaxserve.engine.request import Request, make_mask
from jaxserve.engine.sequence import Sequence
from jaxserve.errors import InvalidParameter
from jaxserve.outputs import TokenOutput
from jaxserve.sampling.penalties import PenaltyRow, build_row
from jaxserve.sampling.sampler import SampleMode


def max_beam_tokens(prompt_tokens: int, width: int, num_pages: int, page_size: int) -> int:
    """Tokens that `width` beams of one prompt can have if each writes in pages of its own; num_pages are usable.

    The newest token needs no place, so one is always possible where the prompt fits.
    """
    shared = prompt_tokens // page_size
    pages_a_beam = shared + (num_pages - shared) // width
    return max(1, pages_a_beam * page_size - prompt_tokens + 1)


@dataclass(frozen=True, slots=True)
class BeamStep:
    """A search's part of a step plan."""

    batch: DecodeBatch
    page_copies: tuple[tuple[int, int], ...]
    last_tokens: tuple[tuple[int, int], ...]
    penalty_rows: tuple[tuple[int, PenaltyRow], ...]


@dataclass(slots=True, eq=False)
class BeamState:
    """One search while it lives.

    rows      while it runs; the first is its sequence's own
    pages     of each live beam, in order; empty until the prompt is computed
    copy_sources   for each live beam the page that its next one is a copy of
    has_results   the results of its last step are
    has_pages  every live beam has a page for its newest token
    """

    sequence: Sequence
    search: BeamSearch
    rows: list[int] = field(default_factory=list)
    pages: list[list[int]] = field(default_factory=list)
    copy_sources: list[int | None] = field(default_factory=list)
    page_copies: list[tuple[int, int]] = field(default_factory=list)
    has_results: bool = False
    has_pages: bool = False
    prompt_penalties: PenaltyRow | None = None

    @property
    def position(self) -> int:
        """Of the live beams' newest tokens, which are not computed yet."""
        return len(self.sequence.request.prompt_ids) + len(self.search.live[0].token_ids) - 1


class BeamManager:
    """Owns every live search. The scheduler gives rows and pages, and asks for steps.

    max_pages_per_row   the width of page tables
    """

    def __init__(self, pool: PagePool, *, page_size: int, max_pages_per_row: int, vocab_size: int) -> None:
        self._pool = pool
        self._page_size, self._table_width, self._vocab_size = page_size, max_pages_per_row, vocab_size
        self._states: dict[int, BeamState] = {}
        self._owners: dict[int, int] = {}  # id of a hypothesis → id of its search

    def add(self, sequence: Sequence) -> None:
        request = sequence.request
        if request.is_beam_search:
            self._states[request.request_id] = BeamState(sequence, BeamSearch(request, sequence.guide))
            self._owners.update(dict.fromkeys(request.choice_ids, request.request_id))

    def remove(self, request: Request) -> None:
        """Forgets a search that holds nothing any more."""
        if self._states.pop(request.request_id, None) is not None:
            for choice_id in request.choice_ids:
                del self._owners[choice_id]

    def find_owner(self, request_id: int) -> int:
        """The request that answers under this id: for all but a search's further hypotheses it is the same."""
        return self._owners.get(request_id, request_id)

    # Rows and pages

    def watermark(self, request: Request, *, is_resumed: bool) -> int:
        """Pages beyond its prompt's that must be free before a search begins beside others: one for each beam.

        When it begins again, all that it can ever need: it would lose everything once more.
        """
        if not request.is_beam_search:
            return 0
        prompt, width = len(request.prompt_ids), request.num_rows
        if not is_resumed:
            return width
        most = -(-(request.max_total_tokens - 1) // self._page_size)
        return max(1, width * (most - prompt // self._page_size))

    def start(self, sequence: Sequence, rows: list[int]) -> None:
        """It begins to run, in these rows."""
        self._states[sequence.request.request_id].rows = rows

    def free(self, sequence: Sequence) -> list[int]:
        """Gives back what it holds beside its sequence's own row and pages: returns the rows. It would begin again."""
        search = self._states.get(sequence.request.request_id)
        if search is None:
            return []
        for pages in search.pages:
            self._pool.decref(pages)
        self._states[sequence.request.request_id] = BeamState(sequence, BeamSearch(sequence.request, sequence.guide))
        sequence.num_pending = 0  # what is under way will not be looked at
        return search.rows[1:]

    def list_pages(self, sequence: Sequence) -> list[int]:
        """Pages of its beams, one for each holder."""
        search = self._states.get(sequence.request.request_id)
        return [] if search is None else [page for pages in search.pages for page in pages]

    def list_extra_rows(self) -> list[int]:
        """Rows in use beside those of their sequence."""
        return [row for search in self._states.values() for row in search.rows[1:]]

    def iter_writable_pages(self) -> Iterator[int]:
        """Pages that a step to come may write into."""
        for search in self._states.values():
            for pages in search.pages:
                yield from pages[search.position // self._page_size :]

    # Steps

    def list_ready(self) -> list[Sequence]:
        """Searches whose next step may be planned once they have the pages for it, in the order of the queue."""
        if not self._states:
            return []
        due = [search.sequence for search in self._states.values() if search.has_results and not search.has_pages]
        return sorted(due, key=lambda sequence: sequence.queue_key)

    def count_missing_pages(self, sequence: Sequence) -> int | None:
        """Pages that the next step of a search needs; None if it has been preempted since it was due."""
        search = self._states[sequence.request.request_id]
        if not search.has_results:
            return None
        return sum(1 for pages in search.pages if len(pages) * self._page_size <= search.position)

    def append_pages(self, sequence: Sequence, new: Iterable[int]) -> None:
        """Brings as many pages as were missing."""
        search, new = self._states[sequence.request.request_id], iter(new)
        for pages, source in zip(search.pages, search.copy_sources, strict=True):
            if len(pages) * self._page_size <= search.position:
                pages.append(next(new))
                if source is not None:
                    search.page_copies.append((source, pages[-1]))
        search.has_pages = True

    def plan_steps(self) -> list[BeamStep]:
        """The next step of every search that has room for it."""
        return [self._plan_step(search) for search in self._states.values() if search.has_results and search.has_pages]

    def _plan_step(self, search: BeamState) -> BeamStep:
        sequence, live = search.sequence, search.search.live
        request, num = sequence.request, len(live)
        table_BW = np.zeros((num, self._table_width), np.int32)
        for line_W, pages in zip(table_BW, search.pages, strict=True):
            line_W[: len(pages)] = pages
        batch = DecodeBatch(
            request_ids=(request.request_id,) * num,
            epochs=(sequence.epoch,) * num,
            row_B=np.array(search.rows[:num], np.int32),
            position_B=np.full(num, search.position, np.int32),
            page_table_BW=table_BW,
            sampling_BS=np.tile(sequence.sampling_S, (num, 1)),
            mode=SampleMode.BEAM,
        )
        told = tuple((row, beam.token_ids[-1]) for row, beam in zip(search.rows, live, strict=False))
        copies, search.page_copies = tuple(search.page_copies), []
        search.has_results = search.has_pages = False
        return BeamStep(batch, copies, told, self._make_penalty_rows(search) if request.needs_penalty_state else ())

    def _make_penalty_rows(self, search: BeamState) -> tuple[tuple[int, PenaltyRow], ...]:
        """What the sampler must know of each beam, whose row had another's history until now."""
        request = search.sequence.request
        if search.prompt_penalties is None:
            search.prompt_penalties = build_row(request.prompt_ids, (), request.params.logit_bias, self._vocab_size)
        blank, found = search.prompt_penalties, []
        for row, beam in zip(search.rows, search.search.live, strict=False):
            count_V = np.bincount(beam.token_ids, minlength=self._vocab_size).astype(np.int32)
            found.append((row, blank._replace(count_V=count_V)))
        return tuple(found)

    def make_masks(self, batch: DecodeBatch) -> tuple[tuple[int, Mask], ...]:
        """What the beams of a batch, the newest of its search, may draw."""
        search = self._states[batch.request_ids[0]]
        sequence, min_tokens = search.sequence, search.sequence.request.params.min_tokens
        found = []
        for at, beam in enumerate(search.search.live):
            held_back = sequence.request.stop_ids_until_min_tokens if len(beam.token_ids) < min_tokens else ()
            mask = make_mask(sequence.restrictions, beam.guide, beam.token_ids, 0, held_back)
            if mask is not None:
                found.append((at, mask))
        return tuple(found)

    # Results

    def find_error(self, sequence: Sequence) -> str | None:
        """Why the grammar of one of its live beams cannot be followed any further."""
        return self._states[sequence.request.request_id].search.error

    def advance(self, sequence: Sequence, drawn: SampledTokens) -> bool:
        """Takes what may follow the live beams, or the prompt; True: the search is over."""
        search = self._states[sequence.request.request_id]
        if not search.pages:
            search.pages, sequence.pages = [sequence.pages], []
        sequence.num_pending = 0
        self._share_pages(search, search.search.advance(drawn))
        search.has_results = True
        return not search.search.live

    def _share_pages(self, search: BeamState, parents: tuple[int, ...]) -> None:
        """Gives each new beam what its parent has computed."""
        old, search.pages, search.copy_sources = search.pages, [], []
        heirs: set[int] = set()
        for parent in parents:
            pages, source = old[parent], None
            if parent in heirs:
                full, partial = divmod(search.position, self._page_size)
                source = pages[full] if partial else None
                pages = pages[:full]
                self._pool.incref(pages)
            heirs.add(parent)
            search.pages.append(pages)
            search.copy_sources.append(source)
        for at, pages in enumerate(old):
            if at not in heirs:
                self._pool.decref(pages)

    def make_outputs(self, sequence: Sequence) -> list[TokenOutput]:
        """All that a search has found, each hypothesis whole and under its own id.

        Raises InvalidParameter when there are fewer than were asked for: the request's constraints allow no more.
        """
        request, found = sequence.request, self._states[sequence.request.request_id].search.finished
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
                num_cached_tokens=sequence.num_cached_tokens or 0,
                finish_reason=one.finish_reason,
                stop_reason=one.stop_reason,
            )
            for choice_id, one in zip(request.choice_ids, found, strict=True)
        ]
