"""JSON schemas as llguidance can enforce them, all that they say and nothing less.

A schema is read as a conjunction of parts: its own keywords, the elements of its `allOf`, what its `$ref` points at.
Parts are merged into one schema without `allOf`, in which objects that declare properties are closed and `$ref` is left
only where something recurs. What is valid under the result is valid under the schema, but not the other way round:
declared keys come in their declared order, undeclared ones only where `additionalProperties` says so, and of `oneOf`
more than one option may hold. What cannot be enforced is refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxserve.errors import InvalidParameter
from jaxserve.structured.conjunction import Choice, Conjunction, Document, Source
from jaxserve.structured.documents import read_json
from jaxserve.structured.endings import endless
from jaxserve.structured.formats import unenforced_format
from jaxserve.structured.json_rules import JsonRules
from jaxserve.structured.keywords import cannot_enforce
from jaxserve.structured.numbers import exact, has_decimal, is_in_range, is_integer, is_number, merged_number
from jaxserve.structured.objects import MAX_OPTIONAL, has_mixed_keys, merged_objects
from jaxserve.structured.patterns import whitespace_pattern
from jaxserve.structured.scalars import merged_array, merged_string, merged_types, merged_values, schema_of
from jaxserve.structured.shapes import Schema, Whitespace
from jaxserve.structured.width import Width

MAX_DEPTH = 64
MAX_SCHEMAS = 50_000
ALL_TYPES = ["null", "boolean", "number", "string", "array", "object"]
_OBJECT = {"type": "object"}
# A few blanks, or a line break and its indentation: pretty JSON, but a small model cannot be lost in it.
SHORT_WHITESPACE = r"[ ]{1,2}|\r?\n[ \t]{0,32}"


@dataclass(frozen=True, slots=True)
class JsonGrammar:
    """A grammar for JSON: a schema that llguidance enforces, or a text in Lark. One of the two is None."""

    schema: dict[str, Any] | None = None
    lark: str | None = None


def json_grammar(shape: Schema) -> JsonGrammar:
    """The grammar of a schema. Raises InvalidParameter, which names what cannot be enforced."""
    merger = merger_of(shape)
    schema = merger.whole(is_object=shape.is_object)
    if schema is False:
        raise InvalidParameter("no JSON value is valid under the schema.")
    return grammar_of(schema, merger, shape.whitespace)


def merger_of(shape: Schema, max_schemas: int = MAX_SCHEMAS, *, is_lenient: bool = False) -> "Merger":
    """The merger of the schema's document. Raises InvalidParameter when the text is no schema."""
    root = read_json(shape.schema, "the JSON schema", MAX_DEPTH)
    if not isinstance(root, dict | bool):
        raise InvalidParameter(f"a JSON schema must be an object, got {type(root).__name__}.")
    return Merger(Document(root, is_lenient), shape.closed, max_schemas)


def grammar_of(schema: Any, merger: "Merger", whitespace: Whitespace) -> JsonGrammar:
    """The grammar of a merged schema, with what it points at, and how JSON is to be written."""
    options: dict[str, Any] = {"whitespace_flexible": False}
    if not whitespace.compact and whitespace.pattern != "":
        said = whitespace.pattern
        options = {"whitespace_pattern": SHORT_WHITESPACE if said is None else whitespace_pattern(said)}
    if merger.has_mixed_keys:
        # A key may otherwise be written with \u escapes, and so pass for another one than it is.
        options["json_allowed_escapes"] = 'nrbtf\\"'
    check_width(schema, merger)
    if has_decimal(schema) or has_decimal(merger.definitions):
        return JsonGrammar(lark=JsonRules(merger.definitions, options).grammar(schema))
    return JsonGrammar(schema | {"$defs": merger.definitions, "x-guidance": options})


def check_width(schema: Any, merger: "Merger") -> None:
    """Raises InvalidParameter where more may come next than can be followed."""
    widest = Width(schema, merger.definitions)
    if widest.count > MAX_OPTIONAL:
        keyword, path = merger.place_of(widest.schema)
        why = (
            f"{widest.count} optional properties may come next at one place, and at most {MAX_OPTIONAL} can be followed"
        )
        raise cannot_enforce(keyword, path, f"{why}; a required property with another `const` in each option helps")


