"""tools, tool_choice and parallel_tool_calls: what is refused, and what the output parser gets."""

import pytest

from jaxserve import NamedTool
from tests.fake_llm import FakeLLM

F = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, "strict": True}}
G = {"function": {"name": "g", "defer_loading": True}, "type": "function", "extra": 1}
NAMED = {"type": "function", "function": {"name": "g"}}
JSON = {"type": "json_schema", "json_schema": {"name": "n", "schema": {}}}


@pytest.fixture
def api(make_api):
    return make_api(llm=FakeLLM(tool_parser="hermes"))


async def read(api, **fields):
    """How the answer is to be read."""
    answer = await api.chat(**fields)
    assert answer.status == 200, answer.text
    return api.llm.calls[-1].spec


async def refused(api, **fields):
    answer = await api.chat(**fields)
    assert (answer.status, answer.error["type"]) == (400, "BadRequestError"), answer.text
    assert not api.llm.calls
    return answer.error


async def test_the_fields_reach_the_reader_of_the_answer(api):
    plain = await read(api)
    assert (plain.tools, plain.tool_choice, plain.parallel_tool_calls) == ((), "none", True)
    told = await read(api, tools=[F, G], parallel_tool_calls=False)
    assert (told.tools, told.tool_names) == ((F, G), ("f", "g"))
    assert told.parallel_tool_calls is False
    assert (await read(api, tools=[F], parallel_tool_calls=None)).parallel_tool_calls is True
    assert (await read(api)).prompt_text == "u:Hi|"


async def test_a_tool_is_shown_to_the_template_as_it_was_sent(api):
    parameters = {"type": "object", "properties": {"a": {"type": "string"}}}
    function = {"name": "f", "description": "d", "parameters": parameters, "strict": True, "further": [1]}
    tool = {"type": "function", "function": function, "cache": {"a": 1}}
    await read(api, tools=[tool])
    assert api.llm.rendered[-1]["tools"] == [tool]


@pytest.mark.parametrize(
    ("tool", "function", "shown"), [(True, {}, True), (False, {}, False), (True, {"defer_loading": False}, False)]
)
async def test_a_tool_that_is_deferred_says_so_in_its_function(api, tool, function, shown):
    await read(api, tools=[{"type": "function", "function": {"name": "f", **function}, "defer_loading": tool}])
    (rendered,) = api.llm.rendered[-1]["tools"]
    assert (rendered["defer_loading"], rendered["function"]["defer_loading"]) == (tool, shown)


@pytest.mark.parametrize("path", ["body.tools.0.defer_loading", "body.tools.0.function.defer_loading"])
async def test_whether_a_tool_is_deferred_is_a_boolean(api, path):
    tool = {"type": "function", "function": {"name": "f"}}
    (tool["function"] if "function" in path else tool)["defer_loading"] = "later"
    assert (await api.chat(tools=[tool])).error["param"] == path


async def test_past_calls_are_counted(api):
    call = {"id": "1", "function": {"name": "f", "arguments": "{}"}}
    turns = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "tool_calls": [call, call]},
        {"role": "tool", "content": "y"},
        {"role": "assistant", "tool_calls": [call]},
    ]
    assert (await read(api, messages=turns)).num_past_tool_calls == 3


async def test_the_completions_route_reads_nothing(api):
    assert (await api.complete(tools=[F], tool_choice="required")).status == 200
    assert api.llm.calls[-1].output is None


class TestChoice:
    @pytest.mark.parametrize(
        ("fields", "becomes"),
        [
            ({}, "none"),
            ({"tool_choice": None}, "none"),
            ({"tool_choice": "none"}, "none"),
            ({"tools": [F, G]}, "auto"),
            ({"tools": [F, G], "tool_choice": None}, "auto"),
            ({"tools": [F, G], "tool_choice": "none"}, "none"),
            ({"tools": [F, G], "tool_choice": "auto"}, "auto"),
            ({"tools": [F, G], "tool_choice": "required"}, "required"),
            ({"tools": [F, G], "tool_choice": NAMED}, NamedTool("g")),
        ],
        ids=str,
    )
    async def test_what_a_tool_choice_comes_to(self, api, fields, becomes):
        assert (await read(api, **fields)).tool_choice == becomes

    @pytest.mark.parametrize(
        ("fields", "param"),
        [
            ({"tools": []}, "tools"),
            ({"tools": [], "tool_choice": "none"}, "tools"),
            ({"tool_choice": "auto"}, "tool_choice"),
            ({"tool_choice": "required"}, "tool_choice"),
            ({"tool_choice": NAMED}, "tool_choice"),
            ({"tools": [F], "tool_choice": "any"}, "tool_choice"),
            ({"tools": [F], "tool_choice": ""}, "tool_choice"),
            ({"tools": [F], "tool_choice": {}}, "tool_choice"),
            ({"tools": [F], "tool_choice": {"type": "allowed_tools"}}, "tool_choice"),
            ({"tools": [F], "tool_choice": {"type": "function"}}, "tool_choice.function"),
            ({"tools": [F], "tool_choice": {"type": "function", "function": "f"}}, "tool_choice.function"),
            ({"tools": [F], "tool_choice": {"type": "function", "function": {}}}, "tool_choice.function.name"),
            (
                {"tools": [F], "tool_choice": {"type": "function", "function": {"name": ""}}},
                "tool_choice.function.name",
            ),
            ({"tools": [F], "tool_choice": NAMED}, "tool_choice"),
        ],
        ids=str,
    )
    async def test_what_is_none(self, api, fields, param):
        assert (await refused(api, **fields))["param"] == param

    @pytest.mark.parametrize(
        ("tools", "path"),
        [
            ([{}], "0.type"),
            ([{"type": "function"}], "0.function"),
            ([F, {"type": "custom", "function": {"name": "f"}}], "1.type"),
            ([F, {"type": "function", "function": {}}], "1.function.name"),
            ([{"type": "function", "function": {"name": None}}], "0.function.name"),
            ([{"type": "function", "function": {"name": "f", "parameters": []}}], "0.function.parameters"),
            ([{"type": "function", "function": {"name": "f", "parameters": "{}"}}], "0.function.parameters"),
            ([{"type": "function", "function": {"name": "f", "description": 1}}], "0.function.description"),
            ([{"type": "function", "function": {"name": "f", "strict": "maybe"}}], "0.function.strict"),
            ([F, 3], "1"),
        ],
        ids=str,
    )
    async def test_a_tool_of_another_shape_is_told_with_its_path(self, api, tools, path):
        error = (await api.chat(tools=tools)).error
        assert (error["code"], error["type"], error["param"]) == (400, "Bad Request", f"body.tools.{path}")


