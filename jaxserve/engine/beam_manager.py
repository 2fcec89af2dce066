"""Beam searches in the batch: the rows and pages of their beams, and the steps that they plan.

A beam search is one request that takes a row for each beam. Its prompt is computed like any other, in the first of the
rows. Afterwards its next step is planned when the results of the one before are on the host. The first child of a beam
takes its pages, the others are forked from it. A search that is preempted starts again from its prompt: it has had no
output yet, and it finds the same beams.
"""

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field

import numpy as np

from jaxserve.cache.groups import GroupSize, PageCopy, max_window_pages, num_pages_for
from jaxserve.cache.manager import CacheManager
from jaxserve.cache.sequence_pages import SequencePages
from jaxserve.engine.beam_search import BeamSearch
from jaxserve.engine.plan import DecodeBatch, Mask, RowUpdate, SampledTokens
from jaxserve.engine.request import Request, make_mask
from jaxserve.engine.sequence import Sequence, gather_adapter_slots
from jaxserve.errors import InvalidParameter
from jaxserve.outputs import TokenOutput
from jaxserve.sampling.penalties import PenaltyRow, build_row
from jaxserve.sampling.sampler import SampleMode


def max_beam_tokens(
    prompt_tokens: int, width: int, max_tokens: int, sizes: SequenceOf[GroupSize], page_size: int
) -> int:
    """Return how many tokens each beam can have if all of them share nothing but the full pages of the prompt.

    prompt_tokens   The length of the prompt.
    width           The number of beams.
    max_tokens      The result if the cache sets no lower limit.
    sizes           The sizes of the cache groups.
    page_size       The number of tokens of a page.

    The cache always allows 1, because the newest token needs no page.
    """
    for size in sizes:
        num_pages, num_shared = size.num_pages - 1, prompt_tokens // page_size
        if size.is_recurrent:
            continue  # each row has a slot
        if size.window is not None and width * max_window_pages(size.window, page_size) <= num_pages:
            continue
        pages_per_beam = num_shared + (num_pages - num_shared) // width
        max_tokens = min(max_tokens, max(1, pages_per_beam * page_size - prompt_tokens + 1))
    return max_tokens


@dataclass(frozen=True, slots=True)
class BeamStep:
    """The part of a step plan that belongs to one beam search.

    batch          Its live beams.
    page_copies    The pages to copy before anything is computed.
    row_updates    The newest token of each beam, which the host has chosen.
    penalty_rows   Pairs (row, penalty state) of each beam, if the request has penalties or biases.
    """

    batch: DecodeBatch
    page_copies: tuple[PageCopy, ...]
    row_updates: tuple[RowUpdate, ...]
    penalty_rows: tuple[tuple[int, PenaltyRow], ...]


@dataclass(slots=True, eq=False)
class BeamState:
    """The state of one beam search.

    sequence           The sequence of its request. It holds the first row, and the pages until the prompt is computed.
    search             The algorithm, with the live beams.
    rows               Its rows while it runs; the first is the sequence's.
    pages              The pages of each live beam; empty until the prompt is computed.
    page_copies        The pages to copy in the next step.
    has_results        The results of its last step are on the host.
    has_pages          Every live beam has a page for its newest token.
    prompt_penalties   The penalty state of the prompt alone, once it is needed.
    """

    sequence: Sequence
    search: BeamSearch
    rows: list[int] = field(default_factory=list)
    pages: list[SequencePages] = field(default_factory=list)
    page_copies: list[PageCopy] = field(default_factory=list)
    has_results: bool = False
    has_pages: bool = False
    prompt_penalties: PenaltyRow | None = None

    @property
    def position(self) -> int:
        """The position of the live beams' newest tokens, which are not computed yet."""
        return len(self.sequence.request.prompt_ids) + len(self.search.beams[0].token_ids) - 1


