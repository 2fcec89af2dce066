"""From the body of a request to the text of its prompt: real templates, and a real tokenizer."""

import json

import pytest
from tokenizers.processors import TemplateProcessing

from tests.server.reading import ECHO, EXTRA, LAST, OPEN, PARTS, SHOWS, TOOL, USER, prompt, refused, seen


class TestPromptText:
    async def test_it_is_there_on_demand_alone(self, reading):
        api = reading()
        whole = (await api.chat(return_prompt_text=True, return_token_ids=True)).json
        assert whole["prompt_text"] == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        assert api.llm.decode(whole["prompt_token_ids"]) == whole["prompt_text"]
        assert "prompt_text" not in (await api.chat()).json

    async def test_a_stream_has_it_in_its_role_chunks(self, reading):
        api = reading("x", engine={"max_num_seqs": 8})
        events = (await api.chat(stream=True, n=2, return_prompt_text=True)).events
        assert [event.get("prompt_text") for event in events[:3]] == ["x", "x", None]
        assert all("prompt_text" not in event for event in (await api.chat(stream=True)).events)


class TestRoles:
    async def test_any_role_is_the_template_s_affair(self, reading):
        assert [m["role"] for m in (await seen(reading(SHOWS), {"role": "critic", "content": "x"}))["messages"]] == [
            "critic"
        ]
        picky = reading("{% for m in messages %}{{ raise_exception('no ' ~ m.role) if m.role != 'user' }}{% endfor %}")
        error = await refused(picky, {"role": "critic", "content": "x"})
        assert error["message"] == "The chat template failed: no critic"

    @pytest.mark.parametrize("role", ["system", "user", "assistant", "tool", "function", "developer", "critic"])
    async def test_names_reach_the_template_and_nothing_is_an_empty_text(self, reading, role):
        message = {"role": role, "name": "Ann", "tool_call_id": None, "content": None}
        api = reading(SHOWS + "{# developer #}")
        assert (await seen(api, message))["messages"] == [{"role": role, "content": "", "name": "Ann"}]
        assert (await seen(api, {"role": role}))["messages"] == [{"role": role, "content": ""}]

    async def test_a_developer_becomes_the_system_where_none_is_known(self, reading):
        messages = [
            {"role": "system", "content": "a"},
            USER,
            {"role": "developer", "content": ["b", "c"], "tools": [TOOL]},
        ]
        merged = {"role": "system", "content": "a\n\nb\nc", "tools": [TOOL]}
        assert (await seen(reading(SHOWS), *messages))["messages"] == [merged, USER]
        known = (await seen(reading(SHOWS + "{# developer #}"), *messages))["messages"]
        assert known[2] == {"role": "developer", "content": "b\nc", "tools": [TOOL]}

    async def test_a_tool_s_parts_are_one_text_whatever_the_format(self, reading):
        message = {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "a"}, "b"]}
        for content_format in ("string", "openai"):
            api = reading(SHOWS, engine={"chat_template_content_format": content_format})
            assert (await seen(api, message))["messages"][0] == {
                "role": "tool",
                "tool_call_id": "1",
                "content": "a\nb",
            }

    async def test_reasoning_has_both_names(self, reading):
        for given in ({"reasoning": "r"}, {"reasoning_content": "r"}, {"reasoning": "r", "reasoning_content": "x"}):
            message = (await seen(reading(SHOWS), {"role": "assistant", "content": "c", **given}))["messages"][0]
            assert (message["reasoning"], message["reasoning_content"]) == ("r", "r")


