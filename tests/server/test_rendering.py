"""From the body of a request to the text of its prompt: real templates, and a real tokenizer."""

import json

import pytest
from tokenizers.processors import TemplateProcessing

from tests.server.template_llm import (
    ECHO,
    ECHO_TEMPLATE,
    EXTRA,
    LAST,
    OPEN,
    PARTS_TEMPLATE,
    TOOL,
    USER,
    expect_refusal,
    render,
    template_variables,
)


class TestPromptText:
    async def test_it_is_there_on_demand_alone(self, template_api):
        api = template_api()
        whole = (await api.chat(return_prompt_text=True, return_token_ids=True)).json
        assert whole["prompt_text"] == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        assert api.llm.decode(whole["prompt_token_ids"]) == whole["prompt_text"]
        assert "prompt_text" not in (await api.chat()).json

    async def test_a_stream_has_it_in_its_role_chunks(self, template_api):
        api = template_api("x", engine={"max_num_seqs": 8})
        events = (await api.chat(stream=True, n=2, return_prompt_text=True)).events
        assert [event.get("prompt_text") for event in events[:3]] == ["x", "x", None]
        assert all("prompt_text" not in event for event in (await api.chat(stream=True)).events)


class TestRoles:
    async def test_any_role_is_the_template_s_affair(self, template_api):
        assert [
            m["role"]
            for m in (await template_variables(template_api(ECHO_TEMPLATE), {"role": "critic", "content": "x"}))[
                "messages"
            ]
        ] == ["critic"]
        picky = template_api(
            "{% for m in messages %}{{ raise_exception('no ' ~ m.role) if m.role != 'user' }}{% endfor %}"
        )
        error = await expect_refusal(picky, {"role": "critic", "content": "x"})
        assert error["message"] == "The chat template failed: no critic"

    @pytest.mark.parametrize("role", ["system", "user", "assistant", "tool", "function", "developer", "critic"])
    async def test_names_reach_the_template_and_nothing_is_an_empty_text(self, template_api, role):
        message = {"role": role, "name": "Ann", "tool_call_id": None, "content": None}
        api = template_api(ECHO_TEMPLATE + "{# developer #}")
        assert (await template_variables(api, message))["messages"] == [{"role": role, "content": "", "name": "Ann"}]
        assert (await template_variables(api, {"role": role}))["messages"] == [{"role": role, "content": ""}]

    async def test_a_developer_becomes_the_system_where_none_is_known(self, template_api):
        messages = [
            {"role": "system", "content": "a"},
            USER,
            {"role": "developer", "content": ["b", "c"], "tools": [TOOL]},
        ]
        merged = {"role": "system", "content": "a\n\nb\nc", "tools": [TOOL]}
        assert (await template_variables(template_api(ECHO_TEMPLATE), *messages))["messages"] == [merged, USER]
        known = (await template_variables(template_api(ECHO_TEMPLATE + "{# developer #}"), *messages))["messages"]
        assert known[2] == {"role": "developer", "content": "b\nc", "tools": [TOOL]}

    async def test_a_tool_s_parts_are_one_text_whatever_the_format(self, template_api):
        message = {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "a"}, "b"]}
        for content_format in ("string", "openai"):
            api = template_api(ECHO_TEMPLATE, engine={"chat_template_content_format": content_format})
            assert (await template_variables(api, message))["messages"][0] == {
                "role": "tool",
                "tool_call_id": "1",
                "content": "a\nb",
            }

    async def test_reasoning_has_both_names(self, template_api):
        for given in ({"reasoning": "r"}, {"reasoning_content": "r"}, {"reasoning": "r", "reasoning_content": "x"}):
            message = (
                await template_variables(template_api(ECHO_TEMPLATE), {"role": "assistant", "content": "c", **given})
            )["messages"][0]
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
    async def test_arguments_are_objects(self, template_api, arguments, value):
        message = (await template_variables(template_api(ECHO_TEMPLATE), self.turn(self.call(arguments))))["messages"][
            0
        ]
        assert message["tool_calls"][0]["function"] == {"name": "f", "arguments": value}

    async def test_a_call_without_arguments_or_type_is_fine_and_an_empty_list_is_none(self, template_api):
        api = template_api(ECHO_TEMPLATE)
        message = (await template_variables(api, self.turn({"id": "1", "function": {"name": "f"}})))["messages"][0]
        assert message["tool_calls"] == [{"id": "1", "type": "function", "function": {"name": "f", "arguments": {}}}]
        assert "tool_calls" not in (await template_variables(api, self.turn()))["messages"][0]

    @pytest.mark.parametrize("call", [3, {}, {"function": "f"}, {"type": "custom", "function": {"name": "f"}}])
    async def test_what_is_no_call_is_refused(self, template_api, call):
        assert (await expect_refusal(template_api(ECHO_TEMPLATE), self.turn(call)))["param"] == "tool_calls"


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
    async def test_every_part_of_text(self, template_api, part):
        message = {"role": "user", "content": [part, {"type": "text", "text": None}]}
        assert await render(template_api(), message) == await render(template_api(), {"role": "user", "content": "t"})
        assert await render(template_api(PARTS_TEMPLATE), message) == "[user]t;"

    @pytest.mark.parametrize("template", [None, PARTS_TEMPLATE])
    @pytest.mark.parametrize("content_format", ["auto", "string", "openai"])
    async def test_a_string_and_one_part_are_the_same(self, template_api, template, content_format):
        api = template_api(template, engine={"chat_template_content_format": content_format})
        part = {"type": "text", "text": "Hi"}
        assert await render(api, USER) == await render(api, {"role": "user", "content": [part]})

    async def test_several_are_joined_or_listed(self, template_api):
        message = {"role": "user", "content": ["a", "b"]}
        assert "user\na\nb<" in await render(template_api(), message)
        assert await render(template_api(PARTS_TEMPLATE), message) == "[user]a;b;"
        forced = template_api("{{ messages[0].content|tojson }}", engine={"chat_template_content_format": "openai"})
        assert json.loads(await render(forced, message)) == [{"type": "text", "text": one} for one in "ab"]

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
    async def test_other_media_are_refused_by_number(self, template_api, kind, modality):
        api = template_api()
        for part in ({"type": kind, kind: "x"}, {kind: {"url": "http://x/y"}}):
            for role in ("user", "system"):
                error = await expect_refusal(api, {"role": role, "content": ["look", part]})
                assert f"at most 0 {modality} items" in error["message"]

    @pytest.mark.parametrize("part", [{}, {"text": "no type"}, {"type": 3}, {"type": None}, {"type": "hologram"}])
    async def test_an_unknown_kind_names_the_known(self, template_api, part):
        error = await expect_refusal(template_api(), {"role": "user", "content": [part]})
        assert (error["param"], "input_text" in error["message"]) == ("type", True)


