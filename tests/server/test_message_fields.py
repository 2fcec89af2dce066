"""The messages of a chat request: what is read, and what is refused by name."""

from jaxserve import SamplingParams


async def params_of(api, **fields) -> SamplingParams:
    answer = await api.chat(**fields)
    assert answer.status == 200, answer.text
    return api.llm.calls[-1].params


class TestMessages:
    async def render(self, api, *messages, **fields):
        answer = await api.chat(messages=list(messages), **fields)
        assert answer.status == 200, answer.text
        return api.llm.rendered[-1]

    async def test_more_than_are_allowed_are_refused(self, api):
        message = {"role": "user", "content": "Hi"}
        most = await api.chat(messages=[message] * 16384)
        assert (most.status, most.error["param"]) == (400, "messages") and "maximum context length" in most.text
        for number in (16385, 100_000):
            answer = await api.chat(messages=[message] * number)
            assert (answer.status, answer.error["param"]) == (400, "body.messages")
            assert "at most 16384" in answer.error["message"]
        assert (await api.chat(messages=[message])).status == 200

    async def test_they_reach_the_template_as_they_came(self, api):
        call = {"id": "1", "function": {"name": "f", "arguments": "{}"}}
        turns = [
            {"role": "user", "content": ["a", {"type": "text", "text": "b"}], "name": "N"},
            {"role": "assistant", "tool_calls": [call], "reasoning_content": "why", "reasoning": "because"},
            {"role": "tool", "content": "x", "tool_call_id": "1"},
            {"role": "narrator", "content": None},
        ]
        seen = await self.render(api, *turns)
        assert seen["messages"] == [*turns[:3], {"role": "narrator"}]

    async def test_keys_that_nobody_knows_do_not(self, api):
        seen = await self.render(api, {"role": "user", "content": "x", "mood": "dark", "audio": {}})
        assert seen["messages"] == [{"role": "user", "content": "x"}]

    async def test_too_many_parts_are_refused(self, api):
        answer = await api.chat(messages=[{"role": "user", "content": ["x"] * 65537}])
        assert (answer.status, answer.error["param"]) == (400, "messages")

    async def test_tools_of_a_developer_reach_the_template(self, api):
        message = {"role": "developer", "content": "x", "tools": [{"any": "thing"}]}
        assert (await self.render(api, message))["messages"] == [message]

    async def test_template_fields_reach_the_template(self, api):
        seen = await self.render(
            api,
            {"role": "user", "content": "x"},
            documents=[{"title": "t"}],
            chat_template_kwargs={"a": 1},
            reasoning_effort="none",
            add_special_tokens=True,
            add_generation_prompt=False,
        )
        assert seen["documents"] == [{"title": "t"}]
        assert seen["template_kwargs"] == {"a": 1, "enable_thinking": False, "reasoning_effort": "none"}
        assert (seen["add_special_tokens"], seen["add_generation_prompt"]) == (True, False)

    async def test_a_prompt_for_an_answer_is_added_and_special_tokens_are_not(self, api):
        seen = await self.render(api, {"role": "user", "content": "x"})
        assert (seen["add_special_tokens"], seen["add_generation_prompt"]) == (False, True)

    async def test_continuing_needs_no_prompt_for_an_answer(self, api):
        last = {"role": "assistant", "content": "so"}
        seen = await self.render(api, last, continue_final_message=True, add_generation_prompt=False)
        assert (seen["continue_final_message"], seen["add_generation_prompt"]) == (True, False)