class TestCalls:
    def turn(self, *calls, **fields):
        return {"role": "assistant", "content": None, "tool_calls": list(calls), **fields}

    def call(self, arguments, **fields):
        return {"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}, **fields}

    @pytest.mark.parametrize(
        ("arguments", "value"),
        [('{"a": null}', {"a": None}), ({"a": None}, {"a": None}), *((bad, {}) for bad in ("", "{", "[1]", None, 3))],
    )
    async def test_arguments_are_objects(self, reading, arguments, value):
        message = (await seen(reading(SHOWS), self.turn(self.call(arguments))))["messages"][0]
        assert message["tool_calls"][0]["function"] == {"name": "f", "arguments": value}

    async def test_a_call_without_arguments_or_type_is_fine_and_an_empty_list_is_none(self, reading):
        api = reading(SHOWS)
        message = (await seen(api, self.turn({"id": "1", "function": {"name": "f"}})))["messages"][0]
        assert message["tool_calls"] == [{"id": "1", "type": "function", "function": {"name": "f", "arguments": {}}}]
        assert "tool_calls" not in (await seen(api, self.turn()))["messages"][0]

    @pytest.mark.parametrize("call", [3, {}, {"function": "f"}, {"type": "custom", "function": {"name": "f"}}])
    async def test_what_is_no_call_is_refused(self, reading, call):
        assert (await refused(reading(SHOWS), self.turn(call)))["param"] == "tool_calls"


class TestContent:
    @pytest.mark.parametrize(
        "part",
        [
            "t",
            {"type": "text", "text": "t"},
            {"type": "input_text", "text": "t"},
            {"type": "output_text", "text": "t"},
            {"type": "refusal", "refusal": "t"},
            {"type": "thinking", "thinking": "t"},
            {"type": "tool_reference", "name": "t"},
        ],
        ids=str,
    )
    async def test_every_part_of_text(self, reading, part):
        message = {"role": "user", "content": [part, {"type": "text", "text": None}]}
        assert await prompt(reading(), message) == await prompt(reading(), {"role": "user", "content": "t"})
        assert await prompt(reading(PARTS), message) == "[user]t;"

    @pytest.mark.parametrize("template", [None, PARTS])
    @pytest.mark.parametrize("content_format", ["auto", "string", "openai"])
    async def test_a_string_and_one_part_are_the_same(self, reading, template, content_format):
        api = reading(template, engine={"chat_template_content_format": content_format})
        part = {"type": "text", "text": "Hi"}
        assert await prompt(api, USER) == await prompt(api, {"role": "user", "content": [part]})

    async def test_several_are_joined_or_listed(self, reading):
        message = {"role": "user", "content": ["a", "b"]}
        assert "user\na\nb<" in await prompt(reading(), message)
        assert await prompt(reading(PARTS), message) == "[user]a;b;"
        forced = reading("{{ messages[0].content|tojson }}", engine={"chat_template_content_format": "openai"})
        assert json.loads(await prompt(forced, message)) == [{"type": "text", "text": one} for one in "ab"]

    @pytest.mark.parametrize(
        ("kind", "modality"),
        [
            ("image_url", "image"),
            ("input_image", "image"),
            ("image_pil", "image"),
            ("image_embeds", "image"),
            ("input_audio", "audio"),
            ("audio_url", "audio"),
            ("audio_embeds", "audio"),
            ("video_url", "video"),
            ("video_embeds", "video"),
            ("prompt_embeds", "prompt embedding"),
        ],
    )
    async def test_other_media_are_refused_by_number(self, reading, kind, modality):
        api = reading()
        for part in ({"type": kind, kind: "x"}, {kind: {"url": "http://x/y"}}):
            for role in ("user", "system"):
                error = await refused(api, {"role": role, "content": ["look", part]})
                assert f"at most 0 {modality} items" in error["message"]

    @pytest.mark.parametrize("part", [{}, {"text": "no type"}, {"type": 3}, {"type": None}, {"type": "hologram"}])
    async def test_an_unknown_kind_names_the_known(self, reading, part):
        error = await refused(reading(), {"role": "user", "content": [part]})
        assert (error["param"], "input_text" in error["message"]) == ("type", True)


class TestVariables:
    async def test_flags_and_documents(self, reading):
        api = reading(SHOWS)
        assert await seen(api) == {
            "messages": [USER],
            **dict.fromkeys(("tools", "documents")),
            **{"prompt": True, "continue": False, "effort": "unset", "thinking": "unset", "mood": "unset"},
        }
        documents = [{"title": "t", "text": "x"}]
        assert (await seen(api, documents=documents))["documents"] == documents
        assert (await seen(api, add_generation_prompt=False))["prompt"] is False
        assert await prompt(reading(), documents=documents) == await prompt(reading())

    async def test_a_field_wins_over_the_same_name_inside_kwargs_which_counts_alone(self, reading):
        api = reading(SHOWS)
        inside = {
            "documents": [{"a": "kwargs"}],
            "add_generation_prompt": False,
            "reasoning_effort": "low",
            "tools": [TOOL],
        }
        alone = await seen(api, chat_template_kwargs=inside)
        assert (alone["documents"], alone["prompt"], alone["effort"]) == ([{"a": "kwargs"}], False, "low")
        assert alone["tools"] == [TOOL]
        fields = {"documents": [{"a": "field"}], "add_generation_prompt": True, "reasoning_effort": "high"}
        both = await seen(api, chat_template_kwargs=inside, **fields)
        assert (both["documents"], both["prompt"], both["effort"]) == ([{"a": "field"}], True, "high")

    @pytest.mark.parametrize("effort", ["none", "minimal", "low", "medium", "high", "xhigh", "max"])
    async def test_an_effort_switches_thinking(self, reading, effort):
        api = reading(SHOWS, default_chat_template_kwargs={"enable_thinking": True})
        found = await seen(api, reasoning_effort=effort)
        assert (found["effort"], found["thinking"]) == (effort, effort != "none")
        found = await seen(api, reasoning_effort=effort, chat_template_kwargs={"enable_thinking": "mine"})
        assert found["thinking"] == "mine"

    async def test_an_effort_may_have_another_word_here(self, reading):
        api = reading(SHOWS, reasoning_effort_map={"xhigh": "high", "minimal": "none"})
        found = await seen(api, reasoning_effort="xhigh")
        assert (found["effort"], found["thinking"]) == ("high", True)
        found = await seen(api, reasoning_effort="minimal")
        assert (found["effort"], found["thinking"]) == ("none", False)

    async def test_the_server_s_own_variables_give_way(self, reading):
        api = reading(SHOWS, default_chat_template_kwargs={"mood": "good", "enable_thinking": False})
        assert [(await seen(api))[name] for name in ("mood", "thinking")] == ["good", False]
        assert (await seen(api, chat_template_kwargs={"mood": "bad"}))["mood"] == "bad"

    async def test_unused_variables_change_nothing(self, reading):
        assert await prompt(reading(), chat_template_kwargs={"a": 1}) == await prompt(reading())

    async def test_special_tokens_are_added_on_demand(self, reading):
        api = reading()
        tokenizer, start = api.llm.tokenizer, "<|im_start|>"
        special_tokens = [(start, tokenizer.backend.token_to_id(start))]
        tokenizer.backend.post_processor = TemplateProcessing(single=start + " $A", special_tokens=special_tokens)
        plain, added = [
            (await api.chat(add_special_tokens=added, return_token_ids=True)).json["prompt_token_ids"]
            for added in (None, True)
        ]
        assert added == [special_tokens[0][1], *plain]


class TestTools:
    async def test_they_are_shown_although_none_may_be_called(self, reading):
        found = await seen(reading(SHOWS), tools=[TOOL, EXTRA], tool_choice="none")
        assert found["tools"] == [TOOL, EXTRA]
        assert json.dumps(found["tools"][1]).startswith('{"type": "function", "function": {"name": "g"')

    async def test_the_server_may_hide_them(self, reading):
        api = reading(SHOWS, exclude_tools_when_tool_choice_none=True)
        assert (await seen(api, tools=[TOOL], tool_choice="none"))["tools"] is None

    @pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "f"}}])
    async def test_they_are_shown_if_one_must_be_called(self, reading, choice):
        assert (await seen(reading(SHOWS), tools=[TOOL], tool_choice=choice))["tools"] == [TOOL]

    async def test_the_variant_for_tools_is_used(self, reading):
        api = reading({"default": "plain", "tool_use": "tools"})
        assert [await prompt(api), await prompt(api, tools=[TOOL], tool_choice="none")] == ["plain", "tools"]

    async def test_too_much_is_refused(self, reading):
        tools = [{"type": "function", "function": {"name": "f", "description": "x" * (4 << 20)}}]
        assert (await refused(reading(SHOWS), tools=tools, tool_choice="none"))["param"] == "tools"