class TestVariables:
    async def test_flags_and_documents(self, template_api):
        api = template_api(ECHO_TEMPLATE)
        assert await template_variables(api) == {
            "messages": [USER],
            **dict.fromkeys(("tools", "documents")),
            **{"prompt": True, "continue": False, "effort": "unset", "thinking": "unset", "mood": "unset"},
        }
        documents = [{"title": "t", "text": "x"}]
        assert (await template_variables(api, documents=documents))["documents"] == documents
        assert (await template_variables(api, add_generation_prompt=False))["prompt"] is False
        assert await render(template_api(), documents=documents) == await render(template_api())

    async def test_a_field_wins_over_the_same_name_inside_kwargs_which_counts_alone(self, template_api):
        api = template_api(ECHO_TEMPLATE)
        inside = {
            "documents": [{"a": "kwargs"}],
            "add_generation_prompt": False,
            "reasoning_effort": "low",
            "tools": [TOOL],
        }
        alone = await template_variables(api, chat_template_kwargs=inside)
        assert (alone["documents"], alone["prompt"], alone["effort"]) == ([{"a": "kwargs"}], False, "low")
        assert alone["tools"] == [TOOL]
        fields = {"documents": [{"a": "field"}], "add_generation_prompt": True, "reasoning_effort": "high"}
        both = await template_variables(api, chat_template_kwargs=inside, **fields)
        assert (both["documents"], both["prompt"], both["effort"]) == ([{"a": "field"}], True, "high")

    @pytest.mark.parametrize("effort", ["none", "minimal", "low", "medium", "high", "xhigh", "max"])
    async def test_an_effort_switches_thinking(self, template_api, effort):
        api = template_api(ECHO_TEMPLATE, default_chat_template_kwargs={"enable_thinking": True})
        found = await template_variables(api, reasoning_effort=effort)
        assert (found["effort"], found["thinking"]) == (effort, effort != "none")
        found = await template_variables(api, reasoning_effort=effort, chat_template_kwargs={"enable_thinking": "mine"})
        assert found["thinking"] == "mine"

    async def test_an_effort_may_have_another_word_here(self, template_api):
        api = template_api(ECHO_TEMPLATE, reasoning_effort_map={"xhigh": "high", "minimal": "none"})
        found = await template_variables(api, reasoning_effort="xhigh")
        assert (found["effort"], found["thinking"]) == ("high", True)
        found = await template_variables(api, reasoning_effort="minimal")
        assert (found["effort"], found["thinking"]) == ("none", False)

    async def test_the_server_s_own_variables_give_way(self, template_api):
        api = template_api(ECHO_TEMPLATE, default_chat_template_kwargs={"mood": "good", "enable_thinking": False})
        assert [(await template_variables(api))[name] for name in ("mood", "thinking")] == ["good", False]
        assert (await template_variables(api, chat_template_kwargs={"mood": "bad"}))["mood"] == "bad"

    async def test_unused_variables_change_nothing(self, template_api):
        assert await render(template_api(), chat_template_kwargs={"a": 1}) == await render(template_api())

    async def test_special_tokens_are_added_on_demand(self, template_api):
        api = template_api()
        tokenizer, start = api.llm.tokenizer, "<|im_start|>"
        special_tokens = [(start, tokenizer.backend.token_to_id(start))]
        tokenizer.backend.post_processor = TemplateProcessing(single=start + " $A", special_tokens=special_tokens)
        plain, added = [
            (await api.chat(add_special_tokens=added, return_token_ids=True)).json["prompt_token_ids"]
            for added in (None, True)
        ]
        assert added == [special_tokens[0][1], *plain]


