"""The invariants of the engine's state between two steps: each of them holds, or a sentence says what is wrong.

Read only; for the engine's thread. The cost is linear in pages and live requests, except that of `find_leftovers`,
which the engine calls whenever it becomes idle. What is checked of each invariant:

I1 to I4   Pages are free, active or cached; reference counts are those of the owners; pages that will be written have
           one owner and are not cached; page tables are those of the sequences.
I5         A running sequence has a page for each computed token, and none beyond the tokens with which it began and
           its declared lookahead: what decode steps of several tokens allow for, and the newest token of a beam.
           Windows keep no page that no query sees.
I6         A cached page of a sequence is found under its hash; a hit leaves a token to compute.
I7         No page of which a step in flight, or a later one, writes a part is cached.
I9         Each request is waiting or running, once, with rows and pages or without; maps by request have no other ids.
I10        Rows are unique, also within a step; each step keeps the token budget and computes a token for each request.
I11        Computed tokens are known or pending ones, and begin with the prompt.
I13        Each request fits the pool alone.
I14        What a request waits for will come: tokens of a step in flight, or pages of a request that runs.
I16        The queues are in order of priority, turn and arrival. How far one is overtaken: caller_turns.py.
I18        Sampling parameters and adapters in rows, slots and batches are those of the sequences.
I19        Without requests nothing is active, taken, queued or kept.
I20        Owners of one page have it at the same place.

The others are no properties of one state, so nothing is said of them. I8: a page is freed at once, because the device
runs steps in order (cache/manager.py). I12, I15, I17 and I22 compare states before and after; I21 is about clocks.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Literal

from jaxserve.cache.groups import num_pages_for
from jaxserve.cache.invariants import find_page_faults
from jaxserve.cache.pool import Fault
from jaxserve.engine.beam_manager import BeamState
from jaxserve.engine.decode_scheduler import DecodeScheduler
from jaxserve.engine.fault_search import FaultSearch
from jaxserve.engine.plan import StepPlan
from jaxserve.engine.request_table import RequestTable
from jaxserve.engine.sequence import Sequence as TokenSequence

INVARIANTS = ("I1", "I2", "I3", "I4", "I5", "I6", "I7", "I9", "I10", "I11", "I13", "I14", "I16", "I18", "I19", "I20")
"""The invariants that can be evaluated on one state."""


@dataclass(frozen=True, slots=True)
class SchedulerState:
    """The state that the invariants are evaluated on.

    requests       The live requests, with their pages and rows.
    decode         The planner of decode batches.
    search         The search for a request that makes steps fail.
    num_copies     The number of page copies to make before the next step.
    token_budget   The most tokens of a step.
    in_flight      The plans whose results have not been applied, oldest first.
    """

    requests: RequestTable
    decode: DecodeScheduler
    search: FaultSearch
    num_copies: int
    token_budget: int
    in_flight: Sequence[StepPlan]

    @property
    def beams(self) -> dict[int, BeamState]:
        """The states of beam searches by the ids of their requests."""
        return {state.sequence.request.request_id: state for state in self.requests.beams.list_states()}


def check_invariants(state: SchedulerState) -> dict[str, Literal[True] | str]:
    """Evaluate all INVARIANTS; of several faults the first is told."""
    answer: dict[str, Literal[True] | str] = dict.fromkeys(INVARIANTS, True)
    for invariant, sentence in find_faults(state):
        if answer[invariant] is True:
            answer[invariant] = sentence
    return answer


def find_faults(state: SchedulerState) -> Iterator[Fault]:
    """Yield everything that is wrong with a state."""
    requests = state.requests
    beams = state.beams.values()
    owned = [*(sequence.pages for sequence in requests.by_id.values()), *chain(*(beam.pages for beam in beams))]
    writable = [(sequence.pages, sequence.num_computed) for sequence in requests.running]
    writable += [(pages, beam.position) for beam in beams for pages in beam.pages]
    yield from find_page_faults(requests.cache, owned, writable)
    yield from requests.rows.find_faults(requests.running)
    yield from requests.adapters.find_faults(requests.running)
    yield from state.decode.find_faults()
    yield from _find_membership_faults(state)
    yield from _find_row_faults(state)
    yield from _find_plan_faults(state)
    pending, starts = _count_pending(state.in_flight), _find_first_writes(state)
    for sequence in requests.by_id.values():
        yield from _find_sequence_faults(requests, sequence)
        if sequence.row is not None:
            yield from _find_page_count_faults(state, sequence)
            yield from _find_cached_too_early(requests, sequence, starts)
        yield from _find_starvation(state, sequence, pending)
    running_ids = set(map(_id, requests.running))
    for request_id in requests.prefix_reuse.computing_ids() - running_ids:
        yield "I14", f"others wait for pages that request {request_id} has announced, and it does not run"
    for queue in (requests.waiting, requests.running):
        for before, after in pairwise(queue):
            if before.queue_key > after.queue_key:
                yield "I16", f"request {_id(before)} is before request {_id(after)} and should be behind it"
    yield from find_leftovers(state)


def _id(sequence: TokenSequence) -> int:
    return sequence.request.request_id


def _find_membership_faults(state: SchedulerState) -> Iterator[Fault]:
    """Yield requests that are nowhere, at two places, or still in a map after their end."""
    requests = state.requests
    queued = Counter(map(_id, chain(requests.waiting, requests.running)))
    if queued != Counter(requests.by_id.keys()):
        yield "I9", f"requests {list(requests.by_id)} are live, and {sorted(queued.elements())} waiting or running"
    if any(sequence.row is None for sequence in requests.running):
        yield "I9", "a running request has no row"
    for sequence in requests.waiting:
        if sequence.row is not None or any(sequence.pages.lengths) or sequence.num_computed:
            yield "I9", f"request {_id(sequence)} waits and has a row, pages or computed tokens"
    live = [sequence.request for sequence in requests.by_id.values()]
    outputs = {output_id for request in live for output_id in request.output_ids}
    owners = {choice: request.request_id for request in live if request.is_beam_search for choice in request.choice_ids}
    maps = {
        "outputs": requests.request_outputs.output_ids() ^ outputs,
        "beam searches": state.beams.keys() ^ set(owners.values()),
        "outputs of beam searches": requests.beams.list_output_owners().items() ^ owners.items(),
    }
    for name, difference in maps.items():
        if difference:
            yield "I9", f"the {name} are not those of the live requests: {sorted(difference)}"


def _find_row_faults(state: SchedulerState) -> Iterator[Fault]:
    rows = state.requests.rows
    taken = [sequence.row for sequence in state.requests.running if sequence.row is not None]
    taken += [row for beam in state.beams.values() for row in beam.rows[1:]]
    if sorted(taken + rows.free_rows) != list(range(rows.num_rows)):
        yield "I10", f"rows {taken} running and {rows.free_rows} free are not every row once"
    for beam in state.beams.values():
        if (beam.rows[:1] or [None]) != [beam.sequence.row]:
            yield "I10", f"the first row of beam search {_id(beam.sequence)} is not its sequence's"


def _find_plan_faults(state: SchedulerState) -> Iterator[Fault]:
    """Yield steps in flight that compute too much, nothing for a request, or two things in one row."""
    page_size = state.requests.page_size
    for plan in state.in_flight:
        if plan.num_tokens > max(state.token_budget, plan.num_rows + page_size):
            yield "I10", f"a step has {plan.num_tokens} tokens, more than its budget of {state.token_budget}"
        batches = [batch for batch in (plan.decode, *plan.beams) if batch is not None]
        rows = [row for batch in batches for row in batch.row_B.tolist()]
        rows += [each.row for chunk in plan.chunks for each in (chunk, *chunk.forks)]
        if len(set(rows)) != len(rows):
            yield "I10", f"a step computes a row twice: {sorted(rows)}"
        if not all(len(chunk.token_ids) for chunk in plan.chunks) or not all(map(len, batches)):
            yield "I10", "a step has a request for which it computes no token"


def _find_sequence_faults(requests: RequestTable, sequence: TokenSequence) -> Iterator[Fault]:
    request, num_prompt = sequence.request, len(sequence.request.prompt_ids)
    if not 0 <= sequence.num_computed <= sequence.num_tokens or sequence.num_pending < 0:
        yield (
            "I11",
            f"request {_id(sequence)} has {sequence.num_tokens} tokens, of which {sequence.num_computed} are computed"
            f" and {sequence.num_pending} pending",
        )
    if tuple(sequence.tokens[:num_prompt]) != request.prompt_ids:
        yield "I11", f"the tokens of request {_id(sequence)} do not begin with its prompt"
    if sequence.num_cached_tokens is not None and not 0 <= sequence.num_cached_tokens <= num_prompt:
        yield "I6", f"request {_id(sequence)} has found {sequence.num_cached_tokens} of {num_prompt} tokens cached"
    for size in requests.cache.sizes:
        needed = num_pages_for(max(num_prompt, request.max_total_tokens - 1), requests.page_size)
        if size.window is None and not size.is_recurrent and not request.is_beam_search and needed > size.num_pages - 1:
            yield "I13", f"request {_id(sequence)} may need {needed} pages, and there are {size.num_pages - 1}"


def _find_page_count_faults(state: SchedulerState, sequence: TokenSequence) -> Iterator[Fault]:
    """Yield in which groups a running sequence, or a beam of it, has too few pages or too many."""
    page_size, beam = state.requests.page_size, state.beams.get(_id(sequence))
    if beam is not None and beam.pages:
        if any(sequence.pages.lengths):
            yield "I5", f"the prompt of beam search {_id(sequence)} has pages besides those of its beams"
        least, most = beam.position // page_size, num_pages_for(beam.position + 1, page_size)
        holders = [(pages, least, most) for pages in beam.pages]
    else:
        lookahead = 2 * (state.decode.max_tokens_per_row - 1)  # a step in flight and one planned may bring a token each
        most = num_pages_for(max(sequence.num_tokens_at_start, sequence.num_computed + lookahead), page_size)
        # A step of several tokens counts all of them, and computes none behind the length limit.
        request = sequence.request
        limit = max(len(request.prompt_ids), request.max_total_tokens - 1)
        holders = [(sequence.pages, num_pages_for(min(sequence.num_computed, limit), page_size), most)]
    for pages, least, most in holders:
        for group, length in enumerate(pages.lengths):
            low, high = least, most
            if state.requests.cache.sizes[group].is_recurrent:
                low, high = int(not pages.copy_sources[group]), 1  # a fork gets its slot with its next page
            if not low <= length <= high:
                yield "I5", f"request {_id(sequence)} has {length} pages in group {group}, not {low} to {high}"


def _find_first_writes(state: SchedulerState) -> dict[tuple[int, int], int]:
    """Return by request id and epoch the first position of a prompt that a step in flight writes."""
    starts: dict[tuple[int, int], int] = {}
    for plan in state.in_flight:
        for chunk in plan.chunks:
            starts.setdefault((chunk.request_id, chunk.epoch), chunk.start)
    return starts


def _find_cached_too_early(
    requests: RequestTable, sequence: TokenSequence, starts: dict[tuple[int, int], int]
) -> Iterator[Fault]:
    """Yield cached pages of a sequence that no finished step has filled."""
    start = starts.get((_id(sequence), sequence.epoch))
    if start is None:
        start = min(sequence.num_computed, len(sequence.tokens) - sequence.is_prefilled)
    for group, pool in enumerate(requests.cache.pools):
        for page in sequence.pages.by_group[group][start // requests.page_size :]:
            if pool.is_marked_cached(page):
                yield "I7", f"page {page} in group {group} of request {_id(sequence)} is cached and not filled"


def _count_pending(in_flight: Iterable[StepPlan]) -> Counter[int]:
    """Return by request id how many tokens the steps in flight will bring at most."""
    pending: Counter[int] = Counter()
    for plan in in_flight:
        if plan.decode is not None:
            for request_id in plan.decode.request_ids:
                pending[request_id] += plan.decode.max_tokens
        for chunk in plan.chunks:
            pending[chunk.request_id] += chunk.is_last
            pending.update(fork.request_id for fork in chunk.forks)
    return pending


def _find_starvation(state: SchedulerState, sequence: TokenSequence, pending: Counter[int]) -> Iterator[Fault]:
    """Yield what a request waits for that will never come."""
    request_id, beam = _id(sequence), state.beams.get(_id(sequence))
    if beam is None:
        if sequence.num_pending and sequence.num_pending != pending[request_id]:
            yield (
                "I14",
                f"request {request_id} waits for {sequence.num_pending} tokens, and {pending[request_id]} are coming",
            )
        in_flight = any(chunk.request_id == request_id for plan in state.in_flight for chunk in plan.chunks)
        if sequence.is_prefilled and not (sequence.needs_more_tokens or sequence.num_pending or in_flight):
            yield "I14", f"request {request_id} has all its tokens and has not ended"
        return
    batches = [batch for plan in state.in_flight for batch in plan.beams]
    if beam.pages and not beam.has_results and not any(request_id in batch.request_ids for batch in batches):
        yield "I14", f"beam search {request_id} waits for results, and no step brings them"


def find_leftovers(state: SchedulerState) -> Iterator[Fault]:
    """Yield what is kept although there are no requests. The cost does not grow with the number of pages.

    Pages are counted: those that are lost are neither free nor cached, and those that are listed twice too many.
    """
    requests = state.requests
    if requests.by_id:
        return
    kept = {
        "queued requests": len(requests.waiting) + len(requests.running),
        "outputs": len(requests.request_outputs.output_ids()),
        "beam searches": len(requests.beams.list_states()),
        "pages too few or too many": sum(abs(pool.num_usable - pool.num_free) for pool in requests.cache.pools),
        "rows in use": requests.rows.num_taken,
        "queued penalty states": requests.rows.num_queued_penalties,
        "announced pages": len(requests.prefix_reuse.computing_ids()),
        "suspected requests": len(state.search.suspect_ids()),
        "page copies": state.num_copies,
        "owned snapshots": 0 if requests.cache.snapshots is None else requests.cache.snapshots.num_held,
    }
    for name, number in kept.items():
        if number:
            yield "I19", f"no request is live, and there are {number} {name}"
