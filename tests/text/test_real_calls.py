"""Outputs in the forms that templates and their models use, with the deviations of models."""

import pytest

from tests.text.parsing import cuts, dialect, parse, tool

TOOLS = (
    tool("get_weather", city={"type": "string"}, days={"type": "integer"}),
    tool("ns.lookup", ids={"type": "array"}, flags={"type": "object"}, note={"type": ["string", "null"]}),
)
PARIS = ("get_weather", '{"city": "Paris"}')
SAMPLES = [
    # a list of: parser, answer, content, calls
    ("hermes", '<tool_call>{"name": "get_weather", "arguments": {"city": "Paris"}}', "", [PARIS]),
    ("hermes", '<tool_call>\n{"arguments": {"city": "Paris"}, "name": "get_weather"}\n</tool_call>', "", [PARIS]),
    ("hermes", '<tool_call>{"name": "now"}</tool_call>', "", [("now", "{}")]),
    ("hermes", '<tool_call>{"id": 7, "x": {"name": "y"}, "name": "now"}</tool_call>', "", [("now", "{}")]),
    (
        "hermes",
        'Ok.<tool_call>{"name": "get_weather", "arguments": {"city": "Paris"}}<tool_call>'
        '{"name": "now", "arguments": {}}',
        "Ok.",
        [PARIS, ("now", "{}")],
    ),
    ("hermes", "The tag <tool_call> begins a call.", "The tag <tool_call> begins a call.", []),
    ("hermes", "<tool_call> is a tag: " + '<tool_call>{"name": "now"}', "<tool_call> is a tag: ", [("now", "{}")]),
    ("granite", '<tool_call>[{"name": "get_weather", "arguments": {"city": "Paris"}}]', "", [PARIS]),
    ("llama3_json", '{"name": "get_weather", "parameters": {"city": "Paris"}}', "", [PARIS]),
    ("llama3_json", '<|python_tag|>{"name": "get_weather", "arguments": {"city": "Paris"}}', "", [PARIS]),
    ("llama3_json", '{"type": "function", "name": "get_weather", "parameters": {"city": "Paris"}}', "", [PARIS]),
    ("llama3_json", 'Here: {"name": "get_weather", "parameters": {"city": "Paris"}} More?', "Here: ", [PARIS]),
    ("llama3_json", '{"name": "Bob", "age": 3}', '{"name": "Bob", "age": 3}', []),
    ("llama3_json", '{"answer": {"name": "x"}}', '{"answer": {"name": "x"}}', []),
    ("llama3_json", '{"parameters": {"city": "Paris"}, "name": "get_weather"}', "", [PARIS]),
    ("llama4_pythonic", "[get_weather(city='Paris')]", "", [PARIS]),
    (
        "pythonic",
        '[ get_weather( city = "Paris", ) , ns.lookup(ids=(1, 2), flags={"a": True}, note=None) ]',
        "",
        [
            PARIS,
            ("ns.lookup", '{"ids": [1, 2], "flags": {"a": true}, "note": null}'),
        ],
    ),
    ("pythonic", "[see](http://x.y)", "[see](http://x.y)", []),
    ("pythonic", "[f(1)]", "[f(1)]", []),
    ("mistral", '[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Paris"}}]', "", [PARIS]),
    ("mistral", '[TOOL_CALLS]get_weather{"city": "Paris"}', "", [PARIS]),
    (
        "qwen3_coder",
        "<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n</function>\n</tool_call>",
        "",
        [PARIS],
    ),
    (
        "qwen3_coder",
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n</tool_call>",
        "",
        [PARIS],
    ),
    (
        "qwen3_coder",
        "<tool_call>\n<function=get_weather>\n<parameter=city>\n\n a\n\n</parameter>\n<parameter=days>\n 12 \n"
        "</parameter>\n"
        "<parameter=other>\n12\n</parameter>\n</function>\n</tool_call>",
        "",
        [("get_weather", '{"city": "\\n a\\n", "days": 12, "other": "12"}')],
    ),
    (
        "qwen3_coder",
        '<tool_call>\n<function=ns.lookup>\n<parameter=ids>\n[1, "é"]\n</parameter>\n<parameter=flags>\nnot json\n'
        "</parameter>\n<parameter=note>\nnull\n</parameter>\n</function>\n</tool_call>",
        "",
        [("ns.lookup", '{"ids": [1, "é"], "flags": "not json", "note": null}')],
    ),
    (
        "glm45",
        "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>\n</tool_call>",
        "",
        [PARIS],
    ),
    ("glm45", "I use <tool_call> for that, yes.", "I use <tool_call> for that, yes.", []),
    (
        "deepseek_v32",
        '<｜DSML｜function_calls>\n<｜DSML｜invoke name="get_weather">\n<｜DSML｜parameter name="city" string="true">'
        "Paris"
        '</｜DSML｜parameter>\n<｜DSML｜parameter name="days" string="false">3</｜DSML｜parameter>\n</｜DSML｜invoke>\n'
        "</｜DSML｜function_calls>",
        "",
        [("get_weather", '{"city": "Paris", "days": 3}')],
    ),
    (
        "kimi_k2",
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:12<|tool_call_argument_begin|>"
        '{"city": "Paris"}<|tool_call_end|><|tool_calls_section_end|>',
        "",
        [PARIS],
    ),
    ("xlam", '```json\n[{"name": "get_weather", "arguments": {"city": "Paris"}}]\n```', "", [PARIS]),
    ("xlam", '[{"name": "x"}]', '[{"name": "x"}]', []),
    (
        "step3",
        '<｜tool_calls_begin｜><｜tool_call_begin｜><steptml:invoke name="get_weather"><steptml:parameter name="city">'
        "Paris"
        "</steptml:parameter></steptml:invoke><｜tool_call_end｜><｜tool_calls_end｜>",
        "",
        [PARIS],
    ),
    ("gemma4", '<|tool_call>call:get_weather{city:<|"|>Paris<|"|>}<tool_call|>', "", [PARIS]),
    ("gemma4", "My call: done.", "My call: done.", []),
    ("phi4_mini_json", 'functools[{"name": "get_weather", "arguments": {"city": "Paris"}}]', "", [PARIS]),
    ("phi4_mini_json", "Use functools.partial.", "Use functools.partial.", []),
    (
        "openai",
        '<|channel|>commentary to=functions.get_weather json<|message|>{"city": "Paris"}',
        "",
        [PARIS],
    ),
    (
        "openai",
        '<|start|>assistant to=functions.get_weather<|channel|>commentary json<|message|>{"city": "Paris"}<|call|>',
        "",
        [PARIS],
    ),
    ("openai", "<|channel|>commentary to=functions.now<|message|><|call|>", "", [("now", "{}")]),
]


@pytest.mark.parametrize(("name", "answer", "content", "calls"), SAMPLES)
def test_a_model_s_own_form_is_read(name, answer, content, calls):
    for pieces in cuts(answer):
        result = parse(dialect(name), pieces, tools=TOOLS)
        assert (result.content, list(result.calls)) == (content, calls)
