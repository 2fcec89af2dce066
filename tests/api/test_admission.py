"""The queue's places: taken by choices, given back once, and what is refused is counted."""

import pytest

from jaxserve.admission import AdmissionQueue
from jaxserve.errors import InvalidParameter, Overloaded


def test_places_are_taken_and_given_back_once():
    queue = AdmissionQueue(4, 100)
    first, second = queue.admit(3, 0), queue.admit(1, 0)
    with pytest.raises(Overloaded, match="4 of 4 places"):
        queue.admit(1, 0)
    second.release()
    second.release()
    assert queue.num_taken == 3
    with queue.admit(1, 0):
        assert queue.num_taken == 4
    first.release()
    assert queue.num_taken == 0
    assert queue.rejected() == {"max_num_queued_reqs": 1, "max_num_queued_tokens": 0}


def test_waiting_tokens_fill_the_queue_too():
    queue = AdmissionQueue(4, 100)
    queue.admit(1, 100)
    with pytest.raises(Overloaded, match="101 prompt tokens"):
        queue.admit(1, 101)
    assert queue.rejected() == {"max_num_queued_reqs": 0, "max_num_queued_tokens": 1}


def test_more_than_the_queue_could_ever_hold_is_no_matter_of_waiting():
    queue = AdmissionQueue(4, 100)
    with pytest.raises(InvalidParameter, match="asks for 5 generations; at most 4"):
        queue.admit(5, 0)
    assert sum(queue.rejected().values()) == 0


def test_who_fills_the_queue_does_not_lock_others_out():
    queue = AdmissionQueue(8, 100)
    queue.admit(8, 0, "greedy")
    for caller in ("second", "third"):
        queue.admit(1, 0, caller)
    for caller in ("greedy", "second", "fourth"):
        with pytest.raises(Overloaded):
            queue.admit(1, 0, caller)
    assert queue.num_taken == 10


def test_a_caller_that_has_left_is_a_new_one():
    queue = AdmissionQueue(4, 100)
    queue.admit(3, 0, "greedy")
    for _ in range(3):
        with queue.admit(2, 0, "other"), pytest.raises(Overloaded):
            queue.admit(1, 0, "other")
