"""response_format and structured_outputs, alone and together: the constraint that they become, and what is refused."""

import logging

import pytest

from jaxserve import InvalidParameter, PromptTooLong, StructuredOutputs
from server.schemas import common

ROUTES = ["/v1/chat/completions", "/v1/completions"]
BODIES = {ROUTES[0]: {"messages": [{"role": "user", "content": "Hi"}]}, ROUTES[1]: {"prompt": "Hi"}}
SCHEMA = {"type": "object", "properties": {"z": {"const": "\u00e9"}, "a": {}}}
TEXT = '{"type":"object","properties":{"z":{"const":"\u00e9"},"a":{}}}'
TAGS = {"structures": [{"begin": "<f>", "schema": {}, "end": "</f>"}], "triggers": ["<f"]}


def wrapped(schema):
    return {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": False, "description": "d"}}


@pytest.fixture(params=ROUTES)
def ask(api, request):
    """Asks one of the routes that take constraints: (status and the constraint, or the error)."""

    async def ask(**fields):
        answer = await api.post(request.param, BODIES[request.param] | fields)
        if answer.status == 200:
            params = api.llm.calls[-1].params
            assert api.llm.calls[-1].params == params, "what was prepared is not what runs"
            return params.structured_outputs
        assert (answer.status, answer.error["type"]) == (400, "BadRequestError"), answer.text
        assert not api.llm.calls
        return answer.error

    return ask


class TestStructuredOutputs:
    @pytest.mark.parametrize(
        ("structured_outputs", "becomes"),
        [
            ({"json": SCHEMA}, StructuredOutputs(json=TEXT)),
            ({"json": '{ "a": 1 }'}, StructuredOutputs(json='{ "a": 1 }')),
            ({"json": {}}, StructuredOutputs(json="{}")),
            ({"json": "true"}, StructuredOutputs(json="true")),
            ({"regex": "a+"}, StructuredOutputs(regex="a+")),
            ({"regex": ""}, StructuredOutputs(regex="")),
            ({"choice": ["a", "", " b"]}, StructuredOutputs(choice=("a", "", " b"))),
            ({"grammar": 'root ::= "a"'}, StructuredOutputs(grammar='root ::= "a"')),
            ({"json_object": True}, StructuredOutputs(json_object=True)),
            ({"json_object": "yes", "regex": None}, StructuredOutputs(json_object=True)),
            ({"structural_tag": "{}"}, StructuredOutputs(structural_tag="{}")),
            (
                {
                    "json": SCHEMA,
                    "disable_any_whitespace": True,
                    "disable_additional_properties": "on",
                    "whitespace_pattern": " ?",
                },
                StructuredOutputs(
                    json=TEXT,
                    disable_any_whitespace=True,
                    disable_additional_properties=True,
                    whitespace_pattern=" ?",
                ),
            ),
        ],
    )
    async def test_each_key_becomes_the_constraint(self, ask, structured_outputs, becomes):
        assert await ask(structured_outputs=structured_outputs) == becomes

    @pytest.mark.parametrize("said", [None, "auto", "xgrammar", "guidance", "outlines", "lm-format-enforcer"])
    async def test_hints_about_engines_change_nothing(self, ask, said):
        hints = {"_backend": said, "_backend_was_auto": True, "disable_fallback": True, "unknown": 1}
        assert await ask(structured_outputs={"regex": "a", **hints}) == StructuredOutputs(regex="a")

    @pytest.mark.parametrize(
        "wrong",
        [
            {},
            {"regex": None},
            {"disable_any_whitespace": True},
            {"regex": "a", "grammar": "b"},
            {"json": {}, "json_object": True},
            {"json_object": False},
            {"choice": []},
            {"json": " "},
            {"grammar": ""},
            {"structural_tag": "\n"},
            {"regex": "a", "_backend": "magic"},
        ],
        ids=str,
    )
    async def test_what_is_no_single_constraint_is_refused(self, ask, wrong):
        assert (await ask(structured_outputs=wrong))["param"] == "structured_outputs"

    @pytest.mark.parametrize(
        ("wrong", "path"),
        [
            ({"json": True}, "json"),
            ({"json": [1]}, "json"),
            ({"choice": ["a", 1]}, "choice.1"),
            ({"regex": 1}, "regex"),
        ],
    )
    async def test_a_wrong_type_is_told_with_its_path(self, api, wrong, path):
        error = (await api.chat(structured_outputs=wrong)).error
        assert (error["type"], error["param"]) == ("Bad Request", f"body.structured_outputs.{path}")


class TestResponseFormat:
    @pytest.mark.parametrize(
        ("response_format", "becomes"),
        [
            ({"type": "text"}, None),
            ({"type": "text", "json_schema": {"anything": 1}}, None),
            ({"type": "json_object", "json_schema": None}, StructuredOutputs(json_object=True)),
            (wrapped(SCHEMA), StructuredOutputs(json=TEXT)),
            (wrapped({}), StructuredOutputs(json="{}")),
            (
                {"type": "structural_tag", "format": {"type": "any_text"}},
                StructuredOutputs(structural_tag='{"type":"structural_tag","format":{"type":"any_text"}}'),
            ),
            (
                {"type": "structural_tag", **TAGS},
                StructuredOutputs(
                    structural_tag='{"type":"structural_tag","structures":[{"begin":"<f>","schema":{},"end":"</f>"}],'
                    '"triggers":["<f"]}'
                ),
            ),
        ],
        ids=str,
    )
    async def test_each_type_becomes_its_constraint(self, ask, response_format, becomes):
        assert await ask(response_format=response_format) == becomes

    @pytest.mark.parametrize(
        "wrong",
        [
            {"type": "xml"},
            {"type": "json_schema"},
            {"type": "json_schema", "json_schema": None},
            {"type": "json_schema", "json_schema": {"name": "n"}},
            {"type": "json_schema", "json_schema": {"name": "n", "schema": None}},
            {"type": "json_schema", "json_schema": {"name": "n", "schema": True}},
            {"type": "json_schema", "json_schema": {"schema": {}}},
            {"type": "json_schema", "json_schema": {"name": 1, "schema": {}}},
            {"type": "structural_tag"},
            {"type": "structural_tag", "structures": []},
        ],
        ids=str,
    )
    async def test_what_is_none_is_refused(self, ask, wrong):
        assert (await ask(response_format=wrong))["param"] == "response_format"


class TestTogether:
    @pytest.mark.parametrize(
        ("form", "asked", "becomes"),
        [
            ({"type": "text"}, {"regex": "a"}, StructuredOutputs(regex="a")),
            (wrapped({}), {"json": SCHEMA}, StructuredOutputs(json="{}")),
            (
                wrapped({}),
                {"json": "true", "disable_any_whitespace": True},
                StructuredOutputs(json="{}", disable_any_whitespace=True),
            ),
            ({"type": "json_object"}, {"json_object": True}, StructuredOutputs(json_object=True)),
        ],
        ids=str,
    )
    async def test_the_format_wins_over_the_same_key(self, ask, form, asked, becomes):
        assert await ask(response_format=form, structured_outputs=asked) == becomes

    @pytest.mark.parametrize(
        ("form", "asked"),
        [
            ({"type": "json_object"}, {"json": {}}),
            (wrapped({}), {"json_object": True}),
            (wrapped({}), {"regex": "a"}),
            ({"type": "structural_tag", **TAGS}, {"choice": ["a"]}),
            (wrapped({}), {}),
        ],
        ids=str,
    )
    async def test_two_constraints_are_refused(self, ask, form, asked):
        assert (await ask(response_format=form, structured_outputs=asked))["param"] == "structured_outputs"


class TestImpossible:
    """What only the grammar's compiler can know."""

    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize(
        ("fields", "param"),
        [
            ({"response_format": wrapped({})}, "response_format"),
            ({"structured_outputs": {"json": {}}}, "structured_outputs"),
            ({"structured_outputs": {"json": {}}, "response_format": wrapped({})}, "response_format"),
            ({"structured_outputs": {"json": {}}, "response_format": {"type": "text"}}, "structured_outputs"),
        ],
    )
    async def test_it_is_a_400_about_the_field_that_was_used(self, api, ask, fields, param, stream):
        for message in ("structured_outputs: multipleOf cannot be enforced", "There is no structured_outputs."):
            api.llm.plan_error = InvalidParameter(message, "structured_outputs")
            error = await ask(stream=stream, **fields)
            is_first = message.startswith("structured_outputs")
            expected = message.replace("structured_outputs", param) if is_first else message
            assert (error["param"], error["message"]) == (param, expected)

    async def test_other_errors_keep_their_field(self, api, ask):
        api.llm.plan_error = PromptTooLong("too long", "messages")
        assert (await ask(structured_outputs={"regex": "a"}))["param"] == "messages"

    @pytest.mark.parametrize("route", ROUTES)
    async def test_it_is_known_without_running(self, api, route):
        api.llm.plan_error = InvalidParameter("no", "structured_outputs")
        answer = await api.post(route + "/render", BODIES[route] | {"structured_outputs": {"regex": "a"}})
        assert (answer.status, answer.error["param"]) == (400, "structured_outputs")

    @pytest.mark.parametrize("route", ROUTES)
    async def test_what_would_be_run_has_its_constraint(self, api, route):
        answer = await api.post(route + "/render", BODIES[route] | {"structured_outputs": {"regex": "a"}})
        shown = answer.json if isinstance(answer.json, dict) else answer.json[0]
        assert shown["sampling_params"]["structured_outputs"]["regex"] == "a"


async def test_the_old_guided_fields_are_unknown_and_warned_of_once(ask, caplog, monkeypatch):
    monkeypatch.setattr(common, "_warned_fields", set())
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert await ask(guided_regex="a", guided_json={}) is None
    assert sorted("guided_json" in message for message in caplog.messages) == [False, True]


@pytest.mark.parametrize("field", [{"response_format": wrapped({})}, {"structured_outputs": {"json": {}}}])
async def test_a_constraint_that_breaks_off_in_mid_stream_is_named_as_it_was_sent(api, field):
    api.llm.fail_at = 1
    api.llm.generate_error = InvalidParameter("structured_outputs is too complex.", "structured_outputs")
    [name] = field
    for stream in (False, True):
        answer = await api.post(ROUTES[0], BODIES[ROUTES[0]] | field | {"stream": stream})
        assert f'"{name} is too complex.' in answer.text and f'"param":"{name}"' in answer.text.replace(": ", ":")
