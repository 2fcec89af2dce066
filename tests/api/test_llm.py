"""LLM: generate, chat and stream."""

import asyncio
import json
import threading
from dataclasses import replace

import numpy as np
import pytest

from jaxserve import LLM, BadConfig, FinishReason, InvalidParameter, PromptTooLong, RepetitionDetection, SamplingParams
from jaxserve.engine.compile import compile_counter
from tests.api.conftest import SETTINGS, idle, until

GREEDY = SamplingParams(temperature=0, max_tokens=20)
MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]


def whole(deltas):
    return "".join(delta.text for delta in deltas)


def test_streamed_is_as_whole(llm):
    for params in (GREEDY, SamplingParams(temperature=1.0, seed=3, max_tokens=30)):
        deltas = list(llm.stream(MESSAGES, params))
        completion = llm.chat(MESSAGES, params)
        assert whole(deltas) == completion.text
        assert tuple(token for delta in deltas for token in delta.token_ids) == completion.choices[0].token_ids
        assert deltas[-1].finish_reason is completion.choices[0].finish_reason


def test_many_prompts_are_as_one_by_one(llm):
    prompts = ["a", "once upon a time", "the quick brown fox " * 5]
    together = llm.generate(prompts, GREEDY)
    assert [one.text for one in together] == [llm.generate(prompt, GREEDY)[0].text for prompt in prompts]


def test_token_ids_are_a_prompt_too(llm):
    ids = llm.tokenize("hello there")
    assert llm.generate(ids, GREEDY)[0].text == llm.generate("hello there", GREEDY)[0].text
    assert llm.detokenize(ids) == "hello there"


def test_choice_j_is_the_one_of_seed_plus_j(llm):
    both = llm.chat(MESSAGES, SamplingParams(n=2, seed=7, max_tokens=16))
    one = llm.chat(MESSAGES, SamplingParams(n=1, seed=8, max_tokens=16))
    assert both.choices[1].token_ids == one.choices[0].token_ids
    assert both.choices[0].token_ids != both.choices[1].token_ids
    assert both.usage.prompt_tokens == one.usage.prompt_tokens
    assert both.usage.completion_tokens == sum(len(choice.token_ids) for choice in both.choices)


def test_more_choices_than_run_at_a_time_are_all_there(llm):
    many = llm.chat(MESSAGES, SamplingParams(n=40, seed=7, max_tokens=4)).choices
    assert [choice.index for choice in many] == list(range(40))
    for index in (1, 39):
        one = llm.chat(MESSAGES, SamplingParams(n=1, seed=7 + index, max_tokens=4)).choices[0]
        assert many[index].token_ids == one.token_ids


def test_without_a_seed_every_answer_is_its_own(llm):
    params = SamplingParams(temperature=1.0, max_tokens=24, n=2)
    first, second = llm.chat(MESSAGES, params), llm.chat(MESSAGES, params)
    assert len({choice.token_ids for choice in first.choices + second.choices}) == 4


def test_a_server_s_seed_makes_unseeded_answers_repeatable(tiny_path):
    params, answers = SamplingParams(temperature=1.0, max_tokens=12, n=2), []
    for seed in (5, 5, 6):
        with LLM(tiny_path, quiet=True, seed=seed, **SETTINGS) as llm:
            answers.append([choice.token_ids for choice in llm.chat(MESSAGES, params).choices])
    assert answers[0] == answers[1] != answers[2]
    assert answers[0][0] != answers[0][1]


def test_defaults_stand_where_nothing_is_said(tiny_path):
    defaults = {"temperature": 0, "skip_special_tokens": False, "frequency_penalty": 0.5, "max_new_tokens": 3}
    how = {"override_generation_config": defaults, "scheduling_policy": "priority"}
    with LLM(tiny_path, quiet=True, **how, **SETTINGS) as llm:
        params = llm._client.text.defaults.params
        assert (params.is_greedy, params.skip_special_tokens, params.frequency_penalty) == (True, False, 0.5)
        first, second = llm.generate(["abc", "abc"])
        urgent = llm.generate("abc", replace(params, priority=-3))[0]
    assert first.choices == second.choices == urgent.choices
    assert len(first.choices[0].token_ids) <= 3
    with pytest.raises(BadConfig, match=r"temperature must be in \[0, 2\]"):
        LLM(tiny_path, quiet=True, override_generation_config={"temperature": 3}, **SETTINGS)


