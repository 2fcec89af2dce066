"""Any mix of everything that can be asked of the sampler: each request gets the tokens it gets alone.

Whatever shares the batch, held the row before, was aborted or preempted; beam searches, too. On the real device path,
tiny weights.
"""

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxserve.cache.groups import GroupSize
from jaxserve.engine.beam_manager import max_beam_tokens
from jaxserve.engine.request import Request
from jaxserve.sampling_params import RepetitionDetection, SamplingParams
from tests.engine.conftest import PAGE, Bench
from tests.grammars import SmallGrammar, UntilToken, regex, schema

VOCAB, EOS = 256, 3
THINKING = UntilToken(frozenset(range(40, 44)))
SOME_PAIRS = tuple((i, j) for i in range(0, VOCAB, 2) for j in range(0, VOCAB, 3))
FEATURES = (
    {"temperature": 0.0},
    {"temperature": 1.5, "top_k": 30},
    {"top_p": 0.8},
    {"min_p": 0.02, "temperature": 2.0},
    {"repetition_penalty": 1.7},
    {"repetition_penalty": 0.6, "temperature": 0.0},
    {"frequency_penalty": 1.9},
    {"presence_penalty": -1.5, "temperature": 0.0},
    {"logit_bias": ((7, 4.0), (8, -100.0), (200, 2.5))},
    {"logit_bias": tuple((i, 3.0 * (i % 2)) for i in range(VOCAB))},
    {"allowed_token_ids": tuple(range(20, 60))},
    {"bad": ((5,), (6, 7))},
    {"bad": SOME_PAIRS},
    {"min_tokens": 5, "stops": (20, 21, 22, 23)},
    {"logprobs": 5},
    {"logprobs": 0, "logprob_token_ids": (1, 2, 250)},
    {"prompt_logprobs": 1},
    {"repetition_detection": RepetitionDetection(max_pattern_size=3, min_count=2)},
    {"ignore_eos": True},
    {"grammar": regex("(ab|ba|12)*")},
    {"grammar": regex(r"[ -~]{3,9}x?")},
    {"grammar": schema({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"enum": ["ab", True]}}})},
    {"grammar": SmallGrammar('start: "{" [item ("," item)*] "}"\nitem: /[a-z]/ | start')},
    {"reasoning": THINKING, "reasoning_end_ids": (60, 41), "thinking_token_budget": 4},
    {"reasoning": THINKING, "reasoning_end_ids": (60, 41), "thinking_token_budget": 0, "grammar": regex("ab|12")},
    {"reasoning": UntilToken(frozenset(range(64, 128))), "grammar": regex("(true|false|00)+")},
)
NUM_KINDS = 120
FEW_PAGES = 9  # that can be used, of the smaller pool


def request(kind, request_id, leader=None, choice=0, followers=0, width=0):
    """The kind-th of many requests: a prompt, a seed, and three features laid over one another.

    width: as a beam search with so many answers, which fits the smaller pool.
    """
    dice = np.random.default_rng(kind)
    wishes: dict = {"temperature": 1.0}
    for at in dice.choice(len(FEATURES), 3, replace=False):
        wishes |= FEATURES[at]
    ids = [int(n) for n in dice.integers(0, VOCAB, dice.integers(1, 60))]
    prompt, tokens = tuple(ids), int(dice.integers(6, 20))
    stops, bad = wishes.pop("stops", ()), wishes.pop("bad", ())
    guided = {name: wishes.pop(name) for name in ("grammar", "reasoning", "reasoning_end_ids") if name in wishes}
    if leader is not None or width:
        wishes.pop("prompt_logprobs", None)
    if width:
        wishes.pop("logprob_token_ids", None)
        wishes |= {"n": width, "use_beam_search": True, "length_penalty": float(dice.uniform(-1, 2))}
        tokens = max_beam_tokens(len(prompt), width, tokens, [GroupSize(num_pages=1 + FEW_PAGES)], PAGE)
        wishes["min_tokens"] = min(wishes.get("min_tokens", 0), tokens)
    params = SamplingParams(**wishes, max_tokens=tokens)
    return Request(
        request_id,
        prompt,
        params,
        seed=kind + choice,
        max_total_tokens=len(prompt) + tokens,
        eos_id=None if params.ignore_eos else EOS,
        stop_ids=frozenset(stops),
        stop_ids_until_min_tokens=(EOS, *stops),
        bad_sequences=tuple(bad),
        parent_id=leader,
        num_siblings=followers,
        choice_ids=tuple(range(request_id, request_id + width)),
        **guided,
    )


@pytest.fixture(scope="module")
def alone(built):
    """What a request of this kind, or choice of it, hears when there is nobody else and nothing in the cache."""

    @cache
    def answer(kind, choice=0, width=0):
        bench = Bench(built, overlap=False, prefix_caching=False)
        bench.engine.add(request(kind, 1, choice=choice, width=width))
        bench.run()
        return heard(bench, 1, width)

    return answer


def heard(bench, request_id, width=0):
    """All that was told of a request, or of a search: of each of its answers in turn."""
    told = [bench.outputs.get(one, ()) for one in range(request_id, request_id + max(1, width))]
    return tuple(
        (
            tuple(token for output in outputs for token in output.token_ids),
            str(outputs[-1].finish_reason) if outputs else None,
            outputs[-1].stop_reason if outputs else None,
        )
        for outputs in told
    )


MIXES = st.lists(
    st.tuples(
        st.integers(0, NUM_KINDS - 1),
        st.one_of(  # choices of one prompt, beams
            st.tuples(st.sampled_from([1, 1, 1, 3]), st.just(0)), st.tuples(st.just(1), st.integers(1, 4))
        ),
        st.integers(0, 3),  # steps before the next request comes
        st.booleans(),  # aborted soon after
    ),
    min_size=2,
    max_size=12,
)


@settings(max_examples=250, deadline=None, derandomize=True)
@given(
    mix=MIXES, num_pages=st.sampled_from([1 + FEW_PAGES, 160]), chunk=st.sampled_from([16, 64]), overlap=st.booleans()
)
def test_every_request_gets_its_own_tokens_in_any_mix(built, alone, mix, num_pages, chunk, overlap):
    bench, expected, aborted = Bench(built, overlap=overlap, num_pages=num_pages, chunk=chunk), {}, set()
    for number, (kind, (choices, width), steps, is_aborted) in enumerate(mix):
        first = 100 * (number + 1)
        for choice in range(choices):
            leader = first if choice else None
            bench.engine.add(request(kind, first + choice, leader, choice, 0 if choice else choices - 1, width))
            expected[first + choice] = (kind, choice, width)
        for _ in range(steps):
            bench.step()
        if is_aborted:
            bench.engine.finish(first)
            aborted.add(first)
    bench.run()
    for request_id, which in expected.items():
        if request_id not in aborted:
            assert heard(bench, request_id, which[2]) == alone(*which), which
