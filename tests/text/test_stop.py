"""Stop strings: matching in pieces equals matching in the whole text."""

from hypothesis import example, given
from hypothesis import strategies as st

from jaxserve.text.stop import StopMatcher

LETTERS = st.text("ab", max_size=12)


def run(pieces, stops, included=False, first_that_counts=0):
    """(text sent in all, matched string or None)."""
    matcher, sent = StopMatcher(tuple(stops), included), ""
    for number, piece in enumerate(pieces):
        text, match = matcher.feed(piece, matches_count=number >= first_that_counts)
        sent += text
        if match is not None:
            return sent, match.stop
    return sent + matcher.flush(), None


def brute_force(pieces, stops, included, first_that_counts):
    """Tries every end in order, and at every end every string in order."""
    text, uncounted = "".join(pieces), len("".join(pieces[:first_that_counts]))
    for end in range(uncounted + 1, len(text) + 1):
        for stop in stops:
            if text[:end].endswith(stop):
                return text[: end if included else end - len(stop)], stop
    return text, None


@given(
    st.lists(LETTERS, max_size=8),
    st.lists(st.text("ab", min_size=1, max_size=5), min_size=1, max_size=4),
    st.booleans(),
    st.integers(0, 3),
)
@example(["ab", "ba"], ["bb", "abba"], False, 0)
def test_matching_in_pieces_equals_matching_in_the_whole(pieces, stops, included, first_that_counts):
    result = run(pieces, stops, included, first_that_counts)
    assert result == brute_force(pieces, stops, included, first_that_counts)


def test_the_match_that_ends_first_counts():
    assert run(["abcde"], ["abcd", "bc"]) == ("a", "bc")


def test_of_matches_with_the_same_end_the_first_listed_counts():
    assert run(["abc"], ["bc", "abc"]) == ("a", "bc")
    assert run(["abc"], ["abc", "bc"]) == ("", "abc")


def test_what_might_begin_a_stop_string_is_held_back():
    matcher = StopMatcher(("STOP!",), False)
    assert matcher.feed("hello S") == ("hel", None)
    assert matcher.feed("ure") == ("lo ", None)
    assert matcher.flush() == "Sure"


def test_nothing_is_held_back_when_the_match_is_shown():
    matcher = StopMatcher(("STOP!",), True)
    assert matcher.feed("ST")[0] == "ST"
    assert matcher.feed("OP! and more")[0] == "OP!"


def test_a_match_that_does_not_count_stays_in_the_text():
    assert run(["x.", "y.", "z"], ["."], first_that_counts=1) == ("x.y", ".")


def test_without_stop_strings_everything_passes():
    assert run(["a", "b"], []) == ("ab", None)
