"""What the arguments of a call may be, where they are written one by one: one reading for grammars and for parsing.

A parameter's value that is not written as JSON is text whose type only the schema tells. `Value.read` takes a text for
what its schema allows, listed strings first, then null, numbers, booleans, objects and arrays, then any other string. A
grammar lets a text through only if what is read from it is valid.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from jaxserve.errors import InvalidParameter
from jaxserve.structured.grammar_expr import JsonSchema
from jaxserve.structured.parameter_types import ParameterType
from jaxserve.structured.patterns import is_found
from jaxserve.structured.schema_keywords import infer_type, unenforceable_error
from jaxserve.structured.schema_merge import SchemaMerger, parse_schema

MAX_SCHEMAS = 1_000  # 0.05 s, or 1 s where every one has a hundred options


@dataclass(frozen=True, slots=True)
class ObjectMembers:
    """The members that one kind of object may have.

    declared     name → merged schema, in order; False: there is no such member
    required     names of those that there must be
    others       (pattern that a name must match, None: matches none of them; merged schema) for names not declared
    num_others   (fewest, most) of these; most None: any number
    """

    declared: Mapping[str, Any]
    required: frozenset[str]
    undeclared: tuple[tuple[str | None, Any], ...]
    num_undeclared: tuple[int, int | None]

    def schemas_for(self, name: str) -> list[Any]:
        """All schemas that hold for the value under this name, where it is allowed."""
        if name in self.declared:
            return [self.declared[name]] if self.declared[name] is not False else []
        matching = [schema for pattern, schema in self.undeclared if pattern is not None and is_found(pattern, name)]
        return matching or [schema for pattern, schema in self.undeclared if pattern is None]


class ParameterSchema:
    """The arguments of one function.

    alternatives   one of these kinds of objects they are
    whole          the merged schema of all of them
    merger         knows what `$ref` in them points at
    """

    def __init__(self, alternatives: list[ObjectMembers], merged: Any, merger: SchemaMerger) -> None:
        self.alternatives = alternatives
        self.merged = merged
        self.merger = merger
        self._values: dict[str, ParameterType] = {}

    @property
    def declared_names(self) -> list[str]:
        """All that are declared."""
        names = ((name, schema) for members in self.alternatives for name, schema in members.declared.items())
        return list(dict.fromkeys(name for name, schema in names if schema is not False))

    def parameter_type(self, name: str) -> ParameterType:
        """How the text of a parameter is read; a string where nothing is said of it.

        Where kinds of objects differ in it, its type alone decides: which kind it is, is not known yet.
        """
        if name not in self._values:
            schemas = [schema for members in self.alternatives for schema in members.schemas_for(name)]
            self._values[name] = self._merged(schemas)
        return self._values[name]

    @property
    def undeclared_type(self) -> ParameterType:
        """How the text of a parameter may be read that is declared nowhere."""
        return self._merged([schema for members in self.alternatives for _, schema in members.undeclared])

    def type_from_schema(self, schema: Any) -> ParameterType:
        """How a text would be read if this schema alone held."""
        return ParameterType.from_options(iter_options(schema, self.merger.definitions))

    def _merged(self, schemas: list[Any]) -> ParameterType:
        values = [self.type_from_schema(schema) for schema in schemas or ({},)]
        return values[0] if all(value == values[0] for value in values) else ParameterType.from_types(values)


def parse_parameters(shape: JsonSchema, *, is_lenient: bool = False) -> ParameterSchema:
    """Read the schema of a function's parameters. is_lenient: as far as it says anything about types.

    Raises InvalidParameter for what cannot be enforced where arguments are written one by one.
    """
    merger = parse_schema(shape, MAX_SCHEMAS, is_lenient=is_lenient)
    whole = merger.merge_document(is_object=True)
    options = list(iter_options(whole, merger.definitions))
    if not options:
        raise InvalidParameter("no JSON value is valid under the schema.")
    return ParameterSchema([_arguments_members(option) for option in options], whole, merger)


def iter_options(schema: Any, definitions: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the plain schemas of which one holds: no `$ref`, no `anyOf`, and each says its type or lists its values."""
    waiting, seen = [schema], set()
    while waiting:
        option = waiting.pop(0)
        if option is False:
            continue
        if "$ref" in option:
            name = option["$ref"].removeprefix("#/$defs/")
            if name not in seen:
                seen.add(name)
                waiting.insert(0, definitions[name])
        elif "anyOf" in option:
            waiting[:0] = option["anyOf"]
        else:
            yield with_type(option)


def with_type(option: dict[str, Any]) -> dict[str, Any]:
    """The schema with a type: where none is said the one that its keywords are about, else string."""
    if "type" in option or "enum" in option:
        return option
    return {"type": infer_type(option) or "string", **option}


def _arguments_members(option: Mapping[str, Any]) -> ObjectMembers:
    if "enum" in option:
        raise unenforceable_error("enum", "#", "arguments are written one by one here, and it lists whole objects")
    return to_members(option)


def to_members(option: Mapping[str, Any]) -> ObjectMembers:
    """The members of a merged schema of objects."""
    required = frozenset(option.get("required", ()))
    others = [(pattern, schema) for pattern, schema in option.get("patternProperties", {}).items()]
    others.append((None, option.get("additionalProperties", {})))
    most = option.get("maxProperties")
    fewest = max(option.get("minProperties", 0) - len(required), 0)
    return ObjectMembers(
        option.get("properties", {}),
        required,
        tuple((pattern, schema) for pattern, schema in others if schema is not False),
        (fewest, None if most is None else most - len(required)),
    )


@lru_cache(256)
def parse_parameters_leniently(schema: str) -> ParameterSchema | None:
    """Read the schema of a function's parameters for parsing alone; None: nothing can be known of them.

    Where something cannot be enforced, or does not hold what it must, the types that are said still count.
    """
    for is_lenient in (False, True):
        try:
            return parse_parameters(JsonSchema(schema), is_lenient=is_lenient)
        except InvalidParameter:
            continue
    return None
