"""Constraints that are meant to exhaust the server: huge, deep, recursive, ambiguous, exponential."""

import json

from jaxserve.structured_outputs import StructuredOutputs


def schema(value):
    return StructuredOutputs(json=json.dumps(value))


def nested(levels, inner):
    for _ in range(levels):
        inner = {"type": "object", "properties": {"a": inner}, "required": ["a"]}
    return inner


def wide(prefix, num):
    return {"type": "object", "properties": {f"{prefix}{i}": {"type": "integer", "minimum": i} for i in range(num)}}


def tag(levels):
    format = {"type": "any_text"}
    for _ in range(levels):
        format = {"type": "optional", "content": format}
    return StructuredOutputs(structural_tag=json.dumps({"format": format}))


LOOP = {"$defs": {f"d{i}": {"$ref": f"#/$defs/d{(i + 1) % 500}"} for i in range(500)}, "$ref": "#/$defs/d0"}
PRODUCT = {"allOf": [{"anyOf": [{"properties": {f"p{i}": {"const": j}}} for j in range(5)]} for i in range(20)]}
WIDE = wide("property_", 5000)
MUTUAL = {
    "$defs": {
        f"d{i}": {"type": "object", "properties": {f"p{j}": {"$ref": f"#/$defs/d{j}"} for j in range(40)}}
        for i in range(40)
    },
    "allOf": [{"$ref": f"#/$defs/d{i}"} for i in range(40)],
}
PATTERNS = {"patternProperties": {f"^x{i}$": {"type": "integer"} for i in range(300)}}

HOSTILE = {
    "regex with nested stars": StructuredOutputs(regex="(((a*)*)*b)*" * 20),
    "regex that backtracks": StructuredOutputs(regex="(x+x+)+y" * 30),
    "regex with huge repeats": StructuredOutputs(regex="((a{1,1000}){1,1000}){1,1000}"),
    "regex with huge alternating repeats": StructuredOutputs(regex="((ab|bc|ca){1,1000}x?){1000,2000}y"),
    "regex that is ambiguous": StructuredOutputs(regex="(.*a){30}.*"),
    "regex that counts backwards": StructuredOutputs(regex="[ab]*a[ab]{60}"),
    "regex with many parentheses": StructuredOutputs(regex="(" * 8000 + ")" * 8000),
    "regex with many words": StructuredOutputs(regex="|".join(f"w{i}x{i * 7919}" for i in range(1200))),
    "regex with all letters": StructuredOutputs(regex=r"[\p{L}\p{N}]{1,5000}[^\p{L}]{1,5000}"),
    "choice of 20 000": StructuredOutputs(choice=tuple(f"item {i * 7919 % 20011} of many" for i in range(20_000))),
    "choice of one megabyte": StructuredOutputs(choice=("x" * (1 << 20),)),
    "schema of 500 references in a circle": schema(LOOP),
    "schema of 5^20 options": schema(PRODUCT),
    "schema of 5000 properties": schema(WIDE),
    "schema of ten times 300 properties": schema({"anyOf": [wide(f"{i}_", 300) for i in range(10)]}),
    "schema of 40 times 40 references": schema(MUTUAL),
    "schema of 300 patterns of keys": schema(PATTERNS),
    "schema 31 levels deep": schema(nested(31, {})),
    "schema 3000 levels deep": StructuredOutputs(json='{"items":' * 3000 + "{}" + "}" * 3000),
    "schema of a 20 000-way enum": schema({"enum": [f"value {i * 7919}" for i in range(20_000)]}),
    "schema of a billion items": schema({"type": "array", "items": {"type": "integer"}, "minItems": 10**9}),
    "schema of up to a billion items": schema({"type": "array", "maxItems": 10**9}),
    "schema of a million items of items": schema(
        {"items": {"maxItems": 1000, "items": {"maxItems": 1000}}, "maxItems": 1000}
    ),
    "schema of a billion characters": schema({"type": "string", "minLength": 10**9}),
    "schema of up to a million characters": schema({"type": "string", "maxLength": 10**6}),
    "schema of long patterns": schema({"allOf": [{"pattern": f"^.*a.{{{i}}}b"} for i in range(40, 60)]}),
    "schema that is its own option": schema({"anyOf": [{"$ref": "#"}, {"type": "null"}]}),
    "schema that grows by itself": schema(
        {"type": "object", "additionalProperties": {"allOf": [{"$ref": "#"}, {"minProperties": 1}]}}
    ),
    "lark that is left recursive": StructuredOutputs(grammar='start: start start | "a" | ""'),
    "lark that is nothing": StructuredOutputs(grammar="start: start"),
    "lark of a billion": StructuredOutputs(grammar='start: b{1000}\nb: c{1000}\nc: "a"{1000}'),
    "lark of a billion letters": StructuredOutputs(grammar="start: A\nA: B{1000}\nB: C{1000}\nC: /[ab]/{1000}"),
    "lark with many parentheses": StructuredOutputs(grammar="start: " + "(" * 30_000 + '"a"' + ")" * 30_000),
    "lark that doubles": StructuredOutputs(
        grammar="start: r0\n" + "\n".join(f"r{i}: r{i + 1} r{i + 1}" for i in range(60)) + '\nr60: "a"'
    ),
    "gbnf with many parentheses": StructuredOutputs(grammar="root ::= " + "(" * 5000 + '"a"' + ")" * 5000),
    "gbnf that is ambiguous": StructuredOutputs(grammar='root ::= root root | [a-z] root | ""'),
    "gbnf of a megabyte": StructuredOutputs(
        grammar="root ::= r0\n" + "".join(f'r{i} ::= "{i}"\n' for i in range(50_000))
    ),
    "gbnf of a megabyte in brackets": StructuredOutputs(grammar='root ::= "(" root ")" | "' + "ab" * 500_000 + '"'),
    "gbnf of optional letters in brackets": StructuredOutputs(grammar='root ::= "(" root ")" | ' + "[a-z]? " * 1000),
    "gbnf that doubles": StructuredOutputs(
        grammar='root ::= r0 | "(" root ")"\n'
        + "".join(f"r{i} ::= r{i + 1} r{i + 1}\n" for i in range(60))
        + 'r60 ::= "b"'
    ),
    "structural tag 70 levels deep": tag(34),
    "structural tag 9000 levels deep": StructuredOutputs(structural_tag="[" * 9000 + "]" * 9000),
    "whitespace that explodes": StructuredOutputs(json="{}", whitespace_pattern=r"(\s{1,500}){1,500}"),
}
