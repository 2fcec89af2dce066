"""A view of the engine's state between two steps, as plain values for people who look for a fault."""

from itertools import chain

from jaxserve.engine.request_table import RequestTable
from jaxserve.engine.sequence import Sequence
from jaxserve.engine_snapshot import CacheGroupStats, InspectedEngine, InspectedRequest, InvariantAnswers

MAX_REQUESTS = 4096  # that are listed
MAX_PAGES = 1 << 16  # that are listed with their owners, of all requests together


def inspect_requests(
    requests: RequestTable, invariants: InvariantAnswers, cache_groups: tuple[CacheGroupStats, ...], *, is_paused: bool
) -> InspectedEngine:
    """Return a view of all live requests, running ones first, with their pages as far as MAX_PAGES reaches."""
    listed: list[InspectedRequest] = []
    num_pages_left = MAX_PAGES
    sequences = [*requests.running, *requests.waiting]
    for sequence in sequences[:MAX_REQUESTS]:
        pages = _list_pages(requests, sequence)
        num_pages = sum(map(len, pages))
        is_listed = num_pages <= num_pages_left
        num_pages_left -= num_pages if is_listed else 0
        request_id, state = sequence.request.request_id, _name_state(sequence)
        listed.append(InspectedRequest(request_id, state, num_pages, pages if is_listed else None))
    return InspectedEngine(
        invariants=invariants,
        cache_groups=cache_groups,
        requests=tuple(listed),
        num_requests=len(sequences),
        num_rows=requests.rows.num_rows,
        num_free_rows=len(requests.rows.free_rows),
        is_paused=is_paused,
    )


def _list_pages(requests: RequestTable, sequence: Sequence) -> tuple[tuple[int, ...], ...]:
    """Return by cache group the pages of a request, those of its beams included, each once."""
    holders = (sequence.pages, *requests.beams.list_pages(sequence))
    by_group = zip(*(pages.by_group for pages in holders), strict=True)
    return tuple(tuple(sorted(set(chain(*lists)) - {0})) for lists in by_group)


def _name_state(sequence: Sequence) -> str:
    if sequence.row is not None:
        return "running"
    return "preempted" if sequence.epoch else "waiting"