def test_a_given_generation_config_names_the_ends_and_the_most_tokens(tiny_path, tmp_path, llm):
    free = llm.generate("abc", replace(GREEDY, ignore_eos=True))[0].choices[0].token_ids
    names = {"eos_token_id": [free[3], 5], "max_new_tokens": 12, "temperature": 0}
    (tmp_path / "generation_config.json").write_text(json.dumps(names))
    with LLM(tiny_path, quiet=True, generation_config=str(tmp_path), **SETTINGS) as other:
        ended = other.generate("abc")[0].choices[0]
        capped = other.generate("abc", replace(GREEDY, max_tokens=100, ignore_eos=True))[0].choices[0]
    assert (ended.token_ids, ended.stop_reason) == (free[: free.index(free[3]) + 1], free[3])
    assert (len(capped.token_ids), capped.finish_reason) == (12, FinishReason.LENGTH)


def test_a_stop_string_ends_the_answer_and_frees_its_pages(llm):
    free = llm.generate("abc", SamplingParams(temperature=0, max_tokens=40))[0].text
    stop, before = free[5:8], llm.stats().finished
    cut = llm.generate("abc", SamplingParams(temperature=0, max_tokens=40, stop=(stop,)))[0]
    assert cut.text == free[: free.index(stop)]
    assert (cut.choices[0].finish_reason, cut.choices[0].stop_reason) == (FinishReason.STOP, stop)
    assert idle(llm)
    assert until(lambda: llm.stats().finished["stop"] == before["stop"] + 1)
    assert llm.stats().finished["abort"] == before["abort"]


def test_leaving_a_stream_aborts_it(llm):
    for _ in llm.stream(MESSAGES, SamplingParams(temperature=0, max_tokens=200, ignore_eos=True)):
        break
    assert idle(llm)
    assert until(lambda: llm.stats().finished["abort"] >= 1)


def test_logprobs_come_with_every_token(llm):
    params = SamplingParams(temperature=0, max_tokens=6, logprobs=3, prompt_logprobs=0)
    completion = llm.generate("hello", params)[0]
    (choice,) = completion.choices
    assert len(choice.logprobs) == len(choice.token_ids)
    assert all(entry.top[0].token_id == entry.token_id and len(entry.top) == 3 for entry in choice.logprobs)
    assert completion.prompt_logprobs[0] is None
    assert [entry.token for entry in completion.prompt_logprobs[1:]] == list("ello")


def test_any_ids_may_be_scored_at_every_token(llm):
    params = SamplingParams(temperature=0, max_tokens=6, logprobs=20)
    (plain,) = llm.generate("hello", params)[0].choices
    ids = tuple(one.token_id for one in plain.logprobs[0].top)
    (choice,) = llm.generate("hello", replace(params, logprobs=0, logprob_token_ids=ids))[0].choices
    deltas = llm.stream("hello", replace(params, logprob_token_ids=ids))
    streamed = [entry for delta in deltas for entry in delta.logprobs or ()]
    assert choice.token_ids == plain.token_ids
    for entry, same, full in zip(choice.logprobs, streamed, plain.logprobs, strict=True):
        assert tuple(one.token_id for one in entry.requested) == ids
        assert (entry.top, entry.requested) == ((), same.requested)
        known = {one.token_id: one for one in entry.requested}
        for one in full.top:
            if one.token_id in known:
                assert known[one.token_id].token == one.token
                assert known[one.token_id].logprob == pytest.approx(one.logprob, abs=1e-5)
    assert [one.logprob for one in choice.logprobs[0].requested] == sorted(
        (one.logprob for one in choice.logprobs[0].requested), reverse=True
    )


@pytest.mark.parametrize(
    ("prompt", "params", "message"),
    [
        ([], GREEDY, "empty"),
        ([5, 10**9], GREEDY, r"out of vocabulary: 1000000000"),
        ([1], SamplingParams(max_tokens=10**6), "max_model_len"),
        ([1], SamplingParams(stop_token_ids=(-1,)), "stop_token_ids"),
        ([1], SamplingParams(logprobs=0, logprob_token_ids=(1, 5000)), "logprob_token_ids .* 5000"),
        ([1], SamplingParams(logprobs=21), "21 alternatives.* 20"),
        ([1] * 250, SamplingParams(min_tokens=10), "min_tokens"),
    ],
)
def test_what_cannot_be_served_is_refused_by_name(llm, prompt, params, message):
    with pytest.raises(InvalidParameter, match=message):
        llm.generate([prompt], params)