class TestDefinitions:
    def tools(self, *bodies):
        schemas = [{"type": "object", "$defs": {"d": body}} for body in bodies]
        return [{"type": "function", "function": {"name": "f", "parameters": one}} for one in schemas]

    async def test_two_under_one_name_are_refused_where_one_of_the_tools_must_be_called(self, api):
        clash, same = (
            self.tools({"type": "integer"}, {"type": "string"}),
            self.tools({"type": "null"}, {"type": "null"}),
        )
        error = await refused(api, tools=clash, tool_choice="required")
        assert error["param"] == "tools" and "$defs" in error["message"]
        assert (await read(api, tools=same, tool_choice="required")).requires_tool_call
        assert (await read(api, tools=clash)).tool_choice == "auto"

    @pytest.mark.parametrize("odd", [None, [], "x", {}])
    async def test_what_are_none_is_left_to_the_grammar(self, api, odd):
        tool = {"type": "function", "function": {"name": "f", "parameters": {"$defs": odd}}}
        assert (await read(api, tools=[tool, tool], tool_choice="required")).requires_tool_call


class TestAuto:
    """It needs a parser; what must be called does not."""

    WORDS = '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'

    @pytest.mark.parametrize(
        "llm",
        [FakeLLM(), FakeLLM(tool_parser="hermes", enable_auto_tool_choice=False)],
        ids=["no parser", "switched off"],
    )
    async def test_without_it_the_two_flags_are_named(self, make_api, llm):
        api = make_api(llm=llm)
        for fields, param in (
            ({}, "tools"),
            ({"tool_choice": None}, "tools"),
            ({"tool_choice": "auto"}, "tool_choice"),
        ):
            error = await refused(api, tools=[F], **fields)
            assert (error["message"].startswith(self.WORDS), error["param"]) == (True, param)
        for choice in ("required", NAMED, "none"):
            assert (await api.chat(tools=[F, G], tool_choice=choice)).status == 200


class TestConstraints:
    CONSTRAINTS = (
        {"structured_outputs": {"json": {}}},
        {"structured_outputs": {"regex": "a"}},
        {"structured_outputs": {"choice": ["a"]}},
        {"structured_outputs": {"grammar": "a"}},
        {"structured_outputs": {"json_object": True}},
    )
    FORMATS = ({"response_format": {"type": "json_object"}}, {"response_format": JSON})

    @pytest.mark.parametrize("constraint", CONSTRAINTS, ids=str)
    async def test_what_must_be_a_call_cannot_be_something_else(self, api, constraint):
        for choice in ("required", NAMED):
            assert (await refused(api, tools=[F, G], tool_choice=choice, **constraint))["param"] == "tool_choice"

    @pytest.mark.parametrize("format", FORMATS, ids=str)
    async def test_a_response_format_has_nothing_to_hold_beside_a_forced_call(self, api, format):
        for choice in ("required", NAMED):
            assert (await read(api, tools=[F, G], tool_choice=choice, **format)).requires_tool_call
            assert api.llm.calls[-1].params.structured_outputs is None

    async def test_but_it_has_to_be_one_and_alone(self, api):
        both = {"response_format": JSON, "structured_outputs": {"json": {}, "disable_any_whitespace": True}}
        assert (await refused(api, tools=[F], tool_choice="required", **both))["param"] == "tool_choice"
        wrong = {"response_format": {"type": "json_schema"}}
        assert (await refused(api, tools=[F], tool_choice="required", **wrong))["param"] == "response_format"

    @pytest.mark.parametrize("constraint", (*CONSTRAINTS, *FORMATS), ids=str)
    async def test_what_may_be_one_can(self, api, constraint):
        for choice in ("auto", "none", None):
            assert (await read(api, tools=[F], tool_choice=choice, **constraint)).tools == (F,)
            assert api.llm.calls[-1].params.structured_outputs is not None

    async def test_a_format_of_text_is_no_constraint(self, api):
        assert (await read(api, tools=[F], tool_choice="required", response_format={"type": "text"})).requires_tool_call
