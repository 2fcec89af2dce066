"""Dialects are detected from facts about a checkpoint, in their order of trust, with a reason."""

from collections.abc import Mapping
from typing import Any

import pytest

from jaxserve.errors import BadConfig
from jaxserve.text.chat_template import ChatTemplates
from jaxserve.text.detection import (
    Detection,
    DetectionFacts,
    collect_facts,
    detect_reasoning_parser,
    detect_tool_parser,
    resolve_parser,
)
from jaxserve.text.dialects import REASONING_PARSERS, REASONING_ROWS, RESPONSE_TEMPLATE, TOOL_PARSERS, TOOL_ROWS
from tests.text.parsing import dialect, parse
from tests.text.tiny_tokenizers import byte_level_backend, make

HERMES = (
    "{% if tools %}<tools>{{ tools|tojson }}</tools> Answer with <tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>{% endif %}'
)
TURNS = "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}{% endfor %}"
FILLED = "{% for message in messages %}<think>{{ message.reasoning }}</think>{{ message.content }}{% endfor %}"
PLAIN = TURNS + "<|assistant|>"
TOOLS_ONLY = "{{ tools|tojson }}" + PLAIN
TOKENS = {"<think>": False, "</think>": False, "<tool_call>": False}
SAYS_ALL = {"fields": {"tool_calls": {"open": "<c>"}, "thinking": {"open": "<t>"}, "content": {}}}


def facts(template: str | None, tokens: Mapping[str, bool] = TOKENS, **more: Any) -> DetectionFacts:
    """Of a checkpoint with this one template."""
    tokenizer = make(byte_level_backend())
    tokenizer.config = {"response_template": more.get("response_template")}
    templates = ChatTemplates({} if template is None else {"default": template}, {})
    found = collect_facts(tokenizer, templates, {"model_type": more.get("model_type", "")})
    return DetectionFacts(
        tool_template=found.tool_template,
        template=found.template,
        prompts=found.prompts,
        tokens=tokens,
        response_template=found.response_template,
        model_type=found.model_type,
    )


def tool_parser(*given: Any, **more: Any) -> str | None:
    return detect_tool_parser(facts(*given, **more)).name


def reasoning_parser(*given: Any, **more: Any) -> str | None:
    return detect_reasoning_parser(facts(*given, **more)).name


def test_what_the_template_writes_decides():
    assert str(detect_tool_parser(facts(HERMES))) == "hermes (the template writes <tool_call> and JSON)"


@pytest.mark.parametrize("template", [None, PLAIN, "{% if message.tool_calls %}<tool_call>{% endif %}"])
def test_a_model_whose_template_never_reads_tools_has_no_tool_parser(template):
    tokens = TOKENS | {"[TOOL_CALLS]": True}
    assert tool_parser(template, tokens, model_type="minimax_m2") is None


def test_a_template_that_reads_tools_and_writes_no_known_form_leaves_it_to_vocabulary_and_type():
    assert tool_parser(TOOLS_ONLY) is None
    assert tool_parser(TOOLS_ONLY, model_type="minimax_m2") == "minimax_m2"
    assert tool_parser(TOOLS_ONLY, {"<|tool_call_start|>": True}, model_type="minimax_m2") == "lfm2"


BY_MODEL_TYPE = {
    **dict.fromkeys(("gemma4", "gemma4_text", "gemma4_unified", "gemma4_unified_text"), ("gemma4", "gemma4")),
    "glm4_moe": ("glm45", None),
    "glm4_moe_lite": ("glm47", None),
    "gpt_oss": ("openai", "openai_gptoss"),
    "lfm2_moe": ("lfm2", None),
    "seed_oss": ("seed_oss", "seed_oss"),
    "llama": (None, None),
}


@pytest.mark.parametrize("model_type", BY_MODEL_TYPE)
def test_the_type_is_asked_where_the_template_writes_no_form_and_nothing_without_a_template(model_type):
    found = facts(TOOLS_ONLY, {}, model_type=model_type)
    assert (detect_tool_parser(found).name, detect_reasoning_parser(found).name) == BY_MODEL_TYPE[model_type]
    found = facts(None, {}, model_type=model_type)
    assert (
        detect_tool_parser(found) == detect_reasoning_parser(found) == Detection(None, "the model has no chat template")
    )


def test_a_vocabulary_that_was_inherited_does_not_outweigh_the_template():
    assert tool_parser(HERMES, {"[TOOL_CALLS]": True}) == "hermes"
    own = TOOLS_ONLY + "{% for call in messages[0].tool_calls %}<CALL>{{ call|tojson }}{% endfor %}"
    assert tool_parser(own, {"[TOOL_CALLS]": True}, model_type="minimax_m2") is None