class BeamManager:
    """The rows, pages and steps of all beam searches. The request table gives the rows and pages.

    cache               The pages of all sequences.
    max_pages_per_row   The most pages of a row.
    vocab_size          The number of token ids.
    """

    def __init__(self, cache: CacheManager, *, max_pages_per_row: int, vocab_size: int) -> None:
        self._cache, self._vocab_size = cache, vocab_size
        self._widths = tuple(size.page_table_width(max_pages_per_row) for size in cache.sizes)
        self._states: dict[int, BeamState] = {}
        self._owners: dict[int, int] = {}  # id of an output → id of its request

    def add(self, sequence: Sequence) -> None:
        """Add a new sequence if its request is a beam search."""
        request = sequence.request
        if request.is_beam_search:
            self._states[request.request_id] = _begin(sequence)
            self._owners.update(dict.fromkeys(request.choice_ids, request.request_id))

    def remove(self, request: Request) -> None:
        """Remove a beam search whose rows and pages are free."""
        if self._states.pop(request.request_id, None) is not None:
            for choice_id in request.choice_ids:
                del self._owners[choice_id]

    def find_owner(self, request_id: int) -> int:
        """Return the id of the request to which an output id belongs: the same, except in a beam search."""
        return self._owners.get(request_id, request_id)

    # Rows and pages

    def watermarks(self, request: Request, *, is_resumed: bool) -> tuple[int, ...]:
        """Return by group how many pages besides the prompt's must be free when a beam search starts beside others.

        It is one for each beam; of one that was preempted all that it can ever need, because it would start again.
        Other requests need none.
        """
        sizes, page_size = self._cache.sizes, self._cache.page_size
        if not request.is_beam_search or not is_resumed:
            return (request.num_rows if request.is_beam_search else 0,) * len(sizes)
        max_pages = num_pages_for(request.max_total_tokens - 1, page_size) - len(request.prompt_ids) // page_size
        return tuple(
            max(
                1,
                request.num_rows * min(max_pages, max_pages if window is None else max_window_pages(window, page_size)),
            )
            for window in (size.window for size in sizes)
        )

    def start(self, sequence: Sequence, rows: list[int]) -> None:
        """Give a beam search its rows."""
        self._states[sequence.request.request_id].rows = rows

    def free(self, sequence: Sequence) -> list[int]:
        """Free the pages of a sequence's beams and return their rows without the first; the search starts again."""
        state = self._states.get(sequence.request.request_id)
        if state is None:
            return []
        for pages in state.pages:
            self._cache.free(pages)
        self.restart(sequence)
        sequence.drop_pending()  # the results of steps in flight are ignored
        return state.rows[1:]

    def restart(self, sequence: Sequence) -> None:
        """Let the search of a sequence, if it is one, start again; its rows and pages are free or lost."""
        if sequence.request.request_id in self._states:
            self._states[sequence.request.request_id] = _begin(sequence)

    def count_tokens(self, sequence: Sequence) -> int:
        """Return the number of tokens of each of a sequence's live beams."""
        state = self._states.get(sequence.request.request_id)
        return len(state.search.beams[0].token_ids) if state is not None and state.search.beams else 0

    def list_pages(self, sequence: Sequence) -> list[SequencePages]:
        """Return the pages of each of a sequence's beams."""
        state = self._states.get(sequence.request.request_id)
        return [] if state is None else state.pages

    def list_states(self) -> list[BeamState]:
        """Return the states of all searches."""
        return list(self._states.values())

    def list_output_owners(self) -> dict[int, int]:
        """Return by output id the id of its request."""
        return dict(self._owners)

    # Steps

    def list_ready(self) -> list[Sequence]:
        """Return the sequences whose next step lacks nothing but pages, in the order of the queue."""
        if not self._states:
            return []
        ready = [state.sequence for state in self._states.values() if state.has_results and not state.has_pages]
        return sorted(ready, key=lambda sequence: sequence.queue_key)

    def append_pages(self, sequence: Sequence) -> bool:
        """Give each beam the page that its newest token needs; return False if there are too few, to go on later."""
        state = self._states[sequence.request.request_id]
        for pages in state.pages:
            copies = self._cache.append(pages, state.position + 1)
            if copies is None:
                return False
            state.page_copies += copies
        state.has_pages = True
        return True

    def plan_steps(self) -> list[BeamStep]:
        """Plan the next step of every beam search that has its pages."""
        return [self._plan_step(state) for state in self._states.values() if state.has_results and state.has_pages]

    def _plan_step(self, state: BeamState) -> BeamStep:
        sequence, beams = state.sequence, state.search.beams
        request, num_beams = sequence.request, len(beams)
        page_tables_BW = tuple(np.zeros((num_beams, width), np.int32) for width in self._widths)
        for group, page_table_BW in enumerate(page_tables_BW):
            for page_table_W, pages in zip(page_table_BW, state.pages, strict=True):
                page_table_W[: len(pages.by_group[group])] = pages.by_group[group]
        batch = DecodeBatch(
            request_ids=(request.request_id,) * num_beams,
            epochs=(sequence.epoch,) * num_beams,
            row_B=np.array(state.rows[:num_beams], np.int32),
            positions=(state.position,) * num_beams,
            page_tables_BW=page_tables_BW,
            sampling_BS=np.tile(sequence.sampling_S, (num_beams, 1)),
            mode=SampleMode.BEAM,
            adapter_slot_B=gather_adapter_slots([sequence] * num_beams),
        )
        row_updates = tuple(
            (row, beam.token_ids[-1], state.position) for row, beam in zip(state.rows, beams, strict=False)
        )
        page_copies, state.page_copies = tuple(state.page_copies), []
        state.has_results = state.has_pages = False
        penalty_rows = self._make_penalty_rows(state) if request.needs_penalty_state else ()
        return BeamStep(batch, page_copies, row_updates, penalty_rows)

    def _make_penalty_rows(self, state: BeamState) -> tuple[tuple[int, PenaltyRow], ...]:
        """Return the penalty state of each beam: its row held that of another beam until now."""
        request = state.sequence.request
        if state.prompt_penalties is None:
            state.prompt_penalties = build_row(request.prompt_ids, (), request.params.logit_bias, self._vocab_size)
        penalty_rows = []
        for row, beam in zip(state.rows, state.search.beams, strict=False):
            count_V = np.bincount(beam.token_ids, minlength=self._vocab_size).astype(np.int32)
            penalty_rows.append((row, state.prompt_penalties._replace(count_V=count_V)))
        return tuple(penalty_rows)

    def make_masks(self, batch: DecodeBatch) -> tuple[tuple[int, Mask], ...]:
        """Return (index, mask) of each beam that needs one, in the newest batch of its search."""
        state = self._states[batch.request_ids[0]]
        sequence, request = state.sequence, state.sequence.request
        masks = []
        for index, beam in enumerate(state.search.beams):
            is_below_min_tokens = len(beam.token_ids) < request.params.min_tokens
            suppressed = request.stop_ids_until_min_tokens if is_below_min_tokens else ()
            mask = make_mask(sequence.restrictions, beam.guide, beam.token_ids, 0, suppressed)
            if mask is not None:
                masks.append((index, mask))
        return tuple(masks)

    # Results

    def find_error(self, sequence: Sequence) -> str | None:
        """Return why the grammar of a live beam cannot be followed any further, or None."""
        return self._states[sequence.request.request_id].search.error

    def advance(self, sequence: Sequence, sampled: SampledTokens) -> bool:
        """Advance a search by the candidates of its beams, or of its prompt; return whether it is over."""
        state = self._states[sequence.request.request_id]
        if not state.pages:
            state.pages = [self._cache.move(sequence.pages)]
        sequence.drop_pending()
        self._share_pages(state, state.search.advance(sampled))
        state.has_results = True
        return not state.search.beams

    def _share_pages(self, state: BeamState, parents: tuple[int, ...]) -> None:
        """Give each new beam the pages of its parent: the first child the pages themselves, the others a fork."""
        old_pages, state.pages = state.pages, []
        for parent in parents:
            pages = old_pages[parent]
            if any(pages is taken for taken in state.pages):
                pages = self._cache.fork(pages, self._cache.new_pages(), state.position)
            state.pages.append(pages)
        for parent, pages in enumerate(old_pages):
            if parent not in parents:
                self._cache.free(pages)
        for pages in state.pages:
            self._cache.free_behind(pages, state.position)

    def make_outputs(self, sequence: Sequence) -> list[TokenOutput]:
        """Return all hypotheses of a finished search, each as one output with its own id.

        Raises InvalidParameter if there are fewer than the request asked for: its constraints allow no more.
        """
        request, finished = sequence.request, self._states[sequence.request.request_id].search.finished
        if len(finished) < len(request.choice_ids):
            raise InvalidParameter(
                f"n={len(request.choice_ids)} answers cannot be found: the request's constraints (grammar,"
                f" allowed_token_ids, bad_words, min_tokens) leave {len(finished)}.",
                "n",
            )
        return [
            TokenOutput(
                request_id=choice_id,
                token_ids=hypothesis.beam.token_ids,
                logprobs=None if request.params.logprobs is None else hypothesis.beam.logprobs,
                num_cached_tokens=sequence.num_cached_tokens or 0,
                finish_reason=hypothesis.finish_reason,
                stop_reason=hypothesis.stop_reason,
            )
            for choice_id, hypothesis in zip(request.choice_ids, finished, strict=True)
        ]


def _begin(sequence: Sequence) -> BeamState:
    """Return the state of a beam search before its first token."""
    return BeamState(sequence, BeamSearch(sequence.request, sequence.guide, sequence.stop_cursor))
