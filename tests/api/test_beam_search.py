"""use_beam_search through both APIs."""

import asyncio

import pytest

from jaxserve import LLM, FinishReason, InvalidParameter, SamplingParams
from tests.api.conftest import SETTINGS, generate, idle

PROMPT = "once upon a time"


def search(n=3, **params):
    return SamplingParams(**{"n": n, "use_beam_search": True, "max_tokens": 12, "logprobs": 1} | params)


def test_answers_come_best_first_and_are_paid_for_together(llm):
    for penalty in (0.0, 1.0, -1.0):
        [completion] = llm.generate(PROMPT, search(length_penalty=penalty))
        choices = completion.choices
        scores = [sum(entry.logprob for entry in one.logprobs) / len(one.token_ids) ** penalty for one in choices]
        assert scores == sorted(scores, reverse=True) and len(scores) == 3
        assert len({one.token_ids for one in choices}) == 3
        assert completion.usage.completion_tokens == sum(len(one.token_ids) for one in choices)
        assert completion.usage.prompt_tokens == len(llm.tokenize(PROMPT))


def test_what_makes_a_draw_has_no_influence(llm):
    plain = llm.generate(PROMPT, search())
    for how in ({"temperature": 0}, {"temperature": 1.7, "top_k": 2, "top_p": 0.1, "min_p": 0.9, "seed": 4}):
        assert llm.generate(PROMPT, search(**how))[0].choices == plain[0].choices


@pytest.mark.parametrize("included", [False, True])
def test_a_stop_string_ends_an_answer_and_its_tokens_are_kept(llm, included):
    how = {"ignore_eos": True, "max_tokens": 20, "skip_special_tokens": False, "include_stop_str_in_output": included}
    free = llm.generate(PROMPT, search(**how))[0].choices
    letter = next(letter for letter in free[0].text[3:] if letter != "\ufffd")
    choices = llm.generate(PROMPT, search(stop=(letter,), **how))[0].choices
    stopped = [one for one in choices if one.finish_reason is FinishReason.STOP]
    assert stopped
    for one in stopped:
        assert one.stop_reason == letter and len(one.logprobs) == len(one.token_ids)
        assert one.text.endswith(letter) == included and letter not in one.text[:-1]
        assert letter in llm.detokenize(one.token_ids)


def test_a_search_that_the_cache_cannot_hold_for_long_ends_earlier(llm):
    rows, pages, page = SETTINGS["max_num_seqs"], SETTINGS["num_gpu_blocks_override"] - 1, llm.config.page_size
    ids = [5] * 3
    assert rows * SETTINGS["max_model_len"] > pages * page
    [completion] = llm.generate(ids, search(rows, max_tokens=None, ignore_eos=True, logprobs=None, length_penalty=0.0))
    lengths = {len(one.token_ids) for one in completion.choices}
    assert lengths == {pages // rows * page - len(ids) + 1}
    assert {one.finish_reason for one in completion.choices} == {FinishReason.LENGTH}


@pytest.mark.parametrize(
    ("params", "name"),
    [({"n": 9}, "n"), ({"prompt_logprobs": 0}, "prompt_logprobs"), ({"logprob_token_ids": (1,)}, "logprob_token_ids")],
)
def test_what_a_search_cannot_do_is_refused_by_name(llm, params, name):
    with pytest.raises(InvalidParameter, match=name) as caught:
        llm.generate(PROMPT, search(**params))
    assert caught.value.param == name


def test_too_few_answers_are_an_error_and_the_next_request_is_unharmed(llm):
    with pytest.raises(InvalidParameter, match="leave 1"):
        llm.generate(PROMPT, search(allowed_token_ids=(5,)))
    assert len(llm.generate(PROMPT, search())[0].choices) == 3
    assert idle(llm)


async def test_each_answer_is_one_delta_and_leaving_ends_the_search(async_llm):
    deltas = [delta async for delta in generate(async_llm, [1, 2, 3], search(4))]
    assert [delta.index for delta in deltas] == [0, 1, 2, 3]
    assert all(delta.finish_reason is not None for delta in deltas)
    reader = asyncio.ensure_future(anext(generate(async_llm, [1, 2, 3], search(6, max_tokens=200, ignore_eos=True))))
    async for _ in generate(async_llm, [7, 8], SamplingParams(max_tokens=3)):
        pass
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert idle(async_llm)


def test_where_all_logprobs_may_be_asked_for_a_search_has_them_too(tiny_path):
    with LLM(tiny_path, quiet=True, max_logprobs=-1, **SETTINGS) as llm:
        vocab = llm._client.limits.vocab_size
        [completion] = llm.generate(PROMPT, search(logprobs=vocab, logit_bias=((65, 100.0),)))
    for choice in completion.choices:
        for entry in choice.logprobs:
            values = sorted((one.logprob for one in entry.top), reverse=True)
            assert len(values) == vocab and entry.rank == 1 + values.index(entry.logprob)
        assert max(entry.rank for entry in choice.logprobs) > 20
