"""Tools of the Responses API: functions, custom tools with grammars, namespaces, and those that are left out."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import Response

from jaxserve import NamedTool, ToolCallDelta
from server.responses.custom_input import CustomInputDecoder
from tests.fake_llm import FakeLLM, Piece

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
FUNCTION = {"type": "function", "name": "f", "description": "Does f.", "parameters": SCHEMA, "strict": True}
LARK = 'start: "a" | "b"\n'
PATCH = {
    "type": "custom",
    "name": "apply_patch",
    "description": "Edits files.",
    "format": {"type": "grammar", "syntax": "lark", "definition": LARK},
}
NOTE = {"type": "custom", "name": "note"}
SPACE = {
    "type": "namespace",
    "name": "mcp__files__",
    "description": "Files.",
    "tools": [{**FUNCTION, "name": "read"}, NOTE],
}
BUILT_IN = [{"type": "web_search"}, {"type": "local_shell"}, {"type": "mcp", "server_label": "x"}]
IGNORED = "x-jaxserve-ignored-tools"


@pytest.fixture
def tools_api(make_api):
    def make(*pieces, reasoning_parser=None):
        return make_api(llm=FakeLLM(pieces or ["ok"], tool_parser="hermes", reasoning_parser=reasoning_parser))

    return make


def calling(name, *arguments):
    """Pieces of an answer that calls a tool."""
    first = Piece(calls=(ToolCallDelta(0, "", "chatcmpl-tool-1", name),))
    return [first, *(Piece(calls=(ToolCallDelta(0, piece),)) for piece in arguments)]


async def test_tools_become_functions(tools_api):
    api = tools_api()
    assert (await api.respond(tools=[FUNCTION, PATCH, SPACE])).status == 200
    functions = [tool["function"] for tool in api.llm.rendered[-1]["tools"]]
    assert [one["name"] for one in functions] == ["f", "apply_patch", "mcp__files__read", "mcp__files__note"]
    assert functions[0] == {key: value for key, value in FUNCTION.items() if key != "type"}
    assert functions[1]["parameters"]["required"] == ["input"]
    assert LARK in functions[1]["description"] and "Edits files." in functions[1]["description"]


@pytest.mark.parametrize("how", [{}, {"stream": True}, {"background": True}])
async def test_numbers_of_any_length_are_repeated_as_they_are(tools_api, how):
    limits = '{"maximum":123456789012345678901234567890,"minimum":0.12345678901234567890123}'
    tool = f'{{"type":"function","name":"f","parameters":{{"type":"object","properties":{{"a":{limits}}}}}}}'
    body = b'{"input":"Hi",%s "tools":[%s]}' % (json.dumps(how).encode()[1:-1] + b"," * bool(how), tool.encode())
    reply = await tools_api().post("/v1/responses", body)
    assert reply.status == 200 and limits in reply.text


async def test_a_call_is_an_item(tools_api):
    api = tools_api(*calling("f", '{"a"', ": 1}"))
    (item,) = (await api.respond(tools=[FUNCTION])).json["output"]
    assert item.pop("id").startswith("fc_")
    assert item == {
        "type": "function_call",
        "call_id": "call_1",
        "name": "f",
        "arguments": '{"a": 1}',
        "status": "completed",
    }


async def test_a_call_in_a_namespace_has_its_name_and_that_of_the_namespace(tools_api):
    api = tools_api(*calling("mcp__files__read", "{}"))
    (item,) = (await api.respond(tools=[SPACE])).json["output"]
    assert (item["type"], item["name"], item["namespace"]) == ("function_call", "read", "mcp__files__")


async def test_a_call_of_a_custom_tool_has_text(tools_api):
    api = tools_api(*calling("apply_patch", '{"in', 'put": "a\\', 'n\\u00e9\\"b"}'))
    reply = await api.respond(tools=[PATCH])
    (item,) = reply.json["output"]
    assert item.pop("id").startswith("ctc_")
    assert item == {
        "type": "custom_tool_call",
        "call_id": "call_1",
        "name": "apply_patch",
        "input": 'a\né"b',
        "status": "completed",
    }
    assert reply.headers["x-jaxserve-unenforced"] == "apply_patch.format"


async def test_a_custom_tool_that_must_be_called_follows_its_grammar(tools_api):
    choice = {"type": "custom", "name": "apply_patch"}
    for tools, asked in (([PATCH, FUNCTION], choice), ([PATCH], "required")):
        api = tools_api("a", "b")
        reply = await api.respond(tools=tools, tool_choice=asked)
        (item,) = reply.json["output"]
        assert (item["type"], item["name"], item["input"]) == ("custom_tool_call", "apply_patch", "ab")
        assert item["call_id"].startswith("call_") and "x-jaxserve-unenforced" not in reply.headers
        assert api.llm.calls[-1].params.structured_outputs.grammar == LARK


async def test_a_regular_expression_is_enforced_as_a_pattern(tools_api):
    api, form = tools_api(), {"type": "grammar", "syntax": "regex", "definition": "[ab]+"}
    reply = await api.respond(tools=[{**NOTE, "format": form}, FUNCTION])
    function = api.llm.rendered[-1]["tools"][0]["function"]
    assert function["strict"] and function["parameters"]["properties"]["input"]["pattern"] == "^(?:[ab]+)$"
    assert "x-jaxserve-unenforced" not in reply.headers


async def test_built_in_tools_are_left_out_and_named(tools_api):
    api = tools_api()
    reply = await api.respond(tools=[*BUILT_IN, FUNCTION])
    assert reply.headers[IGNORED] == "web_search, local_shell, mcp"
    assert reply.json["tools"] == [FUNCTION]
    assert len(api.llm.rendered[-1]["tools"]) == 1
    alone = await api.respond(tools=BUILT_IN, stream=True)
    assert alone.headers[IGNORED] == "web_search, local_shell, mcp" and api.llm.rendered[-1]["tools"] is None


async def test_built_in_tools_in_a_namespace_are_left_out_too(tools_api):
    reply = await tools_api().respond(tools=[{**SPACE, "tools": [*SPACE["tools"], *BUILT_IN]}])
    assert reply.headers[IGNORED] == "web_search, local_shell, mcp" and reply.json["tools"] == [SPACE]


async def test_what_openai_s_clients_expect_is_filled_in(tools_api):
    form = {"type": "json_schema", "schema": {"type": "object"}}
    space = {key: one for key, one in SPACE.items() if key != "description"}
    allowed = {"type": "allowed_tools", "tools": [{"type": "function", "name": "f"}]}
    for fields in ({"text": {"format": form}}, {"tools": [space]}, {"tools": [FUNCTION], "tool_choice": allowed}):
        Response.model_validate((await tools_api().respond(**fields)).json)


@pytest.mark.parametrize(
    ("choice", "param", "text"),
    [
        ({"type": "custom", "name": "f"}, "tool_choice.type", "function"),
        ({"type": "function", "name": "apply_patch"}, "tool_choice.type", "custom"),
        ({"type": "function", "name": "g"}, "tool_choice.name", "'g'"),
        ({"type": "function", "name": "f", "namespace": 1}, "tool_choice.namespace", "1"),
    ],
)
async def test_a_choice_of_one_tool_that_is_wrong_is_named(tools_api, choice, param, text):
    reply = await tools_api().respond(tools=[FUNCTION, PATCH], tool_choice=choice)
    assert (reply.status, reply.error["param"]) == (400, param) and text in reply.error["message"]


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "f"}])
async def test_a_forced_call_needs_tools(tools_api, choice):
    reply = await tools_api().respond(tool_choice=choice)
    assert (reply.status, reply.error["param"]) == (400, "tool_choice")


async def test_required_without_a_tool_that_can_be_called_says_so(tools_api):
    reply = await tools_api().respond(tools=BUILT_IN, tool_choice="required")
    assert reply.status == 400 and "web_search, local_shell, mcp" in reply.error["message"]


async def test_a_forced_grammar_has_its_tool_in_the_prompt(make_api):
    llm = FakeLLM(["a"], tool_parser="hermes")
    api = make_api(llm=llm, exclude_tools_when_tool_choice_none=True)
    await api.respond(tools=[PATCH], tool_choice="required")
    assert [tool["function"]["name"] for tool in llm.rendered[-1]["tools"]] == ["apply_patch"]
    await api.respond(tools=[PATCH], tool_choice="none")
    assert llm.rendered[-1]["tools"] is None


async def test_a_forced_grammar_may_have_an_empty_input(make_api):
    api = make_api(llm=FakeLLM([Piece(reasoning="Hm")], tool_parser="hermes", reasoning_parser="qwen3"))
    _, call = (await api.respond(tools=[PATCH], tool_choice="required")).json["output"]
    assert (call["type"], call["input"]) == ("custom_tool_call", "")


@pytest.mark.parametrize(
    ("choice", "chat_choice", "num_tools"),
    [
        (None, "auto", 3),
        ("auto", "auto", 3),
        ("none", "none", 3),
        ("required", "required", 3),
        ({"type": "function", "name": "f"}, NamedTool("f"), 3),
        ({"type": "function", "name": "read", "namespace": "mcp__files__"}, NamedTool("mcp__files__read"), 3),
        ({"type": "custom", "name": "note", "namespace": "mcp__files__"}, NamedTool("mcp__files__note"), 3),
        ({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]}, "auto", 1),
        ({"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "f"}]}, "required", 1),
        ({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "web_search"}]}, "none", 0),
    ],
)
async def test_what_a_tool_choice_comes_to(tools_api, choice, chat_choice, num_tools):
    api = tools_api()
    reply = await api.respond(tools=[FUNCTION, SPACE], tool_choice=choice)
    assert reply.status == 200, reply.text
    assert (api.llm.calls[-1].spec.tool_choice, len(api.llm.calls[-1].spec.tools)) == (chat_choice, num_tools)
    assert reply.json["tool_choice"] == (choice or "auto")


@pytest.mark.parametrize(
    ("choice", "tools"),
    [
        ("required", []),
        ("required", BUILT_IN),
        ({"type": "web_search"}, [*BUILT_IN, FUNCTION]),
        ({"type": "function", "name": "g"}, [FUNCTION]),
        ({"type": "function"}, [FUNCTION]),
        ({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "g"}]}, [FUNCTION]),
        ({"type": "allowed_tools", "mode": "never", "tools": []}, [FUNCTION]),
        ({"name": "f"}, [FUNCTION]),
        ("sometimes", [FUNCTION]),
    ],
)
async def test_a_choice_that_cannot_be_served_is_refused(tools_api, choice, tools):
    reply = await tools_api().respond(tools=tools, tool_choice=choice)
    assert reply.status == 400 and reply.error["param"].startswith("tool_choice")


@pytest.mark.parametrize(
    "tool",
    [
        {"type": "function"},
        {"type": "functoin", "name": "f"},
        {"name": "f"},
        {"type": "function", "name": "f", "parameters": "x"},
        {"type": "function", "name": "f", "description": 1},
        {"type": "custom", "name": "f", "format": {"type": "grammar", "syntax": "bnf", "definition": "x"}},
        {"type": "custom", "name": "f", "format": {"type": "grammar", "syntax": "lark", "definition": " "}},
        {"type": "custom", "name": "f", "format": {"type": "shape"}},
        {"type": "namespace", "name": "n", "tools": "x"},
        {"type": "namespace", "name": "n", "tools": [{"type": "namespace", "name": "m", "tools": []}]},
    ],
)
async def test_a_malformed_tool_is_named(tools_api, tool):
    reply = await tools_api().respond(tools=[FUNCTION, tool])
    assert (reply.status, reply.error["param"]) == (400, "tools")
    assert reply.error["message"].startswith("tools[1]")


async def test_two_tools_of_one_name_are_refused(tools_api):
    twice = [
        {"type": "function", "name": "a__b"},
        {"type": "namespace", "name": "a", "tools": [{**FUNCTION, "name": "b"}]},
    ]
    reply = await tools_api().respond(tools=twice)
    assert (reply.status, reply.error["param"]) == (400, "tools")


@given(
    text=st.text(st.characters(codec="utf-8")), is_ascii=st.booleans(), cuts=st.lists(st.integers(0, 60), max_size=6)
)
def test_the_text_of_a_custom_call_is_the_same_in_any_pieces(text, is_ascii, cuts):
    arguments = json.dumps({"input": text}, ensure_ascii=is_ascii)
    decoder, places = CustomInputDecoder(), [0, *sorted(cuts), len(arguments)]
    pieces = [arguments[start:end] for start, end in pairwise(places)]
    assert "".join(map(decoder.feed, pieces)) + decoder.close() == text


@given(arguments=st.text('{}":, inputab\\u0d8', max_size=90), cut=st.integers(0, 90))
def test_whatever_a_model_writes_is_read_the_same_in_two_pieces(arguments, cut):
    whole, cut_decoder = CustomInputDecoder(), CustomInputDecoder()
    expected = whole.feed(arguments) + whole.close()
    assert cut_decoder.feed(arguments[:cut]) + cut_decoder.feed(arguments[cut:]) + cut_decoder.close() == expected
    if not arguments.lstrip().startswith("{"):
        assert expected == arguments
