"""What a SamplingParams accepts, and in which words it refuses."""

import math

import pytest

from jaxserve import InvalidParameter, SamplingParams


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("frequency_penalty", (-2, 0, 2), (-2.1, 2.1, math.nan, math.inf)),
        ("presence_penalty", (-2, 0, 2), (-2.1, 2.1, math.nan, -math.inf)),
        ("repetition_penalty", (1e-9, 1, 1e9), (0, -1, math.nan, math.inf)),
        ("allowed_token_ids", (None, (5,)), ((),)),
        ("logit_bias", ((), ((5, -1000.0),)), (((5, math.nan),), ((5, math.inf),))),
        ("bad_words", ((), ("x",)), (("x", ""),)),
    ],
)
def test_ranges(name, good, bad):
    for value in good:
        assert getattr(SamplingParams(**{name: value}), name) == value
    for value in bad:
        with pytest.raises(InvalidParameter, match=name) as caught:
            SamplingParams(**{name: value})
        assert caught.value.param == name


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
