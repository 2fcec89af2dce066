"""What a SamplingParams accepts, and in which words it refuses."""

import math
import pickle
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxserve import PARAMETER_RANGES, InvalidParameter, RepetitionDetection, SamplingParams


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("frequency_penalty", (-2, 0, 2), (-2.1, 2.1, math.nan, math.inf)),
        ("presence_penalty", (-2, 0, 2), (-2.1, 2.1, math.nan, -math.inf)),
        ("repetition_penalty", (1e-9, 1, 1e9), (0, -1, math.nan, math.inf)),
        ("allowed_token_ids", (None, (5,)), ((),)),
        ("logit_bias", ((), ((5, -1000.0),)), (((5, math.nan),), ((5, math.inf),))),
        ("bad_words", ((), ("x",)), (("x", ""),)),
        ("truncate_prompt_tokens", (None, -1, 1, 10**9), (0, -2)),
        ("truncation_side", ("left", "right"), ("up", "")),
        ("seed", (None, -(2**63), 2**63 - 1), (2**63, -(2**63) - 1)),
        ("priority", (0, -(2**63), 2**63 - 1), (2**63, -(2**63) - 1)),
    ],
)
def test_ranges(name, good, bad):
    for value in good:
        assert getattr(SamplingParams(**{name: value}), name) == value
    for value in bad:
        with pytest.raises(InvalidParameter, match=name) as caught:
            SamplingParams(**{name: value})
        assert caught.value.param == name


@pytest.mark.parametrize("name", PARAMETER_RANGES)
def test_a_declared_bound_is_the_last_valid_value(name):
    bounds = PARAMETER_RANGES[name]
    valid = [bound for bound in (bounds.minimum, bounds.maximum) if bound is not None]
    invalid = [bounds.minimum - 1 if bounds.minimum is not None else bounds.above]
    invalid += [bounds.maximum + 1] if bounds.maximum is not None else []
    for value in valid:
        assert getattr(SamplingParams(**{name: value}), name) == value
    for value in filter(lambda value: value is not None, invalid):
        with pytest.raises(InvalidParameter, match=rf"^{name} must be .*, got {value}(\.0)?\.$"):
            SamplingParams(**{name: value})


def test_ids_are_kept_in_order_and_once():
    params = SamplingParams(allowed_token_ids=(9, 3, 9), logit_bias=((8, 1.0), (2, 3.0), (8, 2.0)))
    assert params.allowed_token_ids == (3, 9)
    assert params.logit_bias == ((2, 3.0), (8, 2.0))


@pytest.mark.parametrize("name", ["stop_token_ids", "allowed_token_ids", "logit_bias"])
def test_ids_outside_the_vocabulary_are_named(name):
    def params(*ids: int) -> SamplingParams:
        return SamplingParams(**{name: tuple((one, 1.0) for one in ids) if name == "logit_bias" else ids})

    params(0, 99).check_vocabulary(100)
    with pytest.raises(InvalidParameter, match=r"-1, 100; the vocabulary has 100 tokens") as caught:
        params(100, 5, -1).check_vocabulary(100)
    assert caught.value.param == name
    with pytest.raises(InvalidParameter, match="and 90 more"):
        params(*range(100, 200)).check_vocabulary(100)


@given(ids=st.lists(st.integers(0, 9), max_size=30), kept=st.integers(1, 20) | st.just(-1), limit=st.integers(20, 25))
def test_a_cut_prompt_is_its_end_or_its_beginning(ids, kept, limit):
    most = limit - 1 if kept == -1 else kept
    left = SamplingParams(truncate_prompt_tokens=kept)
    right = SamplingParams(truncate_prompt_tokens=kept, truncation_side="right")
    assert (left.truncate(ids, limit), right.truncate(ids, limit)) == (ids[max(0, len(ids) - most) :], ids[:most])
    assert left.truncate(left.truncate(ids, limit), limit) == left.truncate(ids, limit)
    assert SamplingParams().truncate(ids, limit) == ids


def test_more_than_the_model_reads_cannot_be_kept():
    assert SamplingParams(truncate_prompt_tokens=20).truncate([1], 20) == [1]
    with pytest.raises(InvalidParameter, match="cannot be greater than max_model_len=20"):
        SamplingParams(truncate_prompt_tokens=21).truncate([1], 20)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_pattern_size": 3},
        {"max_pattern_size": 3, "min_count": 1},
        {"max_pattern_size": 3, "min_pattern_size": 4, "min_count": 2},
        {"min_pattern_size": 1, "min_count": 2},
        {"max_pattern_size": -1, "min_pattern_size": -1},
        {"min_count": -1},
    ],
)
def test_patterns_that_make_no_sense_are_refused(wrong):
    with pytest.raises(InvalidParameter) as caught:
        RepetitionDetection(**wrong)
    assert caught.value.param == "repetition_detection"


def test_a_priority_needs_a_scheduler_that_looks_at_it():
    SamplingParams().check_priority("fcfs")
    SamplingParams(priority=3).check_priority("priority")
    with pytest.raises(InvalidParameter, match=r"^Got priority 3 but priority scheduling is not enabled"):
        SamplingParams(priority=3).check_priority("fcfs")


def test_a_derived_copy_equals_one_that_was_checked_again_and_shares_what_is_large():
    params = SamplingParams(temperature=0.5, logit_bias={7: 1, 3: -2}, stop=["a"], n=3, max_tokens=9)
    derived = params.derive(max_tokens=4)
    assert derived == replace(params, max_tokens=4) != params
    assert derived.logit_bias is params.logit_bias
    assert pickle.loads(pickle.dumps(derived)) == derived