def test_a_response_template_overrides_all_other_facts():
    found = facts(HERMES + FILLED, response_template=SAYS_ALL)
    assert {detect_tool_parser(found).name, detect_reasoning_parser(found).name} == {RESPONSE_TEMPLATE}
    only_calls = {"fields": {"tool_calls": {"open": "<c>"}}}
    found = facts(HERMES + FILLED, response_template=only_calls)
    assert str(detect_tool_parser(found)) == "hf (its response_template has a field for tool_calls)"
    assert str(detect_reasoning_parser(found)) == "none (its response_template has no field for reasoning)"
    only_content = {"fields": {"content": {"close": "<e>"}}}
    found = facts(HERMES + FILLED, response_template=only_content)
    assert (detect_tool_parser(found).name, detect_reasoning_parser(found).name) == ("hermes", "deepseek_r1")


@pytest.mark.parametrize("broken", ["nonsense", {"fields": 3}, {}, {"fields": None}])
def test_a_response_template_that_is_none_says_nothing(broken):
    assert tool_parser(HERMES, response_template=broken) == "hermes"


SWITCHES = {
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}": "qwen3",
    "{% if thinking %}<think>{% else %}</think>{% endif %}": "deepseek_v3",
    "{% if enable_thinking is true %}<think>\n{% endif %}": "deepseek_v3",
    "<think>\n": "deepseek_r1",
    "": "deepseek_r1",
}


@pytest.mark.parametrize("end", SWITCHES)
def test_when_a_template_thinks_decides_whose_rule_holds(end):
    assert reasoning_parser(FILLED + "<|assistant|>" + end) == SWITCHES[end]


def test_reasoning_that_the_system_text_asks_for_is_found():
    asking = "{% set text = 'Answer in <think> {thought} </think> {solution}.' %}"
    own = "{% if messages[0].role == 'system' %}{% set text = messages[0].content %}{% endif %}{{ text }}"
    assert reasoning_parser(asking + own + PLAIN, {}) == "deepseek_r1"
    assert reasoning_parser(asking.replace("{thought}", "") + own + PLAIN, {}) is None


CUTS = TURNS.replace("message.content", "message.content.split('</think>')[-1]")


def test_thinking_that_is_only_taken_out_of_past_answers_is_no_reasoning():
    assert reasoning_parser(PLAIN) is None
    assert reasoning_parser(CUTS + "<|assistant|>") is None
    assert reasoning_parser("{% if '</think>' in messages[0].content %}{{ messages[0].content }}{% endif %}") is None


def test_but_in_the_templates_of_deepseek_it_is():
    assert reasoning_parser(CUTS + "<｜Assistant｜>") == "deepseek_r1"
    assert reasoning_parser(PLAIN + "<｜Assistant｜>") is None


def test_a_section_that_is_only_ever_closed_at_once_needs_its_token():
    template = PLAIN + "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
    assert reasoning_parser(template, {}) is None
    assert reasoning_parser(template) == "qwen3"


def test_a_broken_template_has_no_parsers():
    found = facts("{% if tools %}")
    assert detect_tool_parser(found) == detect_reasoning_parser(found)
    assert detect_tool_parser(found) == Detection(None, "the template has a syntax error")


def test_tool_calls_are_detected_from_the_template_for_tools():
    tokenizer = make(byte_level_backend())
    found = collect_facts(tokenizer, ChatTemplates({"default": FILLED, "tool_use": HERMES}, {}), {})
    assert (detect_tool_parser(found).name, detect_reasoning_parser(found).name) == ("hermes", "deepseek_r1")
    assert found.tokens["<tool_call>"] is False and found.tokens["<|im_end|>"] is True


