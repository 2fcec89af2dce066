"""The search alone, fed from the fake network and from tables; the truth prunes nothing and never stops early."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxserve.engine.beam_search import BeamSearch
from jaxserve.engine.plan import SampledTokens
from jaxserve.engine.request import Request, make_stop_cursor
from jaxserve.outputs import FinishReason
from jaxserve.sampling_params import RepetitionDetection, SamplingParams
from tests.expected_output import beam_continuations, expected_beams
from tests.grammars import TRACKERS

PROMPT = (5, 6, 7)


def ask(n, max_tokens, *, ends=(0, 1), divisor=None, **params):
    params |= {"stop": str(divisor)} if divisor else {}
    sampling = SamplingParams(n=n, use_beam_search=True, max_tokens=max_tokens, **params)
    ids = tuple(range(1, n + 1))
    return Request(1, PROMPT, sampling, 0, len(PROMPT) + max_tokens, stop_ids=frozenset(ends), choice_ids=ids)


def find(request):
    """Runs a search on the fake network; what it found, and after how many steps it was over."""
    tree, steps = BeamSearch(request, stop_cursor=make_stop_cursor(request, TRACKERS)), 0
    while tree.beams:
        steps += 1
        parents = tree.advance(beam_continuations(request, [beam.token_ids for beam in tree.beams]))
        assert len(parents) == len(tree.beams) <= tree.width
    return tree.finished, steps


@settings(max_examples=300, deadline=None)
@given(
    n=st.integers(1, 6),
    max_tokens=st.integers(1, 9),
    ends=st.sets(st.integers(0, 39), max_size=8),
    divisor=st.none() | st.integers(2, 60),
    length_penalty=st.sampled_from([0.0, 1.0, -1.5, 0.3, 4.0]),
    repetition=st.none() | st.just(RepetitionDetection(max_pattern_size=2, min_count=2)),
    allowed=st.none() | st.sets(st.integers(0, 39), min_size=6, max_size=9),
    min_tokens=st.integers(0, 1),
)
def test_it_finds_what_a_search_without_shortcuts_finds(n, divisor, repetition, allowed, **params):
    request = ask(
        n, divisor=divisor, repetition_detection=repetition, allowed_token_ids=allowed and tuple(allowed), **params
    )
    found, _ = find(request)
    heard = [(one.beam.token_ids, str(one.finish_reason)) for one in found]
    assert heard == [(one.tokens, one.reason) for one in expected_beams(request)]


def table(*rows):
    """Continuations of each live beam: {token: probability}, written best first."""
    ids, logprobs = (np.array([list(part(row)) for row in rows]) for part in (dict.keys, dict.values))
    tokens, count = np.zeros((len(rows), 1)), np.ones(len(rows))
    return SampledTokens(tokens, count, candidate_id_BC=ids, candidate_logprob_BC=np.log(logprobs).astype(np.float32))


def lives(tree):
    return [beam.token_ids for beam in tree.beams]


def test_ties_go_to_the_earlier_beam_then_to_the_lower_token():
    tree = BeamSearch(ask(2, 5))
    tree.advance(table({3: 0.25, 4: 0.25, 5: 0.25, 6: 0.25}))
    assert lives(tree) == [(3,), (4,)]
    assert tree.advance(table({7: 0.5, 9: 0.25, 8: 0.125, 5: 0.125}, {2: 0.5, 6: 0.5, 3: 0.25, 4: 0.25})) == (0, 1)
    assert lives(tree) == [(3, 7), (4, 2)]


def test_only_as_many_continuations_of_a_beam_count_as_twice_the_width():
    tree = BeamSearch(ask(1, 5, ends=(8,)))
    tree.advance(table({3: 0.4, 4: 0.3, 8: 0.3}))
    assert (lives(tree), tree.finished) == ([(3,)], [])


def test_a_token_that_cannot_be_is_no_continuation():
    tree = BeamSearch(ask(2, 5))
    with np.errstate(divide="ignore"):
        tree.advance(table({3: 1.0, 4: 0.0, 5: 0.0, 6: 0.0}))
    assert lives(tree) == [(3,)]


def test_an_end_token_counts_in_the_length():
    tree = BeamSearch(ask(1, 5, length_penalty=1.0))
    tree.advance(table({3: 0.5, 0: 0.25}))
    tree.advance(table({0: 0.5, 4: 0.25}))
    [best] = tree.finished
    assert best.beam.token_ids == (3, 0) and best.normalized_score == pytest.approx(np.log(0.25) / 2)
    assert (best.finish_reason, best.stop_reason) == (FinishReason.STOP, 0)


def test_it_is_over_as_soon_as_nothing_can_change():
    request = ask(2, 9, length_penalty=0.0)
    tree = BeamSearch(request)
    tree.advance(table({0: 0.5, 1: 0.3, 2: 0.1, 3: 0.05}))
    assert not tree.beams
    longer_is_better = BeamSearch(ask(2, 9, length_penalty=3.0))
    longer_is_better.advance(table({0: 0.5, 1: 0.3, 2: 0.1, 3: 0.05}))
    assert longer_is_better.beams


def test_most_searches_with_ends_stop_before_their_last_step():
    steps = [find(ask(2, 30, ends=range(0, 40, 3), length_penalty=penalty))[1] for penalty in (0.0, 0.5, 1.0)]
    assert max(steps) < 30


@pytest.mark.parametrize("penalty", [1e308, -1e308, 700.0, -700.0])
def test_no_penalty_is_too_large(penalty):
    found, _ = find(ask(3, 6, length_penalty=penalty))
    assert len(found) == 3


def test_where_shorter_is_better_the_next_token_may_still_win():
    tree = BeamSearch(ask(1, 9, length_penalty=-1.0))
    tree.advance(table({3: 0.5, 0: 0.2}))
    assert tree.beams
    tree.advance(table({0: 0.99, 4: 0.01}))
    assert [one.beam.token_ids for one in tree.finished] == [(3, 0)] and not tree.beams
