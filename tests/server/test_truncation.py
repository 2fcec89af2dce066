"""truncate_prompt_tokens and truncation_side through both routes: what is read, counted, echoed and scored."""

import pytest

from tests.fake_llm import BOS, CONTEXT

PROMPT = [ord(one) for one in "abcdefghij"]
TEXT = "abcdefghij"


def chat(text):
    return [{"role": "user", "content": text}]


async def read(answer, api):
    assert answer.status == 200, answer.text
    return "".join(map(chr, api.llm.calls[-1].prompt_ids))


@pytest.mark.parametrize("prompt", [TEXT, PROMPT, [TEXT], [PROMPT]], ids=str)
@pytest.mark.parametrize(("fields", "kept"), [({}, "hij"), ({"truncation_side": "right"}, "abc")], ids=str)
async def test_every_form_of_a_prompt_is_cut(api, prompt, fields, kept):
    answer = await api.complete(
        prompt=prompt, truncate_prompt_tokens=3, return_token_ids=True, add_special_tokens=False, **fields
    )
    assert await read(answer, api) == kept
    assert answer.json["usage"]["prompt_tokens"] == 3
    assert answer.json["choices"][0]["prompt_token_ids"] == [ord(one) for one in kept]


async def test_messages_are_cut_after_the_template(api):
    answer = await api.chat(messages=chat(TEXT), truncate_prompt_tokens=4, return_token_ids=True)
    assert await read(answer, api) == "hij|"
    assert answer.json["usage"]["prompt_tokens"] == len(answer.json["prompt_token_ids"]) == 4
    answer = await api.chat(messages=chat(TEXT), truncate_prompt_tokens=4, truncation_side="right")
    assert await read(answer, api) == "u:ab"


@pytest.mark.parametrize("kept", [12, 63, 64, -1])
async def test_a_shorter_prompt_is_left_as_it_is(api, kept):
    answer = await api.complete(prompt=TEXT, truncate_prompt_tokens=kept, echo=True)
    assert await read(answer, api) == chr(BOS) + TEXT
    assert answer.json["choices"][0]["text"] == TEXT + "Hello world"


async def test_minus_one_leaves_room_for_one_token_of_a_prompt_of_any_length(api):
    for answer in (
        await api.complete(prompt="x" * 600, truncate_prompt_tokens=-1),
        await api.complete(prompt=[120] * 600, truncate_prompt_tokens=-1),
        await api.chat(messages=chat("x" * 600), truncate_prompt_tokens=-1),
    ):
        assert answer.status == 200, answer.text
        assert len(api.llm.calls[-1].prompt_ids) == CONTEXT - 1
        assert (answer.json["choices"][0]["finish_reason"], answer.json["usage"]["completion_tokens"]) == ("length", 1)


async def test_all_the_context_leaves_no_room(api):
    answer = await api.complete(prompt="x" * 600, truncate_prompt_tokens=CONTEXT)
    assert (answer.status, answer.error["param"]) == (400, "prompt")
    assert f"maximum context length is {CONTEXT} tokens" in answer.error["message"]


async def test_a_text_without_end_is_refused_though_it_would_be_cut(api):
    answer = await api.complete(prompt="x" * 100_000, truncate_prompt_tokens=5)
    assert (answer.status, answer.error["param"]) == (400, "prompt")


async def test_ids_that_would_be_cut_off_are_looked_at_all_the_same(api):
    answer = await api.complete(prompt=[5000, *PROMPT], truncate_prompt_tokens=3)
    assert (answer.status, "5000" in answer.error["message"]) == (400, True)


async def test_an_echo_is_what_was_read(api):
    fields = {"truncate_prompt_tokens": 3, "echo": True, "logprobs": 0, "max_tokens": 2}
    choice = (await api.complete(prompt=TEXT, **fields)).json["choices"][0]
    assert choice["text"] == "hijHe"
    assert choice["logprobs"]["tokens"] == list("hijHe")
    assert choice["logprobs"]["text_offset"] == [0, 1, 2, 3, 4]
    choice = (await api.complete(prompt=TEXT, truncation_side="right", **fields)).json["choices"][0]
    assert choice["text"] == f"<{BOS}>abHe"


async def test_prompt_logprobs_are_those_of_what_was_read(api):
    fields = {"truncate_prompt_tokens": 3, "prompt_logprobs": 0}
    table = (await api.complete(prompt=PROMPT, **fields)).json["choices"][0]["prompt_logprobs"]
    assert [None if one is None else list(one) for one in table] == [None, [str(ord("i"))], [str(ord("j"))]]
    table = (await api.chat(messages=chat(TEXT), **fields)).json["prompt_logprobs"]
    assert [None if one is None else list(one) for one in table] == [None, [str(ord("j"))], [str(ord("|"))]]