class TestContinuing:
    @pytest.mark.parametrize("content", ["So it", "So it ", "", ["So", "it "], None])
    async def test_the_prompt_ends_with_the_message(self, reading, content):
        text = await prompt(reading(), USER, {"role": "assistant", "content": content}, **OPEN)
        end = "\n".join(content) if isinstance(content, list) else content or ""
        assert text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n" + end

    @pytest.mark.parametrize("fields", [{}, {"add_generation_prompt": True}, {"add_generation_prompt": None}])
    async def test_both_at_once_is_refused_and_so_is_one_alone(self, reading, fields):
        error = await refused(reading(), continue_final_message=True, **fields)
        assert error["param"] == "continue_final_message"

    async def test_what_is_not_found_again_is_refused(self, reading):
        for template in ("{{ messages|length }}", "{{ messages[-1].content|upper }}", "{{ messages[0].role }}"):
            error = await refused(reading(template), USER, **OPEN)
            assert error["param"] == "continue_final_message"

    async def test_the_answer_has_the_last_message_s_role(self, reading):
        answer = (await reading(response_role="bot").chat(messages=[USER], **OPEN)).json
        assert answer["choices"][0]["message"]["role"] == "user"
        assert (await reading(response_role="bot").chat()).json["choices"][0]["message"]["role"] == "bot"