def test_a_prompt_without_room_for_an_answer_is_refused(llm):
    with pytest.raises(PromptTooLong, match=r"prompt is too long.*maximum context length is 256 tokens.*300"):
        llm.generate([[1] * 300], GREEDY)
    with pytest.raises(PromptTooLong):
        llm.generate([[1] * 256], GREEDY)


@pytest.mark.parametrize(("side", "kept"), [("left", slice(-7, None)), ("right", slice(7))])
def test_a_cut_prompt_is_as_the_part_that_is_kept(llm, side, kept):
    text = "the quick brown fox " * 30
    ids, params = llm.tokenize(text[:240]), replace(GREEDY, truncate_prompt_tokens=7, truncation_side=side)
    whole = llm.generate([llm.tokenize(text[:240])[kept]], GREEDY)[0]
    assert llm.generate([ids], params)[0] == replace(whole, usage=llm.generate([ids], params)[0].usage)
    assert llm.generate(text, params)[0].usage.prompt_tokens == 7
    assert llm.chat([{"role": "user", "content": text}], params).usage.prompt_tokens == 7
    assert "".join(delta.text for delta in llm.stream(text, params))


def test_more_than_all_of_a_prompt_cannot_be_kept(llm):
    with pytest.raises(InvalidParameter, match="max_model_len=256"):
        llm.generate("abc", SamplingParams(truncate_prompt_tokens=257))


def test_a_priority_is_refused_where_nobody_looks_at_it(llm):
    with pytest.raises(InvalidParameter, match=r"^Got priority 2 but priority scheduling is not enabled"):
        llm.generate("abc", SamplingParams(priority=2))


def test_an_answer_that_repeats_itself_ends(llm):
    params = SamplingParams(temperature=0, max_tokens=200, ignore_eos=True)
    wanted = RepetitionDetection(max_pattern_size=100, min_count=2)
    free = llm.generate("abc", params)[0].choices[0]
    (choice,) = llm.generate("abc", replace(params, repetition_detection=wanted))[0].choices
    assert (choice.finish_reason, choice.stop_reason) == (FinishReason.REPETITION, "repetition_detected")
    num = len(choice.token_ids)
    assert choice.token_ids == free.token_ids[:num] and num < 200
    assert any(
        choice.token_ids[num - size :] == choice.token_ids[num - 2 * size : num - size] for size in range(1, 101)
    )


def test_an_answer_is_clamped_to_the_model_s_length(llm):
    completion = llm.generate([[5] * 250], SamplingParams(temperature=0, max_tokens=100, ignore_eos=True))[0]
    assert completion.usage.completion_tokens == 6
    assert completion.choices[0].finish_reason is FinishReason.LENGTH


async def test_it_works_inside_a_running_loop(llm):
    assert asyncio.get_running_loop().is_running()
    assert llm.chat(MESSAGES, GREEDY).text == llm.chat(MESSAGES, GREEDY).text


def test_threads_may_share_it(llm):
    answers: dict[int, str] = {}
    threads = [
        threading.Thread(target=lambda i=i: answers.update({i: llm.generate("x" * (i + 1), GREEDY)[0].text}))
        for i in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {i: llm.generate("x" * (i + 1), GREEDY)[0].text for i in range(6)}


def test_a_random_load_compiles_nothing_and_leaves_nothing(llm):
    rng, before = np.random.default_rng(0), compile_counter.compiled
    for _ in range(4):
        prompts = [[int(n) for n in rng.integers(0, 256, rng.integers(1, 200))] for _ in range(25)]
        for params in (
            SamplingParams(temperature=0, max_tokens=int(rng.integers(1, 40))),
            SamplingParams(temperature=0.9, top_p=0.9, min_p=0.01, max_tokens=12, logprobs=2, min_tokens=3),
        ):
            assert len(llm.generate(prompts, params)) == len(prompts)
    assert compile_counter.compiled == before
    assert idle(llm)


def test_a_template_s_own_end_of_turn_ends_an_answer_though_the_files_name_another(tiny_path):
    template = "{% for message in messages %}{{ message.content }}<|endoftext|>{% endfor %}"
    with LLM(tiny_path, chat_template=template, **SETTINGS) as llm:
        [end] = llm.tokenize("<|endoftext|>")
        answer = llm.chat(MESSAGES, SamplingParams(allowed_token_ids=(end,), max_tokens=5)).choices[0]
        assert (answer.token_ids, answer.finish_reason) == ((end,), FinishReason.STOP)
        assert answer.text == ""
        assert "<|endoftext|> (the chat template ends answers with it" in llm.description["answers end at"]
