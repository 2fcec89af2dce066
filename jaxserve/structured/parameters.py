"""What each parameter of a call may be, where arguments are written one by one and strings are not quoted."""

import re
from dataclasses import dataclass
from typing import Any

from jaxserve.errors import InvalidParameter
from jaxserve.structured.keywords import cannot_enforce
from jaxserve.structured.schema import JsonGrammar, Merger, grammar_of, merger_of
from jaxserve.structured.shapes import Schema

_TEXT_KEYWORDS = {"type", "minLength", "maxLength", "pattern", "allOf"}


@dataclass(frozen=True, slots=True)
class Parameter:
    """One property. json: the grammar of its JSON; None: it is text, one of `texts` if there are any.

    conditions   regular expressions, each of which the whole text matches
    """

    name: str
    is_required: bool
    json: JsonGrammar | None = None
    texts: tuple[str, ...] = ()
    conditions: tuple[str, ...] = ()


def parameters_of(shape: Schema) -> list[Parameter]:
    """In declared order. Raises InvalidParameter for a schema that is more than an object of declared properties."""
    merger = merger_of(shape)
    whole = merger.whole(is_object=True)
    if whole is False:
        raise InvalidParameter("no JSON value is valid under the schema.")
    if whole.get("type") != "object" or whole.get("additionalProperties") is not False or "patternProperties" in whole:
        raise InvalidParameter("parameters that are not written as JSON need a schema of declared properties alone.")
    required = whole.get("required", ())
    found = []
    for name, schema in whole.get("properties", {}).items():
        if schema is not False:
            found.append(_parameter(name, name in required, schema, merger, shape))
    return found


def _parameter(name: str, is_required: bool, schema: Any, merger: Merger, shape: Schema) -> Parameter:
    """Text wherever it may be a string: what reads it then takes it for the first of the types that it fits."""
    options = schema.get("anyOf", [schema])
    texts = [text for option in options if (said := _texts(option)) is not None for text in said]
    if all(_texts(option) is not None for option in options) and any("enum" in option for option in options):
        return Parameter(name, is_required, texts=tuple(texts))
    if not any(_may_be_string(option, merger.definitions, frozenset()) for option in options):
        return Parameter(name, is_required, json=grammar_of(schema, merger, shape.whitespace))
    bare = [option for option in options if option.keys() == {"type"}]
    others = [option for option in options if option.keys() != {"type"}]
    if len(others) > 1 or not all(option.keys() <= _TEXT_KEYWORDS and "type" in option for option in others):
        keyword = "anyOf" if len(options) > 1 else min(schema.keys() - _TEXT_KEYWORDS, default="type")
        raise _cannot(keyword, name)
    is_any = any("string" in option["type"] for option in bare)
    conditions = () if is_any or not others else _conditions(others[0], name)
    return Parameter(name, is_required, conditions=conditions)


def _texts(option: dict[str, Any]) -> tuple[str, ...] | None:
    """The texts of a listed string, or of null; None for anything else."""
    if option == {"type": "null"}:
        return ("null",)
    values = option.get("enum")
    return tuple(values) if values and all(isinstance(value, str) for value in values) else None


def _cannot(keyword: str, name: str) -> InvalidParameter:
    return cannot_enforce(keyword, f"#/properties/{name}", "this parameter is written without quotes")


def _may_be_string(schema: Any, definitions: dict[str, Any], seen: frozenset[str]) -> bool:
    if schema is False:
        return False
    if "$ref" in schema:
        reference = schema["$ref"].removeprefix("#/$defs/")
        if reference in seen:
            return False
        return _may_be_string(definitions[reference], definitions, seen | {reference})
    if "anyOf" in schema:
        return any(_may_be_string(option, definitions, seen) for option in schema["anyOf"])
    if "enum" in schema:
        return any(isinstance(value, str) for value in schema["enum"])
    return "string" in schema.get("type", "string")


def _conditions(schema: dict[str, Any], name: str) -> tuple[str, ...]:
    found = []
    if "minLength" in schema or "maxLength" in schema:
        found.append(f"(?s:.){{{schema.get('minLength', 0)},{schema.get('maxLength', '')}}}")
    for rule in [schema, *schema.get("allOf", ())]:
        if "format" in rule:
            raise _cannot("format", name)
        if "pattern" in rule:
            found.append(_whole(rule["pattern"], name))
    return tuple(found)


def _whole(pattern: str, name: str) -> str:
    """A pattern that is searched for, as one that the whole text matches."""
    if "|" in pattern and re.match(r"\^|.*\$", pattern, re.S) and not re.fullmatch(r"\^\(\?:.*\)\$", pattern, re.S):
        raise _cannot("pattern", name)
    before, after = "(?s:.*)", "(?s:.*)"
    if pattern.startswith("^"):
        before, pattern = "", pattern[1:]
    if pattern.endswith("$") and not pattern.endswith("\\$"):
        pattern, after = pattern[:-1], ""
    return f"{before}(?:{pattern}){after}"
