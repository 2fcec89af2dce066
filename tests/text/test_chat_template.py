"""Prompts equal those of Hugging Face's apply_chat_template; errors of templates are errors of the request."""

import json

import pytest

from jaxserve.errors import BadConfig, InvalidParameter
from jaxserve.text.chat_template import RESERVED_KWARGS, ChatTemplate, ChatTemplates, read_template
from jaxserve.text.content_format import analyze_content
from jaxserve.text.sandbox import compile_template, parse_template
from jaxserve.text.template_text import extract_template_text
from jaxserve.text.tokenizer import Tokenizer
from tests import assets
from tests.text.tiny_tokenizers import TEMPLATE

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "What's the weather <in> Zürich & elsewhere?",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
TALK = [
    {"role": "system", "content": "Be kind. "},
    {"role": "user", "content": " Hi\nthere é😀"},
    {"role": "assistant", "content": "Hello!\n"},
    {"role": "user", "content": "And?"},
]
CALLS = [
    {"role": "user", "content": "Weather?"},
    {"role": "assistant", "content": "", "tool_calls": [
        {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Zürich"}}}]},
    {"role": "tool", "tool_call_id": "c1", "name": "get_weather", "content": "sunny"},
    {"role": "user", "content": "Thanks"},
]  # fmt: skip
# Written for these tests after what Llama 3.1's, Qwen3's and Mistral's templates do.
LLAMA_LIKE = """{{- bos_token }}
{%- if not date_string is defined %}{% set date_string = "26 Jul 2024" %}{% endif -%}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}{%- set system_message = "" %}{% endif %}
{{- "<|system|>\\n" }}{{ "Today: " + date_string + "\\n" }}
{%- if tools is not none %}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
{%- endif %}
{{- system_message }}{{ eos_token }}
{%- for message in messages %}
    {%- if not (message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|' + message['role'] + '|>\\n' + message['content'] | trim + eos_token }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}{{- raise_exception("Only single calls!") }}{%- endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- '{"name": "' + call.name + '", "parameters": ' }}{{- call.arguments | tojson }}{{- "}" }}
    {%- elif message.role == "tool" %}
        {{- "<|ipython|>\\n" }}
        {%- if message.content is mapping or message.content is iterable %}{{- message.content | tojson }}
        {%- else %}{{- message.content }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>\\n' }}{%- endif %}
"""
THINKING_LIKE = """{%- set ns = namespace(last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if message.role == "user" and ns.last == messages|length - 1 %}{% set ns.last = index %}{% endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}{% set content = message.content %}{% else %}{% set content = '' %}{%- endif %}
    {%- if message.role == "assistant" %}
        {%- set reasoning = '' %}
        {%- if message.reasoning_content is string %}{%- set reasoning = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set reasoning = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.last or (not loop.last and reasoning) %}
            {{- '<|a|>\\n<think>\\n' + reasoning.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}{{- '<|a|>\\n' + content }}{%- endif %}
        {%- for call in message.tool_calls or [] %}
            {{- '\\n<tool_call>' ~ (call.function|tojson) ~ '</tool_call>' }}
        {%- endfor %}
    {%- else %}{{- '<|' + message.role + '|>' + content }}{%- endif %}
    {{- '<|end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|a|>\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}"""
PARTS_LIKE = (
    """{% for m in messages %}[{{ m.role }}]{% for part in m.content %}{{ part.text }};{% endfor %}{% endfor %}"""
)
TEXT_ARGUMENTS = (
    "{% for m in messages %}{% for c in m.tool_calls %}{{ '>' + c.function.arguments }}{% endfor %}{% endfor %}"
)


def hugging_face(source, messages, **options) -> str:
    from transformers.utils.chat_template_utils import render_jinja_template

    return render_jinja_template([messages], chat_template=source, **TOKENS, **options)[0][0]


def render(source, messages, **options) -> str:
    return ChatTemplate(source, TOKENS).render(messages, **options)


@pytest.mark.parametrize("source", [TEMPLATE, LLAMA_LIKE, THINKING_LIKE])
@pytest.mark.parametrize("messages", [TALK, CALLS, TALK[1:2]])
@pytest.mark.parametrize("tools", [None, [TOOL]])
@pytest.mark.parametrize("prompted", [True, False])
def test_prompts_are_hugging_face_s(source, messages, tools, prompted):
    expected = hugging_face(source, messages, tools=tools, add_generation_prompt=prompted)
    assert render(source, messages, tools=tools, add_generation_prompt=prompted) == expected


@pytest.mark.assets
@pytest.mark.parametrize("name", ["smollm2-135m-instruct", "minimind2-small", "qwen2.5-coder-0.5b"])
@pytest.mark.parametrize("messages", [TALK, CALLS])
def test_real_templates_are_rendered_as_hugging_face_does(name, messages):
    tokenizer = Tokenizer.load(assets.model(name))
    source = tokenizer.chat_templates["default"]
    template = ChatTemplate(source, tokenizer.special_tokens)
    from transformers.utils.chat_template_utils import render_jinja_template

    for tools in (None, [TOOL]):
        expected = render_jinja_template(
            [messages], tools=tools, chat_template=source, add_generation_prompt=True, **tokenizer.special_tokens
        )
        assert template.render(messages, tools=tools) == expected[0][0]


def test_arguments_sent_as_text_render_like_objects():
    as_text = json.loads(json.dumps(CALLS))
    as_text[1]["tool_calls"][0]["function"]["arguments"] = '{"city": "Zürich"}'
    assert render(LLAMA_LIKE, as_text) == render(LLAMA_LIKE, CALLS)


def test_a_template_that_wants_text_gets_the_arguments_as_they_were_sent():
    as_text = json.loads(json.dumps(CALLS))
    as_text[1]["tool_calls"][0]["function"]["arguments"] = '{"city":"Bern"}'
    assert render(TEXT_ARGUMENTS, as_text) == '>{"city":"Bern"}'


def test_a_failure_with_arguments_as_objects_and_as_text_has_the_first_reason():
    with pytest.raises(InvalidParameter, match="Only single calls!"):
        render(LLAMA_LIKE, [{"role": "assistant", "tool_calls": CALLS[1]["tool_calls"] * 2}])


def test_templates_that_loop_over_content_get_parts():
    for content in ("a", [{"type": "text", "text": "a"}], ["a"]):
        assert render(PARTS_LIKE, [{"role": "user", "content": content}]) == "[user]a;"
    assert render(PARTS_LIKE, [{"role": "user", "content": ["a", "b"]}]) == "[user]a;b;"


@pytest.mark.parametrize(
    ("loop", "found"),
    [
        ("{% for m in messages %}{% for p in m['content'] %}{% endfor %}{% endfor %}", "openai"),
        ("{% set ms = messages[1:] %}{% for m in ms %}{% for p in m.content|list %}{% endfor %}{% endfor %}", "openai"),
        ("{% for m in messages %}{% set c = m.content %}{% for p in c %}{% endfor %}{% endfor %}", "openai"),
        ("{% for p in messages[0].content %}{% endfor %}", "openai"),
        (
            "{% for m in messages %}{% if m.tool_calls %}{% set x = m.tool_calls %}{% else %}{% set x = m.content %}"
            "{% endif %}{% for c in x %}{% endfor %}{% endfor %}",
            "string",
        ),
        ("{% for m in messages %}{{ m.content }}{% for t in tools %}{{ t.content }}{% endfor %}{% endfor %}", "string"),
        ("{% for m in messages %}{% for c in m.tool_calls %}{% endfor %}{% endfor %}", "string"),
    ],
)
def test_the_content_format_is_read_from_the_template(loop, found):
    assert ChatTemplate(loop, {}).content_format == found
    assert ChatTemplate(loop, {}, content_format="string").content_format == "string"


def test_templates_that_take_both_get_a_lone_text_as_it_is():
    source = "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}" + (
        "{% for p in m.content %}<{{ p.text }}>{% endfor %}{% endif %}{% endfor %}"
    )
    assert render(source, [{"role": "user", "content": ["a"]}]) == "a"
    assert render(source, [{"role": "user", "content": ["a", "b"]}]) == "<a><b>"


OPEN = {"add_generation_prompt": False, "continue_final_message": True}


@pytest.mark.parametrize("content", ["Once upon", "Once upon a ", "", "<|im_end|>", "CONTINUEFROMHERE0", "Be kind. "])
def test_a_continued_message_ends_the_prompt(content):
    messages = [*TALK, {"role": "assistant", "content": content}]
    assert render(TEMPLATE, messages, **OPEN) == render(TEMPLATE, TALK) + content


@pytest.mark.parametrize("source", [TEMPLATE, LLAMA_LIKE])
@pytest.mark.parametrize("content", ["Once upon", "Once upon a ", " Once\n"])
def test_continuing_is_hugging_face_s(source, content):
    messages = [*TALK, {"role": "assistant", "content": content}]
    expected = hugging_face(source, messages, tools=None, add_generation_prompt=False, continue_final_message=True)
    assert render(source, messages, **OPEN) == expected


def test_the_last_part_is_continued():
    messages = [{"role": "assistant", "content": ["a", "b"]}]
    assert render(PARTS_LIKE, messages, **OPEN) == "[assistant]a;b"


def test_what_cannot_be_continued_is_refused():
    with pytest.raises(InvalidParameter, match="continue_final_message"):
        render("{% for m in messages %}{{ m.role }}{% endfor %}", TALK, **OPEN)
    with pytest.raises(InvalidParameter, match="continue_final_message"):
        render("{{ messages[-1].content|upper }}", [{"role": "user", "content": "abc"}], **OPEN)
    with pytest.raises(InvalidParameter, match="both"):
        render(TEMPLATE, TALK, continue_final_message=True)


def test_variables_reach_the_template_and_explicit_ones_win():
    source = "{{ bos_token }}|{{ mood }}|{{ tools }}|{{ documents }}|{{ add_generation_prompt }}"
    kwargs = {"mood": "good", "tools": [1], "bos_token": "<b>", "add_generation_prompt": False}
    assert render(source, TALK) == "<s>||None|None|True"
    assert render(source, TALK, kwargs=kwargs) == "<b>|good|[1]|None|True"
    assert render(source, TALK, kwargs=kwargs | {"documents": [2]}, tools=[3], documents=[4]) == (
        "<b>|good|[3]|[4]|True"
    )


@pytest.mark.parametrize("name", sorted(RESERVED_KWARGS))
def test_reserved_names_cannot_be_set(name):
    with pytest.raises(InvalidParameter, match=name) as caught:
        render(TEMPLATE, TALK, kwargs={name: 1})
    assert caught.value.param == "chat_template_kwargs"


CACHES = {
    compile_template: "{{ messages }}",
    parse_template: "{{ messages }}",
    analyze_content: "{% for m in messages %}{{ m.content }}{% endfor %}",
    extract_template_text: "<turn>{{ messages }}",
}


@pytest.mark.parametrize("read", CACHES)
def test_what_is_read_out_of_a_source_is_kept_for_64_of_them(read):
    read.cache_clear()
    sources = [f"{CACHES[read]}{{# {number} #}}" for number in range(100)]
    for source in sources:
        read(source)
    assert read.cache_info().currsize == 64
    read(sources[-1])
    assert read.cache_info().hits == 1


@pytest.mark.parametrize(
    "source", ["{% if", "{{ 1 / 0 }}", "{{ messages.x.y }}", "{{ 9**9999999 }}", "{% extends 'x' %}"]
)
def test_every_failure_is_the_request_s(source):
    with pytest.raises(InvalidParameter, match="The chat template failed"):
        render(source, TALK)


def test_the_tool_variant_is_chosen_when_there_are_tools():
    templates = ChatTemplates({"default": "a", "tool_use": "b"}, {})
    assert [templates.select(has_tools=tools).source for tools in (False, True)] == ["a", "b"]
    assert ChatTemplates({"only": "c"}, {}).select(has_tools=True).source == "c"
    for none in ({}, {"rag": "x", "other": "y"}):
        with pytest.raises(InvalidParameter, match="no chat template"):
            ChatTemplates(none, {}).select(has_tools=False)


def test_a_template_is_given_as_text_or_as_a_file(tmp_path):
    (tmp_path / "t.jinja").write_text("héllo")
    assert read_template(str(tmp_path / "t.jinja")) == "héllo"
    (tmp_path / "t.jinja").write_text("\ufeffhéllo", encoding="utf-8")
    assert read_template(str(tmp_path / "t.jinja")) == "héllo"
    assert read_template("{{ messages }}") == "{{ messages }}"
    with pytest.raises(BadConfig, match="chat_template"):
        read_template(str(tmp_path / "missing"))
