"""JSON schemas, merged into the form that llguidance enforces completely.

A schema is a conjunction of parts: its own keywords, the elements of its `allOf`, the target of its `$ref`. They are
merged into one schema without `allOf`, in which objects that declare properties are closed and `$ref` is left only
where something recurs. What is valid under the result is valid under the schema, but not the other way round: declared
keys come in their declared order, undeclared ones only where `additionalProperties` allows them. Of `oneOf` more than
one option may hold. What cannot be enforced is refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxserve.errors import InvalidParameter
from jaxserve.structured.allof_merge import AllOf, AnyOf, LocatedSchema, SchemaDocument
from jaxserve.structured.bounded_json import parse_bounded_json
from jaxserve.structured.branching import BranchingFactor
from jaxserve.structured.exact_numbers import (
    has_decimal,
    is_in_range,
    is_integer,
    is_number,
    merge_number_bounds,
    to_decimal,
)
from jaxserve.structured.formats import unenforced_format
from jaxserve.structured.grammar_expr import JsonSchema, JsonWhitespace
from jaxserve.structured.json_lark import JsonLarkWriter
from jaxserve.structured.keyword_merge import (
    expand_const,
    merge_array_keywords,
    merge_enums,
    merge_string_keywords,
    merge_types,
)
from jaxserve.structured.object_merge import MAX_OPTIONAL, has_mixed_keys, merge_objects
from jaxserve.structured.patterns import translate_whitespace_pattern
from jaxserve.structured.schema_keywords import unenforceable_error
from jaxserve.structured.uninhabited import find_uninhabited, no_valid_value

MAX_DEPTH = 64
MAX_SCHEMAS = 50_000
ALL_TYPES = ["null", "boolean", "number", "string", "array", "object"]
_OBJECT = {"type": "object"}
# One or two blanks, or a line break and its indentation: pretty JSON, but a small model cannot emit blanks without end.
SHORT_WHITESPACE = r"[ ]{1,2}|\r?\n[ \t]{0,32}"


@dataclass(frozen=True, slots=True)
class JsonGrammar:
    """A grammar for JSON. One of the two is None.

    schema   a schema that llguidance enforces
    lark     the text of a grammar in Lark
    """

    schema: dict[str, Any] | None = None
    lark: str | None = None


def to_json_grammar(expr: JsonSchema) -> JsonGrammar:
    """Return the grammar for the JSON texts that are valid under a schema.

    Raises InvalidParameter if the schema is invalid, a keyword cannot be enforced, or no value is valid.
    """
    merger = parse_schema(expr)
    schema = merger.merge_document(is_object=expr.is_object)
    if schema is False:
        raise no_valid_value()
    return write_json_grammar(schema, merger, expr.whitespace)


def parse_schema(expr: JsonSchema, max_schemas: int = MAX_SCHEMAS, *, is_lenient: bool = False) -> "SchemaMerger":
    """Parse the text of a schema and return a merger for it.

    max_schemas   limit of the merged schemas, nested ones included
    is_lenient    only keywords about types count, and nothing is refused

    Raises InvalidParameter if the text is not a JSON schema, or is too large or too deeply nested.
    """
    root = parse_bounded_json(expr.schema, "the JSON schema", MAX_DEPTH)
    if not isinstance(root, dict | bool):
        raise InvalidParameter(f"a JSON schema must be an object, got {type(root).__name__}.")
    return SchemaMerger(SchemaDocument(root, is_lenient), expr.is_closed, max_schemas)


def write_json_grammar(schema: Any, merger: "SchemaMerger", whitespace: JsonWhitespace) -> JsonGrammar:
    """Return the grammar of a schema that the merger returned.

    whitespace   what may stand between JSON tokens

    Raises InvalidParameter if llguidance could not follow it, or the whitespace pattern is invalid.
    """
    options: dict[str, Any] = {"whitespace_flexible": False}
    if not whitespace.is_compact and whitespace.pattern != "":
        pattern = whitespace.pattern
        options = {"whitespace_pattern": SHORT_WHITESPACE if pattern is None else translate_whitespace_pattern(pattern)}
    if merger.has_mixed_keys:
        # Otherwise a key could be written with \u escapes, and would not be recognised as the declared one.
        options["json_allowed_escapes"] = 'nrbtf\\"'
    check_branching(schema, merger)
    if has_decimal(schema) or has_decimal(merger.definitions):
        return JsonGrammar(lark=JsonLarkWriter(merger.definitions, options).write(schema))
    return JsonGrammar(schema | {"$defs": merger.definitions, "x-guidance": options})


def check_branching(schema: Any, merger: "SchemaMerger") -> None:
    """Check that llguidance can follow all properties that may come next at any place.

    Raises InvalidParameter if more than MAX_OPTIONAL may come next at one place.
    """
    branching = BranchingFactor(schema, merger.definitions)
    if branching.count > MAX_OPTIONAL:
        keyword, path = merger.locate(branching.schema)
        why = (
            f"{branching.count} optional properties may come next at one place, and at most {MAX_OPTIONAL} can be"
            " followed; a required property with another `const` in each option helps"
        )
        raise unenforceable_error(keyword, path, why)


class SchemaMerger:
    """Merger of the schemas of one document.

    document         the document
    is_closed        objects that declare no properties have none
    max_schemas      limit of the merged schemas, nested ones included

    definitions      the targets of the `$ref`s in merged schemas, by name
    has_mixed_keys   some object has different schemas for different keys
    unenforced       the formats that are annotations, in the order in which they were met
    """

    def __init__(self, document: SchemaDocument, is_closed: bool, max_schemas: int = MAX_SCHEMAS) -> None:
        self.definitions: dict[str, Any] = {}
        self.has_mixed_keys = False
        self.unenforced: dict[str, None] = {}
        self._document = document
        self._is_closed = is_closed
        self._results: dict[tuple[int, ...], Any] = {}  # AllOf.key → merged schema; None: being merged
        self._names: dict[tuple[int, ...], str] = {}  # AllOf.key → name of the definition
        self._locations: dict[int, tuple[Any, str, str]] = {}  # identity of a result → result, keyword, path
        self._expanded: list[LocatedSchema] = []  # schemas in no document, kept so that their ids stay in use
        self._max_schemas = max_schemas
        self._num_schemas = 0

    def merge_document(self, *, is_object: bool = False) -> Any:
        """Merge the schema of the whole document; False: no value is valid.

        is_object   only objects are valid

        Raises InvalidParameter if a keyword cannot be enforced, the schema is too complex, or no value is finite.
        """
        schema = self.merge(LocatedSchema(self._document.root), *([LocatedSchema(_OBJECT)] if is_object else []))
        if not self._document.is_lenient and find_uninhabited(self.definitions):
            raise InvalidParameter(
                "the JSON schema has a '$ref' that leads back there without end: no value is finite."
            )
        return schema

    def merge(self, *sources: LocatedSchema | AnyOf, holding_ids: frozenset[int] = frozenset()) -> Any:
        """Merge schemas that must all be valid into one; False: no value is valid.

        holding_ids   identities of schemas that are known to be valid

        Raises InvalidParameter if a keyword cannot be enforced or the schema is too complex.
        """
        conjunction = AllOf(self._document, holding_ids)
        for source in sources:
            conjunction.add(source)
        if conjunction.is_false:
            return False
        key = conjunction.key
        if key in self._results:
            return self._reuse(key)
        self._results[key] = None
        result = self._results[key] = self._merge(conjunction)
        if isinstance(result, dict):
            self._locations.setdefault(id(result), (result, *conjunction.location))
        if key in self._names:
            self.definitions[self._names[key]] = result
        return result

    def locate(self, schema: Any) -> tuple[str, str]:
        """Return the keyword that a merged schema comes from, and the path of the schema that it stands in."""
        _, keyword, path = self._locations.get(id(schema), (schema, "properties", "#"))
        return keyword, path

    def _reuse(self, key: tuple[int, ...]) -> Any:
        """Return a schema that was merged before: the schema if it is small, else a reference to it."""
        result = self._results[key]
        if result is False or (result is not None and _is_small(result)):
            return result
        name = self._names.setdefault(key, f"s{len(self._names)}")
        if result is not None:
            self.definitions[name] = result
        return {"$ref": f"#/$defs/{name}"}

    def _merge(self, conjunction: AllOf) -> Any:
        self._num_schemas += 1
        if self._num_schemas > self._max_schemas:
            most = self._max_schemas
            raise InvalidParameter(f"the JSON schema is too complex: its parts multiply to more than {most}.")
        if conjunction.any_ofs:
            first, *others = conjunction.any_ofs
            holding_ids, parts = conjunction.holding_ids, conjunction.parts
            return _any_of([self.merge(*parts, *others, option, holding_ids=holding_ids) for option in first.options])
        parts = conjunction.parts
        self.unenforced |= dict.fromkeys(filter(None, (unenforced_format(part.schema) for part in parts)))
        values = merge_enums(conjunction.parts)
        inexact = [value for value in values or () if isinstance(value, dict | list) and has_decimal(value)]
        if values is None or not inexact:
            return self._merge_keywords(conjunction.parts, values)
        # Arrays and objects with numbers that llguidance would change: every member gets a schema of its own.
        others = [value for value in values if value not in inexact]
        parts = [self._document.without_enum_and_const(part) for part in conjunction.parts]
        members = [LocatedSchema(expand_const(value), parts[0].path) for value in inexact]
        self._expanded += members
        options = [self.merge(*parts, member, holding_ids=conjunction.holding_ids) for member in members]
        return _any_of([*options, self._merge_keywords(conjunction.parts, others)] if others else options)

    def _merge_keywords(self, parts: Sequence[LocatedSchema], values: list[Any] | None) -> Any:
        """Merge plain keywords type by type. values: what `enum` and `const` allow; None: they are absent."""
        types = merge_types(parts)
        allowed = set(ALL_TYPES if types is None else types)
        are_integers = "number" not in allowed
        bounds = merge_number_bounds(parts, are_integers) if allowed & {"number", "integer"} else None
        if values is not None:
            values = [value for value in values if not is_number(value) or _fits(value, bounds, are_integers)]
        elif bounds is None and allowed & {"number", "integer"}:
            allowed -= {"number", "integer"}
            types = [name for name in types or ALL_TYPES if name in allowed]
        array = merge_array_keywords(self.merge, parts) if "array" in allowed else None
        if array is None and "array" in allowed:
            allowed.remove("array")
            types = [name for name in types or ALL_TYPES if name in allowed]
        if types == [] or values == []:
            return False
        result = ((bounds or {}) if values is None else {"enum": values}) | (array or {})
        if "string" in allowed:
            result |= merge_string_keywords(parts, self.unenforced)
        if "object" not in allowed:
            return result | _type(types)
        # Listed values have the keys that they have.
        is_closed = None if values is not None else self._is_closed
        objects = merge_objects(self.merge, parts, is_closed, is_limited=not self._document.is_lenient)
        self.has_mixed_keys |= any(map(has_mixed_keys, objects))
        return _with_objects(result, types, objects)


def _fits(value: Any, bounds: dict[str, Any] | None, are_integers: bool) -> bool:
    """Whether a listed number is within the bounds, and an integer where only those are valid."""
    number = to_decimal(value)
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
    """Combine the keywords of all other types with the options for objects."""
    if len(objects) == 1:
        return result | objects[0] | _type(types)
    others = [name for name in types or ALL_TYPES if name != "object"]
    options: list[Any] = [result | _type(others)] if others else []
    values = {"enum": result["enum"]} if "enum" in result else {}
    return _any_of([*options, *({"type": "object", **values, **option} for option in objects)])
