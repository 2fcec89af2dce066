"""Copies of pages planned one after another: what is executed gives the same in any order that reads first.

Pages of group 1 may be exchanged, those of group 0 may not.
"""

from hypothesis import given
from hypothesis import strategies as st

from jaxserve.cache.page_copies import PageCopies
from jaxserve.cache.pool import CacheInvariantError

PLANNED = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 4), st.integers(0, 4)), max_size=8)


def execute(copies, pages):
    for group, source, target in copies:
        pages[group, target] = pages[group, source]
    return pages


@given(PLANNED)
def test_one_by_one_or_at_once_the_copies_give_what_was_planned(planned):
    before = {(group, page): 10 * group + page for group in range(2) for page in range(5)}
    page_copies = PageCopies((5, 5), {1})
    page_copies.plan(planned)
    expected = execute(planned, dict(before))
    try:
        copies = page_copies.take()
    except CacheInvariantError:
        assert any(group == 0 for group, _, _ in planned)  # pages were exchanged
        return
    assert before | {(group, target): before[group, source] for group, source, target in copies} == expected
    in_order = execute([copy for copy in copies if copy[0] == 0], dict(before))
    assert all(in_order[0, page] == expected[0, page] for page in range(5))
    assert len({(group, target) for group, _, target in copies}) == len(copies)
    assert page_copies.take() == ()


def test_a_copy_of_a_copy_is_one_of_the_original():
    page_copies = PageCopies((5,))
    page_copies.plan([(0, 1, 2), (0, 2, 3), (0, 4, 1)])
    assert page_copies.take() == ((0, 1, 2), (0, 1, 3), (0, 4, 1))


def test_two_pages_are_exchanged():
    page_copies = PageCopies((5, 5), {1})
    page_copies.plan([(1, 1, 7), (1, 2, 1), (1, 7, 2), (1, 3, 4)])
    assert set(page_copies.take()) == {(1, 1, 7), (1, 2, 1), (1, 1, 2), (1, 3, 4)}


def test_copies_to_host_memory_are_not_forgotten():
    page_copies = PageCopies((5,))
    page_copies.plan([(0, 1, 2), (0, 2, 7), (0, 3, 4)])
    assert page_copies.num_for_requests == 2
    page_copies.forget()
    assert page_copies.num_for_requests == 0
    assert page_copies.take() == ((0, 1, 7),)
