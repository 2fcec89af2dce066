"""The watch says what the plain definition says, after every token; and it does not grow with the answer."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxserve.engine.repetition import RepetitionDetector
from jaxserve.sampling_params import RepetitionDetection
from tests.fake_runner import is_repetition

counts = st.integers(2, 4)
sizes = st.tuples(st.integers(0, 5), st.integers(1, 6)).map(sorted)


def said(tokens: Sequence[int], wanted: RepetitionDetection, max_outputs: int) -> list[bool]:
    watch = RepetitionDetector(wanted, max_outputs)
    return [watch.push(token) for token in tokens]


@given(sizes=sizes, count=counts, tokens=st.lists(st.integers(0, 2), max_size=40), room=st.integers(0, 5))
def test_it_says_what_the_definition_says(sizes, count, tokens, room):
    wanted = RepetitionDetection(min_pattern_size=sizes[0], max_pattern_size=max(sizes[1], 1), min_count=count)
    expected = [is_repetition(tokens[: end + 1], wanted) for end in range(len(tokens))]
    assert said(tokens, wanted, len(tokens) + room) == expected


@given(
    pattern=st.lists(st.integers(0, 3), min_size=1, max_size=5),
    before=st.lists(st.integers(4, 9), unique=True),
    count=counts,
)
def test_it_ends_with_the_last_token_of_the_last_copy(pattern, before, count):
    tokens = [*before, *pattern * count]
    size = len(pattern)
    wanted = RepetitionDetection(min_pattern_size=size, max_pattern_size=size, min_count=count)
    assert said(tokens, wanted, 1000).index(True) == len(tokens) - 1


@pytest.mark.parametrize(
    ("smallest", "largest", "count", "most"),
    [(0, 10**30, 2, 50), (0, 10**30, 10**30, 0), (0, 3, 60, 1), (10**30, 10**30, 2, 0), (51, 60, 2, 0), (49, 60, 2, 2)],
)
def test_patterns_that_cannot_fit_cost_nothing(smallest, largest, count, most):
    wanted = RepetitionDetection(min_pattern_size=smallest, max_pattern_size=largest, min_count=count)
    watch = RepetitionDetector(wanted, 100)
    assert len(watch._run_P) == most
    assert not any(watch.push(token) for token in range(99))


def test_a_long_answer_keeps_no_more_than_a_short_one():
    watch = RepetitionDetector(RepetitionDetection(max_pattern_size=8, min_count=3), 10**6)

    def kept() -> int:
        return watch._recent.nbytes + watch._run_P.nbytes

    at_first = kept()
    for token in range(1000):
        watch.push(token)
    assert kept() == at_first
