"""Cases of scripts/check_kinds that ask the model: schemas, grammars, tool calls, and how answers are read."""

import ipaddress
import json
import re
from decimal import Decimal
from typing import Any

from jsonschema import Draft202012Validator

from scripts.kind_checks.client import Api, Case, Outcome, Reply, forced, tool

ORDER = {
    "type": "object",
    "required": ["bed", "rows"],
    "properties": {"bed": {"type": "string", "enum": ["north", "south"]}, "rows": {"type": "integer", "maximum": 9}},
}
WATER = tool(
    "water",
    parameters={
        "type": "object",
        "required": ["bed"],
        "properties": {"bed": {"type": "string"}, "litres": {"type": "integer"}},
    },
)
WATERED = ("water", {"bed": "roses", "litres": 4})


def json_schema(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


def is_valid(text: str, schema: Any) -> bool:
    try:
        return Draft202012Validator(schema).is_valid(json.loads(text))
    except ValueError:
        return False


def parsed(reply: Reply) -> list[tuple[str, Any]]:
    """The calls of a reply; arguments that are no JSON stay text."""
    calls = []
    for name, arguments in reply.calls:
        try:
            calls.append((name, json.loads(arguments)))
        except ValueError:
            calls.append((name, arguments))
    return calls


def is_called(reply: Reply, schema: Any) -> bool:
    return len(reply.calls) == 1 and is_valid(reply.calls[0][1], schema) and reply.finish_reason == "tool_calls"


def behind(keyword: str) -> Any:
    """A case: the parameters stand behind `keyword` at the root."""
    inner = {"$ref": "#/definitions/Order"}
    root = inner if keyword == "$ref" else {"allOf": [inner]}
    parameters = root | {"definitions": {"Order": ORDER}}

    def check(api: Api) -> Outcome:
        reply = api.chat("Plant two rows in the south bed.", **forced(tool("plant", parameters=parameters)))
        return is_called(reply, parameters) or reply.is_refused(keyword), reply

    return check


def enum_behind_anyof(api: Api) -> Outcome:
    parameters = {
        "type": "object",
        "required": ["soil"],
        "properties": {"soil": {"anyOf": [{"$ref": "#/$defs/Soil"}, {"type": "null"}]}},
        "$defs": {"Soil": {"type": "string", "enum": ["clay", "sand"]}},
    }
    reply = api.stream("Which soil do tulips like?", **forced(tool("note", parameters=parameters)))
    return is_called(reply, parameters), reply


def mark_left_out(*parts: str) -> Any:
    """A case: a call in tags, written in these parts, is read whole and streamed."""
    text = "Yes. <tool_call>\n<function=water>\n" + "".join(parts) + "</function>\n</tool_call>"

    def check(api: Api) -> Outcome:
        fields = {"tools": [WATER], "structured_outputs": {"choice": [text]}, "parallel_tool_calls": False}
        whole, streamed = api.chat("Water the roses.", **fields), api.stream("Water the roses.", **fields)
        return parsed(whole) == parsed(streamed) == [WATERED], (str(whole), str(streamed))

    return check


def exclusive_bound(api: Api) -> Outcome:
    (two,), (end,) = api.token_ids("2"), api.token_ids("<|im_end|>")
    schema = {"type": "number", "exclusiveMinimum": 2, "maximum": 2.4}
    bias = {str(two): 90, str(end): 100}
    reply = api.chat("Choose a width.", response_format=json_schema(schema), logit_bias=bias, max_tokens=20)
    return reply.finish_reason == "stop" and 2 < Decimal(reply.content) <= Decimal("2.4"), reply


def listed_numbers(api: Api) -> Outcome:
    numbers = {
        "parcel": {"enum": [2305843009213693953]},
        "east": {"const": 52.37403000000001},
        "low": {"const": -(2**63)},
    }
    schema = {"type": "object", "properties": numbers, "required": [*numbers], "additionalProperties": False}
    reply = api.chat("Where is it?", response_format=json_schema(schema), max_tokens=160)
    digits = re.findall(r"-?\d[\d.]*", reply.content)
    return digits == ["2305843009213693953", "52.37403000000001", "-9223372036854775808"], reply


def no_parameters(api: Api) -> Outcome:
    replies = [api.chat("Is the tap open?", **forced(tool("tap_state", **rest))) for rest in ({}, {"parameters": None})]
    right = all(reply.calls == (("tap_state", "{}"),) and reply.finish_reason == "tool_calls" for reply in replies)
    return right, [str(reply) for reply in replies]


def gbnf_sentence(api: Api) -> Outcome:
    (letter,), (end,) = api.token_ids("s"), api.token_ids("<|im_end|>")
    grammar = 'root ::= "[" root "]" | stem "s"\nstem ::= [a-z]+\n'
    bias = {str(letter): 90, str(end): 100}
    reply = api.chat("Name a tool.", structured_outputs={"grammar": grammar}, logit_bias=bias, max_tokens=12)
    return reply.finish_reason == "stop" and re.fullmatch("[a-z]+s", reply.content) is not None, reply


def formats(api: Api) -> Outcome:
    hosts = {
        "type": "object",
        "propertyNames": {"format": "ipv4"},
        "additionalProperties": {"type": "boolean"},
        "minProperties": 1,
        "maxProperties": 1,
    }
    shelf = {"type": "string", "format": "shelf-mark", "maxLength": 3}
    schema = {"type": "object", "properties": {"hosts": hosts, "shelf": shelf}, "required": ["hosts", "shelf"]}
    schema["additionalProperties"] = False
    reply = api.chat("Which hosts answer?", response_format=json_schema(schema), max_tokens=160)
    if not is_valid(reply.content, schema):
        return False, reply
    names = [ipaddress.IPv4Address(name) for name in json.loads(reply.content)["hosts"]]
    unenforced = (reply.headers or {}).get("x-jaxserve-unenforced")
    return len(names) == 1 and unenforced == "shelf-mark", (str(reply), unenforced)


def line_separators(api: Api) -> Outcome:
    text = "ebb\u2028flow\u2029slack\u0085tide"
    try:
        reply = api.stream("Tides?", structured_outputs={"choice": [text]})
    except ValueError as error:
        return False, f"a line is no JSON: {error}"
    return reply.content == text, reply


def wide_union(api: Api) -> Outcome:
    """No object has too many fields, but their union has too many that may come next."""
    kinds = [
        {"type": "object", "properties": {f"plot{kind}_{number}": {"type": "integer"} for number in range(40)}}
        for kind in range(20)
    ]
    union = {"anyOf": [kind | {"additionalProperties": False} for kind in kinds]}
    reply = api.stream("Fill it in.", response_format=json_schema(union), max_tokens=60)
    return reply.is_refused("response_format", "'anyOf'") or (reply.status == 200 and not reply.error), reply


def spaced_name(api: Api) -> Outcome:
    reply = api.chat("Open the tap.", **forced(tool("open tap")))
    return reply.calls == (("open tap", "{}"),) or reply.is_refused("tools.0.function.name", "open tap"), reply


def unmarked_call(before: str, behind: str) -> Any:
    """A case: a conversation whose calls are bare JSON, which the model goes on with."""
    messages = []
    for bed in ("beans", "leeks", "mint", "sage", "roses"):
        written = json.dumps({"name": "water", "arguments": {"bed": bed, "litres": 4}})
        messages.append({"role": "user", "content": f"Water the {bed}: 4 litres."})
        messages.append({"role": "assistant", "content": before + written + behind})

    def check(api: Api) -> Outcome:
        fields = {"tools": [WATER], "messages": messages[:-1]}
        whole, streamed = api.chat("", **fields), api.stream("", **fields)
        right = parsed(whole) == parsed(streamed) == [WATERED] and not (whole.content + streamed.content).strip()
        return right and whole.finish_reason == "tool_calls", (str(whole), str(streamed))

    return check


def stop_within_call(api: Api) -> Outcome:
    text = '<tool_call>\n{"name": "water", "arguments": {"bed": "roses"}}\n</tool_call>'
    fields = {"tools": [WATER], "structured_outputs": {"choice": [text]}, "stop": ["arguments"]}
    whole, streamed = api.chat("Water the roses.", **fields), api.stream("Water the roses.", **fields)
    right = whole.said == streamed.said and not whole.calls and whole.finish_reason == "stop" and whole.content
    return bool(right), (str(whole), str(streamed))


def absurd_count(api: Api) -> Outcome:
    reply = api.chat("Go on.", response_format=json_schema({"type": "string", "minLength": 3_000_000_000}))
    return reply.is_refused("minLength", "3000000000"), reply


def null_keywords(api: Api) -> Outcome:
    parameters = {"type": "object", "properties": {"bed": {"enum": ["north"], "required": None}}, "required": None}
    reply = api.chat("Rake it.", **forced(tool("rake", parameters=parameters | {"additionalProperties": False})))
    return len(reply.calls) == 1 and parsed(reply)[0][1] in ({}, {"bed": "north"}), reply


def format_beside_forced_call(api: Api) -> Outcome:
    reply = api.chat("Open the tap.", response_format={"type": "json_object"}, **forced(tool("open_tap")))
    refused = api.chat("Open the tap.", structured_outputs={"json_object": True}, **forced(tool("open_tap")))
    right = reply.calls == (("open_tap", "{}"),) and refused.is_refused("structured_outputs")
    return right, (str(reply), str(refused))


BOTH = ("hermes", "qwen3_coder")
CASES = (
    Case("01 root $ref", "a forced call, parameters behind a root $ref", "qwen3_coder", behind("$ref")),
    Case("01 root allOf", "a forced call, parameters behind a root allOf", "qwen3_coder", behind("allOf")),
    Case("02 enum", "an enum behind anyOf, $ref and null, streamed", "qwen3_coder", enum_behind_anyof),
    Case(
        "03 dropped mark",
        "</parameter> left out between parameters",
        "qwen3_coder",
        mark_left_out("<parameter=bed>\nroses\n", "<parameter=litres>\n4\n</parameter>\n"),
    ),
    Case(
        "03 dropped mark",
        "</parameter> left out before </function>",
        "qwen3_coder",
        mark_left_out("<parameter=bed>\nroses\n</parameter>\n", "<parameter=litres>\n4\n"),
    ),
    Case("04 exclusive bound", "above 2, up to 2.4, biased towards 2", "hermes", exclusive_bound),
    Case("05 digits", "a 64-bit id, a double, -2^63 as enum and const", "hermes", listed_numbers),
    *(Case("06 no parameters", f"functions without parameters ({name})", name, no_parameters) for name in BOTH),
    Case("07 GBNF", "a recursive grammar: a class, then one of its characters", "hermes", gbnf_sentence),
    Case("09 formats", "propertyNames with a format, a value with an unknown one", "hermes", formats),
    Case("11 line separators", "U+2028, U+2029 and U+0085 in a stream", "hermes", line_separators),
    Case("12 wide union", "a union of 20 objects of 40 optional fields, streamed", "hermes", wide_union),
    *(Case("13 name with space", f"a function called 'open tap' ({name})", name, spaced_name) for name in BOTH),
    *(Case("15 unmarked call", f"bare JSON ({name})", name, unmarked_call("", "")) for name in BOTH),
    Case("15 unmarked call", "JSON in a fence", "hermes", unmarked_call("```json\n", "\n```")),
    Case("16 stop string", "a stop string inside a call, whole and streamed", "hermes", stop_within_call),
    Case("16 absurd count", "minLength: 3000000000", "hermes", absurd_count),
    Case("16 null keywords", '"required": null in parameters', "hermes", null_keywords),
    Case("a forced call", "response_format beside tool_choice required", "hermes", format_beside_forced_call),
)
