"""What a grammar does to the numbers of the real device path: log-probabilities, and nothing to anybody else."""

import numpy as np
import pytest

from jaxserve.engine.request import Request
from jaxserve.sampling_params import SamplingParams
from tests.engine.conftest import Bench
from tests.grammars import TINY, regex, tokens_of

PROMPT, EOS = tuple(range(30, 60)), 3
ALLOWED = [tokens_of(TINY, (EOS,)).index(sign) for sign in (b"x", b"y", b"z")]


def ask(bench, grammar=None, tokens=4, **params):
    """All log-probabilities of an answer, by position."""
    params = SamplingParams(**({"temperature": 0.0} | params), max_tokens=tokens)
    request = Request(
        1, PROMPT, params, 5, len(PROMPT) + tokens, EOS, stop_ids_until_min_tokens=(EOS,), grammar=grammar
    )
    bench.engine.add(request)
    bench.run()
    return bench.logprobs(1)


@pytest.mark.parametrize("wishes", [{}, {"temperature": 1.3, "top_k": 2}, {"logit_bias": ((ALLOWED[0], 9.0),)}])
def test_raw_log_probabilities_are_renormalised_over_what_the_grammar_allows(bench, wishes):
    free = ask(bench(), logprobs=0, logprob_token_ids=tuple(ALLOWED))[0]
    [first, *_] = ask(bench(), regex("[xyz]{4}"), logprobs=5, logprob_token_ids=tuple(ALLOWED), **wishes)
    its = np.array([logprob for _, logprob in free.requested])
    expected = its - np.logaddexp.reduce(its)
    assert np.allclose([logprob for _, logprob in first.requested], expected, atol=1e-4)
    assert [one for one, logprob in first.top if logprob > -np.inf] == [ALLOWED[at] for at in np.argsort(-expected)]
    assert first.logprob == dict(first.requested)[first.token_id]
    assert 1 <= first.rank <= 3


def test_the_only_token_that_the_grammar_allows_is_certain(bench):
    logprobs = ask(bench(), regex("xyz"), logprobs=1, temperature=1.7)
    assert [one.logprob for one in logprobs] == [0.0] * 4
    assert [one.token_id for one in logprobs] == [*ALLOWED, EOS]


@pytest.mark.parametrize("overlap", [False, True])
def test_a_search_sums_up_what_is_left_and_tells_what_is_raw(built, overlap):
    bench = Bench(built, overlap=overlap)
    params = SamplingParams(n=3, use_beam_search=True, max_tokens=4, logprobs=5)
    grammar = regex("[xyz]{3}")
    bench.engine.add(
        Request(
            1,
            PROMPT,
            params,
            5,
            len(PROMPT) + 4,
            EOS,
            stop_ids_until_min_tokens=(EOS,),
            choice_ids=(1, 2, 3),
            grammar=grammar,
        )
    )
    bench.run()
    for one in (1, 2, 3):
        *said, last = bench.tokens(one)
        assert last == EOS and len(said) == 3 and set(said) <= set(ALLOWED)
        for entry in bench.logprobs(one):
            finite = [logprob for _, logprob in entry.top if logprob > -np.inf]
            assert len(finite) in (1, 3) and np.isclose(np.exp(finite).sum(), 1, atol=1e-5)
    totals = [sum(entry.logprob for entry in bench.logprobs(one)) for one in (1, 2, 3)]
    assert totals == sorted(totals, reverse=True)
