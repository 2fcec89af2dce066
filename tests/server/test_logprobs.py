"""The three forms of log-probabilities, each compared with its definition on small random vocabularies."""

import math
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from jaxserve import Logprob, TokenLogprob
from server.logprobs import MIN_LOGPROB, CompletionLogprobsBuilder, render_chat_logprobs, render_prompt_table

TEXTS = ("a", "b", "a", "", "\u00e9\u00e9", " ", "c")  # two tokens with the same text, and a part of a character
values = st.permutations([-0.5, -1.0, -2.0, -3.0, -4.0, -math.inf, -math.inf]).map(list)


def entry(logprobs: list[float], token_id: int, k: int) -> TokenLogprob:
    """As the library spells it: the standing token, then the best k without it."""
    order = sorted(range(len(logprobs)), key=lambda id: (-logprobs[id], id))
    rank = 1 + sum(one > logprobs[token_id] for one in logprobs)

    def spelled(id: int, rank: int | None = None) -> Logprob:
        return Logprob(id, TEXTS[id], tuple(TEXTS[id].encode()), logprobs[id], rank)

    own = spelled(token_id, rank)
    others = [spelled(id) for id in order[:k] if id != token_id]
    return TokenLogprob(own.token_id, own.token, own.bytes, own.logprob, rank, (own, *others) if k else ())


def shown(logprob: float) -> float:
    return -9999.0 if logprob == -math.inf else logprob


@given(values, st.integers(0, 6), st.integers(0, 5))
def test_chat_has_exactly_k_the_standing_token_first_then_the_best(logprobs, token_id, k):
    (one,) = render_chat_logprobs([entry(logprobs, token_id, k)], k, as_ids=True)
    assert (one["token"], one["logprob"]) == (f"token_id:{token_id}", shown(logprobs[token_id]))
    assert bytes(one["bytes"]).decode() == TEXTS[token_id]
    order = [id for id in sorted(range(7), key=lambda id: (-logprobs[id], id)) if id != token_id]
    expected = [token_id, *order][:k]
    assert [alt["token"] for alt in one["top_logprobs"]] == [f"token_id:{id}" for id in expected]
    assert [alt["logprob"] for alt in one["top_logprobs"]] == [shown(logprobs[id]) for id in expected]


@given(values, st.integers(0, 6), st.integers(0, 5), st.lists(st.integers(0, 6), unique=True))
def test_what_is_asked_for_by_id_follows_the_token_and_the_best_and_none_stands_twice(logprobs, token_id, k, wanted):
    plain = entry(logprobs, token_id, k)
    more = replace(plain, requested=tuple(Logprob(id, TEXTS[id], (), logprobs[id]) for id in wanted))
    (best,), (one,) = render_chat_logprobs([plain], k, as_ids=True), render_chat_logprobs([more], k, as_ids=True)
    listed = [alt["token"] for alt in one["top_logprobs"]]
    assert one["top_logprobs"][:k] == best["top_logprobs"]
    best_k = {f"token_id:{one.token_id}" for one in plain.top}
    asked = {f"token_id:{id}" for id in (token_id, *wanted)} if wanted else set()
    assert len(set(listed)) == len(listed) and asked <= set(listed) and (not wanted or best_k <= set(listed))
    assert set(listed[k:]) <= asked | best_k
    assert {f"token_id:{id}": shown(logprobs[id]) for id in wanted}.items() <= {
        alt["token"]: alt["logprob"] for alt in one["top_logprobs"]
    }.items()
    assert render_prompt_table([more], k) == render_prompt_table([plain], k)


@given(values, st.integers(0, 4), st.integers(0, 5), st.integers(0, 3))
def test_completions_have_the_best_k_and_the_standing_token(logprobs, token_id, k, more):
    """Also when more were computed, for prompt_logprobs, than are shown. Equal texts share a key: the better one's."""
    arrays = CompletionLogprobsBuilder(k, as_ids=False).build([entry(logprobs, token_id, k + more)])
    best = {id for id in sorted(range(7), key=lambda id: (-logprobs[id], id))[:k]} | {token_id}
    expected: dict[str, float] = {}
    for id in best:
        expected[TEXTS[id]] = max(expected.get(TEXTS[id], MIN_LOGPROB), shown(logprobs[id]))
    if logprobs[token_id] > -math.inf:
        assert arrays["top_logprobs"] == [expected]
    assert arrays["token_logprobs"] == [shown(logprobs[token_id])]
    assert CompletionLogprobsBuilder(0, as_ids=False).build([entry(logprobs, token_id, k)])["top_logprobs"] == [
        {TEXTS[token_id]: shown(logprobs[token_id])}
    ]


@given(st.lists(st.integers(0, 6), max_size=12), st.integers(0, 12), st.booleans())
def test_offsets_run_on_from_chunk_to_chunk(ids, cut, as_ids):
    entries = [entry([-1.0] * 7, id, 0) for id in ids]
    whole = CompletionLogprobsBuilder(0, as_ids).build(entries)
    pieces = CompletionLogprobsBuilder(0, as_ids)
    first, second = pieces.build(entries[:cut]), pieces.build(entries[cut:])
    assert {key: first[key] + second[key] for key in whole} == whole
    assert whole["text_offset"] == [len("".join(whole["tokens"][:n])) for n in range(len(ids))]


@given(values, st.integers(0, 4), st.integers(0, 5))
def test_a_prompts_table_has_its_own_token_first_and_the_best_k_with_their_ranks(logprobs, token_id, k):
    first, table = render_prompt_table([None, entry(logprobs, token_id, k)], k)
    assert first is None
    order = sorted(range(7), key=lambda id: (-logprobs[id], id))
    rank = 1 + sum(one > logprobs[token_id] for one in logprobs)
    if logprobs[token_id] == -math.inf:
        return  # two share the last place, and which of them is among the best is the sampler's to say
    expected = [token_id, *(id for id in order[:k] if id != token_id)]
    assert list(table) == [str(id) for id in expected]
    assert [one["rank"] for one in table.values()] == [rank, *(1 + order.index(id) for id in expected[1:])]
    assert [one["logprob"] for one in table.values()] == [shown(logprobs[id]) for id in expected]
    assert [one["decoded_token"] for one in table.values()] == [TEXTS[id] for id in expected]


def test_what_is_no_number_is_the_lowest():
    broken = Logprob(0, "a", (97,), math.nan)
    (one,) = render_chat_logprobs([TokenLogprob(0, "a", (97,), math.nan, 1, (broken,))], 1, as_ids=False)
    assert one["logprob"] == one["top_logprobs"][0]["logprob"] == -9999.0