class TestTools:
    async def test_they_are_shown_although_none_may_be_called(self, template_api):
        found = await template_variables(template_api(ECHO_TEMPLATE), tools=[TOOL, EXTRA], tool_choice="none")
        assert found["tools"] == [TOOL, EXTRA]
        assert json.dumps(found["tools"][1]).startswith('{"type": "function", "function": {"name": "g"')

    async def test_the_server_may_hide_them(self, template_api):
        api = template_api(ECHO_TEMPLATE, exclude_tools_when_tool_choice_none=True)
        assert (await template_variables(api, tools=[TOOL], tool_choice="none"))["tools"] is None

    @pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "f"}}])
    async def test_they_are_shown_if_one_must_be_called(self, template_api, choice):
        assert (await template_variables(template_api(ECHO_TEMPLATE), tools=[TOOL], tool_choice=choice))["tools"] == [
            TOOL
        ]

    async def test_the_variant_for_tools_is_used(self, template_api):
        api = template_api({"default": "plain", "tool_use": "tools"})
        assert [await render(api), await render(api, tools=[TOOL], tool_choice="none")] == ["plain", "tools"]

    @pytest.mark.parametrize("most", [1024, 2, 0])
    async def test_more_than_are_allowed_are_refused(self, template_api, most):
        api = template_api("{{ tools|length }}", **({} if most == 1024 else {"max_tools": most}))
        asked = [{"tools": [TOOL] * num, "tool_choice": "none"} for num in (most, most + 1, 40_000)]
        if most:
            assert await render(api, **asked[0]) == str(most)
        for fields in asked[1:]:
            error = await expect_refusal(api, **fields)
            assert error["param"] == "tools" and f"at most {most} are allowed" in error["message"]
            body = {"messages": [USER], "tools": fields["tools"]}
            answer = await api.post("/tokenize", body)
            assert (answer.status, answer.error["param"]) == (400, "tools")

    async def test_too_much_is_refused(self, template_api):
        tools = [{"type": "function", "function": {"name": "f", "description": "x" * (4 << 20)}}]
        assert (await expect_refusal(template_api(ECHO_TEMPLATE), tools=tools, tool_choice="none"))["param"] == "tools"