class TestEcho:
    async def test_it_repeats_the_parts_joined(self, reading):
        choices = (await reading().chat(messages=[USER, LAST], **ECHO)).json["choices"]
        assert [choice["message"]["content"] for choice in choices] == ["So\nit Hello world"] * 2

    async def test_a_stream_has_it_once_per_choice_behind_the_roles(self, reading):
        fields = {**ECHO, "stream": True, "return_token_ids": True, "logprobs": True}
        events = (await reading().chat(messages=[USER, LAST], **fields)).events
        choices = [event["choices"][0] for event in events[:4]]
        assert [choice["delta"].get("role") for choice in choices] == ["assistant", "assistant", None, None]
        assert [(c["index"], c["delta"], c["logprobs"], c.get("token_ids")) for c in choices[2:]] == [
            (index, {"content": "So\nit "}, None, None) for index in range(2)
        ]

    async def test_another_role_or_nothing_is_not_repeated(self, reading):
        assert (await reading().chat(echo=True)).json["choices"][0]["message"]["content"] == "Hello world"
        nothing = {"role": "assistant", "content": None}
        answer = (await reading().chat(messages=[USER, nothing], **ECHO)).json
        assert answer["choices"][0]["message"]["content"] == "Hello world"


class TestFailures:
    @pytest.mark.parametrize(
        "template",
        ["{{ 1 / 0 }}", "{{ messages.x.y }}", "{{ 'a' + 1 }}", "{{ range }}", "{{ messages[0].content.upper }}"],
    )
    async def test_the_reason_is_short_and_shows_nothing_of_us(self, reading, template):
        assert (await refused(reading(template)))["message"].startswith("The chat template failed: ")

    async def test_no_template_is_a_400(self, reading):
        assert "--chat-template" in (await refused(reading({})))["message"]

    async def test_a_model_s_own_template_has_a_time_limit_too(self, reading):
        api = reading(
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
            engine={"template_timeout_s": 0.2},
        )
        assert "takes too long" in (await refused(api))["message"]

    async def test_it_is_checked_after_the_model_s_name_and_before_the_stream(self, reading):
        api = reading("{{ 1 / 0 }}")
        assert (await api.chat(model="nobody")).status == 404
        answer = await api.chat(stream=True)
        assert (answer.status, answer.headers["Content-Type"]) == (400, "application/json")
