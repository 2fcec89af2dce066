"""Beam search on the device path, tiny weights, against one over the plain decoder's full logits."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from jaxserve.engine.request import Request
from jaxserve.sampling_params import SamplingParams
from tests import oracle
from tests.engine.test_contracts import add_search

PROMPT = [int(n) for n in np.random.default_rng(5).integers(0, 256, 21)]
WIDTH, TOKENS = 3, 5
BAD = ((7,), (200, 201))
SHAPES = (
    {},
    {"length_penalty": -0.5, "logprobs": 3},
    {"logit_bias": ((40, 4.0), (41, 3.0), (200, 5.0)), "repetition_penalty": 1.4, "frequency_penalty": 0.3},
    {"allowed_token_ids": (3, 7, 40, 41, 200, 201, 251), "min_tokens": 2, "bad": BAD, "length_penalty": 0.0},
    {"presence_penalty": 1.5, "bad": BAD, "min_tokens": 3, "logprobs": 0},
)
ENDS = range(250, 256)


@pytest.fixture(scope="module")
def plain(built, tiny_model):
    """tokens → the plain decoder's logits after them, float64 [V]; each asked for once."""
    weights, known = load_file(tiny_model / "model.safetensors"), {}

    def logits(tokens):
        key = tuple(tokens)
        if key not in known:
            known[key] = oracle.logits(built.model_config, weights, [*PROMPT, *tokens])[-1]
        return known[key].copy()

    return logits


def log_softmax(values):
    return values - values.max() - np.log(np.exp(values - values.max()).sum())


def shaped(logits, tokens, *, bad=(), **params):
    """Whitelist, bias, min_tokens, penalties, bad words, in this order."""
    params = SamplingParams(**params)
    if params.allowed_token_ids is not None:
        logits[np.setdiff1d(np.arange(len(logits)), params.allowed_token_ids)] = -np.inf
    for token, bias in params.logit_bias:
        logits[token] += bias
    if len(tokens) < params.min_tokens:
        logits[ENDS] = -np.inf
    seen = sorted({*PROMPT, *tokens})
    strength = params.repetition_penalty
    logits[seen] = np.where(logits[seen] > 0, logits[seen] / strength, logits[seen] * strength)
    for token in set(tokens):
        logits[token] -= params.frequency_penalty * tokens.count(token) + params.presence_penalty
    for *before, last in bad:
        if not before or list(tokens[-len(before) :]) == before:
            logits[last] = -np.inf
    return log_softmax(logits)


def brute_force(plain, *, length_penalty=1.0, **shape):
    """(tokens, score) of the best, best first: all continuations of all beams, in one heap."""
    shape.pop("logprobs", None)
    live, found = [((), 0.0)], []
    for _ in range(TOKENS):
        ways = []
        for tokens, score in live:
            logprobs = shaped(plain(tokens), tokens, **shape)
            best = np.argsort(-logprobs, kind="stable")[: 2 * WIDTH]
            ways += [((*tokens, int(one)), score + logprobs[one]) for one in best if np.isfinite(logprobs[one])]
        ways.sort(key=lambda way: -way[1])
        found += [way for way in ways if way[0][-1] in ENDS]
        live = [way for way in ways if way[0][-1] not in ENDS][:WIDTH]
    return sorted(found + live, key=lambda way: -way[1] / len(way[0]) ** length_penalty)[:WIDTH]


@pytest.mark.parametrize("overlap", [False, True], ids=["in turn", "overlapped"])
@pytest.mark.parametrize("shape", SHAPES)
def test_it_finds_what_the_plain_decoder_finds(bench, plain, shape, overlap):
    one = bench(overlap=overlap)
    add_search(one, 1, PROMPT, WIDTH, tokens=TOKENS, held_back=ENDS, **shape)
    one.run()
    expected = brute_force(plain, **shape)
    assert [tuple(one.tokens(1 + at)) for at in range(WIDTH)] == [tokens for tokens, _ in expected]
    if "logprobs" not in shape:
        return
    for at, (tokens, _) in enumerate(expected):
        for place, entry in enumerate(one.logprobs(1 + at)):
            raw = log_softmax(plain(tokens[:place]))
            assert entry.token_id == tokens[place]
            assert entry.logprob == pytest.approx(raw[entry.token_id], abs=1e-4)
            assert entry.rank in (None, 1 + (raw > raw[entry.token_id]).sum())
            assert (entry.rank is None) == (1 + (raw > raw[entry.token_id]).sum() > 5)
            assert [id for id, _ in entry.top] == list(np.argsort(-raw, kind="stable")[: shape["logprobs"]])


def test_ends_are_among_what_is_found(plain):
    """Otherwise the test above would say little about them."""
    assert any(tokens[-1] in ENDS for shape in SHAPES for tokens, _ in brute_force(plain, **shape))


def told(bench, first):
    return [bench.tokens(first + at) for at in range(WIDTH)]


@pytest.mark.parametrize("how", [{}, {"num_pages": 1 + 14}, {"overlap": False}], ids=str)
def test_alone_is_as_in_a_crowd_for_searches_and_for_the_crowd(bench, how):
    crowd = bench(**how)
    for i, shape in enumerate(SHAPES):
        crowd.add(1000 + i, PROMPT[i:], tokens=30, **({"temperature": 1.0, "seed": i} if i % 2 else {}))
        add_search(crowd, 10 * i, PROMPT, WIDTH, tokens=20, held_back=ENDS, **shape)
        crowd.step()
    together = crowd.run()
    for i, shape in enumerate(SHAPES):
        alone = bench()
        add_search(alone, 10 * i, PROMPT, WIDTH, tokens=20, held_back=ENDS, **shape)
        alone.run()
        assert told(crowd, 10 * i) == told(alone, 10 * i)
        single = bench()
        single.add(1000 + i, PROMPT[i:], tokens=30, **({"temperature": 1.0, "seed": i} if i % 2 else {}))
        assert single.run()[1000 + i] == together[1000 + i]


def test_one_beam_without_ends_is_greedy(bench):
    one = bench()
    params = SamplingParams(n=1, use_beam_search=True, max_tokens=40)
    one.engine.add(Request(1, tuple(PROMPT), params, 0, len(PROMPT) + 40, choice_ids=(1,)))
    one.add(2, PROMPT, tokens=40)
    results = one.run()
    assert results[1] == results[2]