class Merger:
    """Merges the schemas of one document.

    definitions      what the `$ref`s of the result point at, by name
    closed           objects that declare nothing accept no keys either
    max_schemas      of the result, parts of parts included
    has_mixed_keys   some object says different things of different keys
    unenforced       the formats that are annotations here
    """

    def __init__(self, document: Document, closed: bool, max_schemas: int = MAX_SCHEMAS) -> None:
        self.definitions: dict[str, Any] = {}
        self.closed = closed
        self.has_mixed_keys = False
        self.unenforced: dict[str, None] = {}
        self._document = document
        self._results: dict[tuple[int, ...], Any] = {}  # by the identities of what must hold; None: being made
        self._names: dict[tuple[int, ...], str] = {}
        self._places: dict[int, tuple[Any, str, str]] = {}  # of results, by their identities
        self._kept: list[Source] = []  # schemas that are in no document, whose identities must stay theirs
        self._max_schemas = max_schemas
        self._num_schemas = 0

    def whole(self, *, is_object: bool = False) -> Any:
        """The document's schema. False: nothing is valid under it."""
        schema = self.schema(Source(self._document.root), *([Source(_OBJECT)] if is_object else []))
        if not self._document.is_lenient and endless(self.definitions):
            raise InvalidParameter(
                "the JSON schema has a '$ref' that leads back there without end: no value is finite."
            )
        return schema

    def schema(self, *sources: Source | Choice, held: frozenset[int] = frozenset()) -> Any:
        """What is valid under all of these. False: nothing is. held: schemas that are known to hold."""
        conjunction = Conjunction(self._document, held)
        for source in sources:
            conjunction.add(source)
        if conjunction.is_false:
            return False
        key = conjunction.key
        if key in self._results:
            return self._again(key)
        self._results[key] = None
        result = self._results[key] = self._merged(conjunction)
        if isinstance(result, dict):
            self._places.setdefault(id(result), (result, *conjunction.place))
        if key in self._names:
            self.definitions[self._names[key]] = result
        return result

    def place_of(self, schema: Any) -> tuple[str, str]:
        """The keyword that a merged schema comes from, and where that stands."""
        _, keyword, path = self._places.get(id(schema), (schema, "properties", "#"))
        return keyword, path

    def _again(self, key: tuple[int, ...]) -> Any:
        """A schema that was met before: itself if it is small, else where it is to be found."""
        result = self._results[key]
        if result is False or (result is not None and _is_small(result)):
            return result
        name = self._names.setdefault(key, f"s{len(self._names)}")
        if result is not None:
            self.definitions[name] = result
        return {"$ref": f"#/$defs/{name}"}

    def _merged(self, conjunction: Conjunction) -> Any:
        self._num_schemas += 1
        if self._num_schemas > self._max_schemas:
            most = self._max_schemas
            raise InvalidParameter(f"the JSON schema is too complex: its parts multiply to more than {most}.")
        if conjunction.choices:
            first, *others = conjunction.choices
            held, parts = conjunction.held, conjunction.parts
            return _any_of([self.schema(*parts, *others, option, held=held) for option in first.options])
        parts = conjunction.parts
        self.unenforced |= dict.fromkeys(filter(None, (unenforced_format(part.schema) for part in parts)))
        values = merged_values(conjunction.parts)
        inexact = [value for value in values or () if isinstance(value, dict | list) and has_decimal(value)]
        if values is None or not inexact:
            return self._typed(conjunction.parts, values)
        # Of these, every member is said by a schema of its own.
        others = [value for value in values if value not in inexact]
        parts = [self._document.without_values(part) for part in conjunction.parts]
        members = [Source(schema_of(value), parts[0].path) for value in inexact]
        self._kept += members
        options = [self.schema(*parts, member, held=conjunction.held) for member in members]
        return _any_of([*options, self._typed(conjunction.parts, others)] if others else options)

    def _typed(self, parts: Sequence[Source], values: list[Any] | None) -> Any:
        """Plain keywords, merged type by type. values: what `enum` and `const` leave, where they are said."""
        types = merged_types(parts)
        allowed = set(ALL_TYPES if types is None else types)
        are_integers = "number" not in allowed
        bounds = merged_number(parts, are_integers) if allowed & {"number", "integer"} else None
        if values is not None:
            values = [value for value in values if not is_number(value) or _fits(value, bounds, are_integers)]
        elif bounds is None and allowed & {"number", "integer"}:
            allowed -= {"number", "integer"}
            types = [name for name in types or ALL_TYPES if name in allowed]
        array = merged_array(self.schema, parts) if "array" in allowed else None
        if array is None and "array" in allowed:
            allowed.remove("array")
            types = [name for name in types or ALL_TYPES if name in allowed]
        if types == [] or values == []:
            return False
        result = ((bounds or {}) if values is None else {"enum": values}) | (array or {})
        if "string" in allowed:
            result |= merged_string(parts, self.unenforced)
        if "object" not in allowed:
            return result | _type(types)
        # Values that are listed bring their own keys.
        closed = None if values is not None else self.closed
        objects = merged_objects(self.schema, parts, closed, is_limited=not self._document.is_lenient)
        self.has_mixed_keys |= any(map(has_mixed_keys, objects))
        return _with_objects(result, types, objects)


def _fits(value: Any, bounds: dict[str, Any] | None, are_integers: bool) -> bool:
    """Whether a listed number is one of the numbers that are left."""
    number = exact(value)
    return bounds is not None and is_in_range(number, bounds) and (not are_integers or is_integer(number))


def _type(types: list[str] | None) -> dict[str, Any]:
    return {} if types is None else {"type": types[0] if len(types) == 1 else types}


def _is_small(schema: Any) -> bool:
    inner = ("properties", "patternProperties", "additionalProperties", "items", "prefixItems", "anyOf", "allOf")
    return not any(keyword in schema for keyword in inner) and len(schema.get("enum", ())) < 10


def _any_of(options: list[Any]) -> Any:
    possible = [option for option in options if option is not False]
    if not possible:
        return False
    return possible[0] if len(possible) == 1 else {"anyOf": possible}


def _with_objects(result: dict[str, Any], types: list[str] | None, objects: list[dict[str, Any]]) -> Any:
    """All other types as `result` says, objects as one of `objects`."""
    if len(objects) == 1:
        return result | objects[0] | _type(types)
    others = [name for name in types or ALL_TYPES if name != "object"]
    options: list[Any] = [result | _type(others)] if others else []
    values = {"enum": result["enum"]} if "enum" in result else {}
    return _any_of([*options, *({"type": "object", **values, **option} for option in objects)])
