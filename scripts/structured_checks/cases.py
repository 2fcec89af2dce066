"""Schemas with questions: real functions from the Berkeley Function Calling Leaderboard, and schemas composed of every
keyword that is enforced.

BFCL v4 is part of the package bfcl-eval (Apache-2.0). Its wheel is downloaded and read, never installed.
"""

import json
import random
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator, ValidationError

from jaxserve.config import cache_dir
from jaxserve.weights import wheels

BFCL = "bfcl-eval==2026.3.23"
BFCL_BYTES = 1_925_664
BFCL_FILES = ("simple_python", "live_simple", "live_multiple", "multiple")
JSON_TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": None}
ANNOTATIONS = ("description", "default", "optional")

Schema = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Case:
    """A schema, and a question that an output under the schema can answer."""

    name: str
    schema: Schema
    question: str

    def body(self, seed: int, max_tokens: int) -> dict[str, Any]:
        """Return the body of a chat request at temperature 1."""
        return {
            "messages": [{"role": "user", "content": self.question}],
            "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": self.schema}},
            "temperature": 1.0,
            "max_tokens": max_tokens,
            "seed": seed,
        }


def judge(case: Case, choice: dict[str, Any]) -> str:
    """Judge an output: "valid", "length" (cut off by its length), or a description of the fault."""
    text = choice["message"]["content"] or ""
    if choice["finish_reason"] == "length":
        return "length"
    try:
        Draft202012Validator(case.schema).validate(json.loads(text))
    except (ValueError, ValidationError) as error:
        return f"{case.name}: {str(error)[:200]} in {text[:300]!r}"
    return "valid" if choice["finish_reason"] == "stop" else f"{case.name}: ended by {choice['finish_reason']}"


def make_cases(num: int = 200) -> list[Case]:
    """Return cases, three of five from real functions, no two with the same parameters; the others are composed."""
    composed = [composed_case(seed) for seed in range(num * 2 // 5)]
    return real_cases(num - len(composed)) + composed


def real_cases(num: int) -> list[Case]:
    """Return cases of real functions, spread evenly over all that there are."""
    all_cases = list(_functions())
    step = len(all_cases) / num
    return [all_cases[int(index * step)] for index in range(num)]


def _functions() -> Iterator[Case]:
    seen: set[str] = set()
    with zipfile.ZipFile(_wheel()) as archive:
        for file in BFCL_FILES:
            for line in archive.read(f"bfcl_eval/data/BFCL_v4_{file}.json").splitlines():
                entry = json.loads(line)
                for function in entry["function"]:
                    schema = json_schema(function["parameters"])
                    key = json.dumps(schema)
                    if key not in seen and schema.get("properties"):
                        seen.add(key)
                        yield Case(function["name"], schema, entry["question"][0][-1]["content"])


def _wheel() -> Path:
    target = cache_dir("data") / "bfcl_eval.whl"
    if not target.is_file():
        with wheels.staging_directory(target.parent) as temporary:
            wheels.download_wheels([BFCL], temporary, BFCL_BYTES)[0].rename(target)
    return target


def json_schema(parameters: Schema) -> Schema:
    """Convert BFCL's parameters to a JSON schema without descriptions.

    They have the names of Python's types, and may have the `enum` of an array's items beside the array.
    """
    schema = {key: value for key, value in parameters.items() if key not in ANNOTATIONS}
    if "type" in schema and (json_type := JSON_TYPES.get(schema["type"], schema["type"])) != schema["type"]:
        schema = {key: value for key, value in schema.items() if key != "type"} | (
            {"type": json_type} if json_type else {}
        )
    if schema.get("type") == "array" and "enum" in schema:
        schema = schema | {"items": schema.get("items", {}) | {"enum": schema["enum"]}}
        del schema["enum"]
    if isinstance(schema.get("properties"), dict):
        schema["properties"] = {name: json_schema(value) for name, value in schema["properties"].items()}
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            schema[key] = json_schema(schema[key])
    return schema


NAMES = ("id", "name", "größe", "tags", "price", "when", "note", "kind", "at", "size", "who", "next", "ok", "path")
LEAVES: tuple[Schema, ...] = (
    {"type": "string", "maxLength": 20},
    {"type": "string", "minLength": 3, "maxLength": 8},
    {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{1,4}$"},
    {"type": "string", "format": "date"},
    {"type": "string", "format": "date-time"},
    {"type": "string", "format": "uuid"},
    {"type": "string", "format": "ipv4"},
    {"type": "string", "format": "email"},
    {"type": "integer"},
    {"type": "integer", "minimum": -5, "maximum": 300},
    {"type": "integer", "exclusiveMinimum": 0},
    {"type": "number", "minimum": 0, "exclusiveMaximum": 1},
    {"type": "number"},
    {"type": "boolean"},
    {"type": "null"},
    {"type": ["string", "null"], "maxLength": 10},
    {"enum": ["red", "green", 'a "quoted" one', 7, None, True]},
    {"const": {"fixed": [1, 2, {"deep": "value"}]}},
    {"anyOf": [{"type": "integer"}, {"type": "string", "enum": ["many", "few"]}]},
    {"oneOf": [{"type": "boolean"}, {"type": "string", "maxLength": 5}]},
)


def composed_case(seed: int) -> Case:
    """Return a random object schema of three or four levels."""
    rng = random.Random(seed)
    schema = _object(rng, depth=2)
    if seed % 5 == 0:
        schema["$defs"] = {"node": _tree()}
        schema["properties"]["tree"] = {"$ref": "#/$defs/node"}
        schema["required"] = [*schema.get("required", []), "tree"]
    return Case(f"composed-{seed}", schema, f"Invent record number {seed} of a shop's database.")


def _object(rng: random.Random, depth: int) -> Schema:
    names = rng.sample(NAMES, rng.randint(2, 4))
    properties = {name: _value(rng, depth - 1) for name in names}
    schema: Schema = {"type": "object", "properties": properties, "required": rng.sample(names, rng.randint(1, 2))}
    if rng.random() < 0.5:
        schema["additionalProperties"] = False
    return schema


def _value(rng: random.Random, depth: int) -> Schema:
    kind = rng.random() if depth > 0 else 1.0
    if kind < 0.3:
        return _object(rng, depth)
    if kind < 0.5:
        return {"type": "array", "items": _value(rng, depth - 1), "minItems": rng.randint(0, 1), "maxItems": 3}
    if kind < 0.6:
        pair = [rng.choice(LEAVES), rng.choice(LEAVES)]
        return {"type": "array", "prefixItems": pair, "items": False, "minItems": 2}
    if kind < 0.7:
        return {"type": "object", "additionalProperties": rng.choice(LEAVES), "minProperties": 1, "maxProperties": 2}
    if kind < 0.8:
        return {"allOf": [_object(rng, 1)]}
    return rng.choice(LEAVES)


def _tree() -> Schema:
    children = {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 2}
    properties = {"label": {"type": "string", "maxLength": 6}, "children": children}
    return {"type": "object", "properties": properties, "required": ["label"], "additionalProperties": False}