CALL = '{"name": "{{ name }}", "arguments": {{ arguments }}}'
WRITTEN = (  # as the templates write that come with models, or with vLLM for them
    (
        "openai",
        "assistant to=functions.{{ name }}<|channel|>commentary json<|message|>{{ arguments }}<|call|>",
    ),
    ("mistral", '[TOOL_CALLS][{"name": {{ name }}}]'),
    ("mistral", "[TOOL_CALLS]{{ name }}[ARGS]{{ arguments }}"),
    ("kimi_k2", "<|tool_calls_section_begin|><|tool_call_begin|>{{ id }}<|tool_call_argument_begin|>{{ arguments }}"),
    ("deepseek_v4", "<｜DSML｜tool_calls>\n<｜DSML｜invoke name='{{ name }}'>"),
    ("deepseek_v32", "{% set mark = '｜DSML｜' %}{{ '<' + mark + 'function_calls>' }}"),
    (
        "deepseek_v3",
        "<｜tool▁call▁begin｜>function<｜tool▁sep｜>{{ name }}\n```json\n{{ arguments }}\n```",
    ),
    ("deepseek_v31", "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>{{ name }}<｜tool▁sep｜>{{ arguments }}"),
    ("minimax_m2", "<minimax:tool_call>\n<invoke name='{{ name }}'>"),
    ("seed_oss", "<seed:tool_call>\n<function={{ name }}>"),
    ("longcat", f"<longcat_tool_call>{CALL}</longcat_tool_call>"),
    ("step3", "<｜tool_calls_begin｜><｜tool_call_begin｜>function<｜tool_sep｜>{{ name }}"),
    ("dots", "<dots_function_call>\n<invoke name='{{ name }}'>"),
    ("cohere_command3", '<|START_ACTION|>[{"tool_call_id": "0", "tool_name": {{ name }}}]'),
    ("minicpm5", '<function name="{{ name }}"><param name="{{ key }}">'),
    ("gigachat3", "will be generated next by the `function call` role."),
    ("glm47", "<tool_call>{{ name }}<arg_key>{{ key }}</arg_key><arg_value>"),
    ("glm45", "<tool_call>{{ name }}\n<arg_key>{{ key }}</arg_key>\n<arg_value>"),
    ("qwen3_coder", "<tool_call>\n<function={{ name }}>\n<parameter="),
    ("granite", f"<tool_call>\n[\n  {CALL}\n]"),
    ("granite", "respond only with <|tool_call|> followed by a JSON list of tools used"),
    ("granite-20b-fc", '{{ "please output <function_call> {\\"name\\": \\"no_function\\"}" }}'),
    ("functiongemma", "<start_function_call>call:{{ name }}{"),
    ("gemma4", "<|tool_call>call:{{ name }}{"),
    ("phi4_mini_json", 'formatted as functools[{"name": [function name]}, ...]'),
    ("internlm", f"<|action_start|><|plugin|>\n{CALL}<|action_end|>"),
    ("lfm2", "<|tool_call_start|>[{{ name }}]<|tool_call_end|>"),
    ("olmo3", "<function_calls>{{ name }}()</function_calls>"),
    ("hunyuan_a13b", '<|extra_0|><tool_calls>[{"name": "f", "arguments": {}}]</tool_calls>'),
    ("jamba", f"<tool_calls>[{CALL}]</tool_calls>"),
    ("ernie45", f"<tool_call>\n{CALL}\n</tool_call><tool_output>{{{{ content }}}}</tool_output>"),
    ("granite4", f"<|start_of_role|>assistant<|end_of_role|><tool_call>\n{CALL}\n</tool_call>"),
    ("hermes", f"<tool_call>\n{CALL}\n</tool_call>"),
    ("xlam", '[{"name": "tool_call_name", "arguments": {"arg1": "value1"}}, ... (more)]'),
    ("llama4_json", '<|header_start|>assistant<|header_end|>{"name": "{{ name }}", "parameters": {{ arguments }}}'),
    ("llama3_json", '{"name": "{{ name }}", "parameters": {{ arguments }}}'),
    ("llama4_pythonic", "<|header_start|>system<|header_end|>[func_name1(param1=value1), func_name2(...)]"),
    ("pythonic", "[func_name1(params_name1=params_value1...), func_name2(params)]"),
)


@pytest.mark.parametrize(("name", "words"), WRITTEN, ids=lambda value: value[:30])
def test_every_form_is_known_by_what_it_writes(name, words):
    assert tool_parser("{{ tools|tojson }}" + words) == name


def test_no_sign_is_left_out_here():
    assert {row.name for row in TOOL_ROWS if row.signs} == {name for name, _ in WRITTEN}


@pytest.mark.parametrize("rows", [TOOL_ROWS, REASONING_ROWS])
def test_a_name_a_token_and_a_model_type_stand_in_one_row(rows):
    for values in (
        [row.name for row in rows],
        [row.token for row in rows if row.token],
        [model_type for row in rows for model_type in row.model_types],
    ):
        assert len(set(values)) == len(values)


def test_every_name_that_can_be_detected_is_known():
    assert RESPONSE_TEMPLATE in TOOL_PARSERS
    assert {"deepseek_r1", "deepseek_v3", "qwen3", RESPONSE_TEMPLATE} <= REASONING_PARSERS.keys()


def test_a_parser_that_is_named_is_used():
    found, known = Detection("hermes", "the template writes <tool_call>"), ("hermes", "mistral")
    assert resolve_parser("auto", found, known, "tool_call_parser") == found
    assert resolve_parser("none", found, known, "tool_call_parser") == Detection(None, "tool_call_parser is none")
    assert resolve_parser("mistral", found, known, "tool_call_parser") == Detection(
        "mistral", "tool_call_parser names it"
    )
    with pytest.raises(BadConfig, match=r"tool_call_parser .hermse. is not known; .* hermes, mistral"):
        resolve_parser("hermse", found, known, "tool_call_parser")


def test_granite_thinks_in_words_or_in_tags():
    for words in (
        "Here is my thought process:",
        "Write your thoughts between <think></think>, then <response></response>",
    ):
        assert reasoning_parser(PLAIN + words, {}) == "granite"
    for answer in (
        "Here is my thought process: Hm. Here is my response: Yes.",
        "<think>Hm.</think><response>Yes.</response>",
    ):
        result = parse(dialect(None, "granite"), answer)
        assert (result.reasoning.strip(), result.content.strip()) == ("Hm.", "Yes.")