class TestContinuing:
    @pytest.mark.parametrize("content", ["So it", "So it ", "", ["So", "it "], None])
    async def test_the_prompt_ends_with_the_message(self, template_api, content):
        text = await render(template_api(), USER, {"role": "assistant", "content": content}, **OPEN)
        end = "\n".join(content) if isinstance(content, list) else content or ""
        assert text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n" + end

    @pytest.mark.parametrize("fields", [{}, {"add_generation_prompt": True}, {"add_generation_prompt": None}])
    async def test_both_at_once_is_refused_and_so_is_one_alone(self, template_api, fields):
        error = await expect_refusal(template_api(), continue_final_message=True, **fields)
        assert error["param"] == "continue_final_message"

    async def test_what_is_not_found_again_is_refused(self, template_api):
        for template in ("{{ messages|length }}", "{{ messages[-1].content|upper }}", "{{ messages[0].role }}"):
            error = await expect_refusal(template_api(template), USER, **OPEN)
            assert error["param"] == "continue_final_message"

    async def test_the_answer_has_the_last_message_s_role(self, template_api):
        answer = (await template_api(response_role="bot").chat(messages=[USER], **OPEN)).json
        assert answer["choices"][0]["message"]["role"] == "user"
        assert (await template_api(response_role="bot").chat()).json["choices"][0]["message"]["role"] == "bot"


class TestEcho:
    async def test_it_repeats_the_parts_joined(self, template_api):
        choices = (await template_api().chat(messages=[USER, LAST], **ECHO)).json["choices"]
        assert [choice["message"]["content"] for choice in choices] == ["So\nit Hello world"] * 2

    async def test_a_stream_has_it_once_per_choice_behind_the_roles(self, template_api):
        fields = {**ECHO, "stream": True, "return_token_ids": True, "logprobs": True}
        events = (await template_api().chat(messages=[USER, LAST], **fields)).events
        choices = [event["choices"][0] for event in events[:4]]
        assert [choice["delta"].get("role") for choice in choices] == ["assistant", "assistant", None, None]
        assert [(c["index"], c["delta"], c["logprobs"], c.get("token_ids")) for c in choices[2:]] == [
            (index, {"content": "So\nit "}, None, None) for index in range(2)
        ]

    async def test_another_role_or_nothing_is_not_repeated(self, template_api):
        assert (await template_api().chat(echo=True)).json["choices"][0]["message"]["content"] == "Hello world"
        nothing = {"role": "assistant", "content": None}
        answer = (await template_api().chat(messages=[USER, nothing], **ECHO)).json
        assert answer["choices"][0]["message"]["content"] == "Hello world"


class TestFailures:
    @pytest.mark.parametrize(
        "template",
        ["{{ 1 / 0 }}", "{{ messages.x.y }}", "{{ 'a' + 1 }}", "{{ range }}", "{{ messages[0].content.upper }}"],
    )
    async def test_the_reason_is_short_and_shows_nothing_of_us(self, template_api, template):
        assert (await expect_refusal(template_api(template)))["message"].startswith("The chat template failed: ")

    async def test_no_template_is_a_400(self, template_api):
        assert "--chat-template" in (await expect_refusal(template_api({})))["message"]

    async def test_a_model_s_own_template_has_a_time_limit_too(self, template_api):
        api = template_api(
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
            engine={"template_timeout_s": 0.2},
        )
        assert "takes too long" in (await expect_refusal(api))["message"]

    async def test_it_is_checked_after_the_model_s_name_and_before_the_stream(self, template_api):
        api = template_api("{{ 1 / 0 }}")
        assert (await api.chat(model="nobody")).status == 404
        answer = await api.chat(stream=True)
        assert (answer.status, answer.headers["Content-Type"]) == (400, "application/json")
