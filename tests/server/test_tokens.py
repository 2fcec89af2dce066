"""/tokenize, /tokenizer_info, and the two /render endpoints."""

import json
from dataclasses import asdict

import pytest

from tests.server.template_llm import ECHO_TEMPLATE, OPEN, TOOL, USER


class TestTokenize:
    FIELDS = (
        {},
        {"add_generation_prompt": False},
        {"add_special_tokens": True},
        {"tools": [TOOL], "tool_choice": "none"},
        {"chat_template_kwargs": {"mood": "x", "documents": [{"a": "b"}]}},
        {"documents": [{"a": "b"}]},
        {"reasoning_effort": "none"},
        {"chat_template": "{{ messages[0].content }}!"},
        OPEN,
    )

    @pytest.mark.parametrize("fields", FIELDS, ids=str)
    async def test_it_counts_what_chat_would_feed(self, template_api, fields):
        api = template_api(ECHO_TEMPLATE, trust_request_chat_template=True, default_chat_template_kwargs={"mood": "?"})
        if fields == OPEN:
            api = template_api()
        body = {"messages": [USER], **fields}
        fed = (await api.post("/v1/chat/completions", {**body, "return_token_ids": True})).json["prompt_token_ids"]
        assert (await api.post("/tokenize", body)).json["tokens"] == fed

    async def test_tools_need_no_choice_and_may_be_empty(self, template_api):
        api = template_api(ECHO_TEMPLATE)
        with_tools = (await api.post("/tokenize", {"messages": [USER], "tools": [TOOL]})).json["tokens"]
        assert json.loads(api.llm.decode(with_tools))["tools"] == [TOOL]
        assert (await api.post("/tokenize", {"messages": [USER], "tools": []})).json["count"] < len(with_tools)

    async def test_pieces_are_raw(self, template_api):
        answer = (
            await template_api().post("/tokenize", {"prompt": "the fox<|im_end|>", "return_token_strs": True})
        ).json
        assert answer["token_strs"][-1] == "<|im_end|>"
        assert "".join(answer["token_strs"]).startswith("theĠ")

    @pytest.mark.parametrize(
        ("fields", "param"),
        [
            ({"chat_template": "x"}, "chat_template"),
            ({"chat_template_kwargs": {"tokenize": True}}, "chat_template_kwargs"),
            ({"continue_final_message": True}, "continue_final_message"),
            ({"mm_processor_kwargs": {"a": 1}}, "mm_processor_kwargs"),
            ({"reasoning_effort": "extreme"}, "reasoning_effort"),
            ({"prompt": "x"}, "prompt"),
        ],
    )
    async def test_the_same_is_refused(self, template_api, fields, param):
        answer = await template_api().post("/tokenize", {"messages": [USER], **fields})
        assert (answer.status, answer.error["param"]) == (400, param)

    async def test_neither_prompt_nor_messages_is_a_body_that_lacks_something(self, template_api):
        answer = await template_api().post("/tokenize", {})
        assert (answer.status, answer.error["type"], answer.error["param"]) == (400, "Bad Request", "body.prompt")


class TestTokenizerInfo:
    async def test_it_needs_a_flag(self, template_api, make_api):
        assert (await template_api().get("/tokenizer_info")).status == 404
        shown = (await make_api(enable_tokenizer_info_endpoint=True).get("/tokenizer_info")).json
        assert shown == {"tokenizer_class": "Fake", "chat_template": "{{ messages }}"}
        several = template_api({"default": "a", "tool_use": "b"}, enable_tokenizer_info_endpoint=True)
        assert (await several.get("/tokenizer_info")).json["chat_template"] == {"default": "a", "tool_use": "b"}


class TestRender:
    async def test_chat_is_what_would_run(self, template_api):
        api = template_api()
        body = {"messages": [USER], "max_tokens": 5, "seed": 7, "temperature": 0.5, "request_id": "mine"}
        shown = (await api.post("/v1/chat/completions/render", {**body, "return_prompt_text": True})).json
        assert not api.llm.calls
        fed = (await api.post("/v1/chat/completions", {**body, "return_token_ids": True})).json["prompt_token_ids"]
        assert (shown["request_id"], shown["model"], shown["token_ids"]) == ("chatcmpl-mine", "fake/model", fed)
        ran = {name: value for name, value in asdict(api.llm.calls[-1].params).items() if name != "given"}
        assert shown["sampling_params"] == json.loads(json.dumps(ran))
        assert shown["stream"] is False
        assert shown["prompt_text"] == api.llm.decode(fed)

    async def test_completions_are_an_array(self, template_api):
        api = template_api()
        body = {"prompt": ["the", "fox"], "max_tokens": 3, "request_id": "mine", "stream": True}
        shown = (await api.post("/v1/completions/render", body)).json
        assert [one["request_id"] for one in shown] == ["cmpl-mine-0", "cmpl-mine-1"]
        assert [one["stream"] for one in shown] == [True, True]
        assert [one["token_ids"] for one in shown] == [await api.llm.encode(text) for text in ("the", "fox")]
        assert (shown[0]["sampling_params"]["max_tokens"], api.llm.calls) == (3, [])

    async def test_offsets_say_where_each_token_stands(self, template_api):
        api = template_api()
        body = {"messages": [{"role": "user", "content": "Grüße, 世界"}], "return_prompt_text": True}
        shown = (await api.post("/v1/chat/completions/render", {**body, "return_token_offsets": True})).json
        text, offsets = shown["prompt_text"], shown["token_offsets"]
        assert offsets == [list(each) for each in api.llm.tokenizer.find_offsets(text, False)]
        assert "".join(text[start:end] for start, end in dict.fromkeys(map(tuple, offsets))) == text
        assert (await api.post("/v1/chat/completions/render", body)).json["token_offsets"] is None

    async def test_offsets_are_truncated_as_the_prompt_is(self, template_api):
        api = template_api()
        body = {"prompt": ["the quick fox", "the fox"], "max_tokens": 3, "return_token_offsets": True}
        whole = (await api.post("/v1/completions/render", body)).json
        for side, kept in (("left", slice(-2, None)), ("right", slice(2))):
            cut = {**body, "truncate_prompt_tokens": 2, "truncation_side": side}
            for before, after in zip(whole, (await api.post("/v1/completions/render", cut)).json, strict=True):
                assert after["token_ids"] == before["token_ids"][kept]
                assert after["token_offsets"] == before["token_offsets"][kept]

    async def test_token_ids_have_no_offsets(self, template_api):
        body = {"prompt": [5, 6], "max_tokens": 3, "return_token_offsets": True}
        assert (await template_api().post("/v1/completions/render", body)).json[0]["token_offsets"] is None

    @pytest.mark.parametrize(
        ("path", "body", "status"),
        [
            ("/v1/chat/completions/render", {}, 400),
            ("/v1/chat/completions/render", {"messages": [USER], "model": "nobody"}, 404),
            ("/v1/chat/completions/render", {"messages": [{"role": "user", "content": "x" * 9000}]}, 400),
            ("/v1/completions/render", {"prompt": []}, 400),
            ("/v1/completions/render", {"prompt": "x", "model": "nobody"}, 404),
        ],
        ids=str,
    )
    async def test_it_refuses_what_running_refuses(self, template_api, path, body, status):
        answer = await template_api().post(path, body)
        ran = await template_api().post(path.removesuffix("/render"), body)
        assert (answer.status, answer.text) == (ran.status, ran.text)
        assert answer.status == status
