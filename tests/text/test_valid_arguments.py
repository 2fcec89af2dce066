"""Arguments that a grammar allows are valid once they are parsed, for all schemas, dialects and cuts."""

import json
import random

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher

from jaxserve.chat_output_spec import NamedTool
from jaxserve.errors import InvalidParameter
from jaxserve.structured.sandboxed_compile import PARSER_LIMITS, write_valid_grammar
from jaxserve.text.dialects import TOOL_PARSERS
from tests.structured.byte_tokenizer import SPECIAL_TOKENS, accepts, byte_tokenizer
from tests.structured.test_schema_walks import CHECKED, COUNTS, NAMES, PATTERNS, SCHEMAS
from tests.text.grammar_walks import walk
from tests.text.parsing import dialect, output_spec, parse, random_pieces

PARSERS = sorted(name for name, found in TOOL_PARSERS.items() if found is not None)
# One of each way of writing arguments.
DIALECTS = ["hermes", "qwen3_coder", "glm45", "minimax_m2", "seed_oss", "deepseek_v32", "mimo", "step3"]
DIALECTS += ["functiongemma", "gemma4", "pythonic", "olmo3", "openai", "mistral", "deepseek_v3"]
SHORT = st.sampled_from(["a", "b", "ab", "a-b", "n.1"])
UNION = st.lists(SCHEMAS, min_size=2, max_size=3).map(lambda options: {"anyOf": options})
VALUE = SCHEMAS | UNION | st.builds(lambda schema: {"allOf": [schema, {"$ref": "#/$defs/x"}]}, SCHEMAS)
MEMBERS = {
    "properties": st.dictionaries(SHORT | NAMES, VALUE, max_size=4),
    "required": st.lists(SHORT, max_size=2, unique=True),
    "additionalProperties": SCHEMAS,
    "patternProperties": st.dictionaries(PATTERNS, SCHEMAS, min_size=1, max_size=2),
    "minProperties": COUNTS,
    "maxProperties": COUNTS,
}
OBJECT = st.fixed_dictionaries({}, optional=MEMBERS)
ROOT = (
    OBJECT
    | st.sampled_from([{"$ref": "#/$defs/root"}])
    | st.lists(OBJECT, min_size=1, max_size=2).flatmap(
        lambda parts: st.sampled_from([{"allOf": parts}, {"anyOf": parts}, {"oneOf": parts[:1]}])
    )
)
PARAMETERS = st.builds(
    lambda schema, root, x, y: {**schema, "$defs": {"root": root, "x": x, "y": y}}, ROOT, OBJECT, SCHEMAS, SCHEMAS
)
CHOICES = st.sampled_from(["required", "auto", NamedTool("f")])


def tools(parameters, strict=True):
    return ({"type": "function", "function": {"name": "f", "parameters": parameters, "strict": strict}},)


def answers(name, parameters, choice, num=3):
    """Calls of random answers; None where the schema is refused."""
    fields = {"tools": tools(parameters), "tool_choice": choice, "parallel_tool_calls": False}
    try:
        text = write_valid_grammar(dialect(name).build_expr(output_spec(**fields)), SPECIAL_TOKENS, "tools")
    except InvalidParameter:
        return
    matcher = LLMatcher(byte_tokenizer().get_ll_tokenizer(), text, log_level=0, limits=PARSER_LIMITS)
    if matcher.is_error():  # too hard a condition, which is refused as well
        return
    for seed in range(num):
        rng = random.Random(seed)
        answer = walk(matcher, rng, 400)
        if answer is None or not accepts(matcher, answer):  # it has no end: nothing is valid under some part
            continue
        whole = parse(dialect(name), answer, **fields)
        assert parse(dialect(name), random_pieces(answer, rng), **fields).calls == whole.calls, answer
        assert whole.calls or choice == "auto", answer
        yield from ((answer, arguments) for _, arguments in whole.calls)


@given(st.sampled_from(DIALECTS), PARAMETERS, CHOICES)
@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
def test_what_a_grammar_lets_through_is_valid_once_it_is_read(name, parameters, choice):
    # jsonschema takes the empty pattern of a name for none.
    parameters = json.loads(json.dumps(parameters).replace('"": ', '"^": '))
    validator = jsonschema.Draft202012Validator(parameters, format_checker=CHECKED)
    for answer, arguments in answers(name, parameters, choice):
        wrong = [error.message for error in validator.iter_errors(json.loads(arguments))]
        assert not wrong, (answer, arguments, wrong)


@pytest.mark.parametrize(
    "others",
    [
        {"patternProperties": {"^a": {"type": "null"}, "^[a-c]+$": False}},
        {"patternProperties": {"^[a-c]": False}, "additionalProperties": {"type": "null"}},
    ],
)
def test_a_name_that_a_pattern_forbids_is_not_written(others):
    validator = jsonschema.Draft202012Validator(others)
    told = [
        arguments for name in DIALECTS for _, arguments in answers(name, {"type": "object", **others}, "required", 20)
    ]
    assert all(validator.is_valid(json.loads(arguments)) for arguments in told), told
    assert any(json.loads(arguments) for arguments in told)


SIZE = {"type": "string", "enum": ["small", "large"]}
DAY = {"type": "object", "required": ["a"], "properties": {"a": {"type": "string", "enum": ["mon", "tue"]}}}
ROOTS = {
    "root ref": {"$ref": "#/definitions/r", "definitions": {"r": DAY}},
    "root allOf": {"allOf": [DAY, {"properties": {"b": {"type": "integer"}}, "required": ["b"]}]},
    "other names": {"type": "object", "additionalProperties": {"type": "integer"}, "minProperties": 1},
    "ref": {"properties": {"a": {"$ref": "#/$defs/s"}}, "required": ["a"], "$defs": {"s": SIZE}},
    "or null": {"properties": {"a": {"anyOf": [SIZE, {"type": "null"}]}}, "required": ["a"]},
    "format": {"properties": {"a": {"type": "string", "format": "date"}}, "required": ["a"]},
    "pattern": {"properties": {"a": {"type": "string", "pattern": "[0-9]", "maxLength": 4}}, "required": ["a"]},
    "allOf": {"properties": {"a": {"allOf": [{"type": "string"}, {"maxLength": 3}]}}, "required": ["a"]},
}
EIGHT = ["qwen3_coder", "glm45", "minimax_m2", "seed_oss", "deepseek_v32", "functiongemma", "gemma4", "pythonic"]


@pytest.mark.parametrize("name", EIGHT)
@pytest.mark.parametrize("root", ROOTS)
def test_what_stands_behind_the_root_or_a_reference_is_enforced(name, root):
    found = [json.loads(arguments) for _, arguments in answers(name, ROOTS[root], "required", num=6)]
    assert found and all(found)
    for arguments in found:
        jsonschema.validate(arguments, ROOTS[root], format_checker=CHECKED)


@pytest.mark.parametrize("name", EIGHT)
def test_what_cannot_be_enforced_is_refused_by_name(name):
    parameters = {"properties": {"a": {"type": "string", "not": {"const": "x"}}}}
    with pytest.raises(InvalidParameter, match="'not' at #/properties/a") as caught:
        write_valid_grammar(dialect(name).build_expr(output_spec(tools=tools(parameters))), SPECIAL_TOKENS, "tools")
    assert caught.value.param == "tools.0.function.parameters"
