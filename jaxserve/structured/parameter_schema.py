"""The schema of a function's parameters where arguments are written one by one, both for grammars and for parsing.

A value that is not written as JSON is text whose type only the schema tells. ParameterType.parse decides what a text
means; a grammar allows a text only if the value that is parsed from it is valid.
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
from jaxserve.structured.uninhabited import no_valid_value

MAX_SCHEMAS = 1_000  # 0.05 s, or 1 s where every one has a hundred options


@dataclass(frozen=True, slots=True)
class ObjectMembers:
    """The members that objects under one plain schema may have.

    declared         name → merged schema, in order; False: the member is not allowed
    required         names of declared members
    undeclared       (pattern of names, merged schema) of all other members; pattern None: names that match no pattern
    num_undeclared   (least, most) of these; most None: any number
    forbidden        patterns of names that no member may have
    """

    declared: Mapping[str, Any]
    required: frozenset[str]
    undeclared: tuple[tuple[str | None, Any], ...]
    num_undeclared: tuple[int, int | None]
    forbidden: tuple[str, ...] = ()

    @property
    def patterns(self) -> tuple[str, ...]:
        """The patterns of undeclared names: a name that matches none of them is an additional one."""
        return (*(pattern for pattern, _ in self.undeclared if pattern is not None), *self.forbidden)

    def schemas_for(self, name: str) -> list[Any]:
        """Return all schemas that apply to the value under a name; none if the member is not allowed."""
        if name in self.declared:
            return [self.declared[name]] if self.declared[name] is not False else []
        schemas = dict(self.undeclared)
        matching = [pattern for pattern in self.patterns if is_found(pattern, name)] or [None]
        return [schemas[pattern] for pattern in matching] if schemas.keys() >= set(matching) else []


class ParameterSchema:
    """The parameters of one function.

    alternatives   the arguments are the members of one of these kinds of objects
    merged         the merged schema of the arguments
    merger         has the targets of the `$ref`s in it
    """

    def __init__(self, alternatives: list[ObjectMembers], merged: Any, merger: SchemaMerger) -> None:
        self.alternatives = alternatives
        self.merged = merged
        self.merger = merger
        self._types: dict[str, ParameterType] = {}

    @property
    def declared_names(self) -> list[str]:
        """The names of all declared parameters."""
        names = ((name, schema) for members in self.alternatives for name, schema in members.declared.items())
        return list(dict.fromkeys(name for name, schema in names if schema is not False))

    def parameter_type(self, name: str) -> ParameterType:
        """Return the type of a parameter; that of strings if no schema applies to it.

        Where the alternatives differ in the parameter, it is their union: which of them applies is not known yet.
        """
        if name not in self._types:
            schemas = [schema for members in self.alternatives for schema in members.schemas_for(name)]
            self._types[name] = self._unite(schemas)
        return self._types[name]

    @property
    def undeclared_type(self) -> ParameterType:
        """The type of a parameter that is not declared."""
        return self._unite([schema for members in self.alternatives for _, schema in members.undeclared])

    def type_from_schema(self, schema: Any) -> ParameterType:
        """Return the type of a parameter to which only this merged schema applies."""
        return ParameterType.from_options(iter_options(schema, self.merger.definitions))

    def _unite(self, schemas: list[Any]) -> ParameterType:
        types = [self.type_from_schema(schema) for schema in schemas or ({},)]
        return types[0] if all(other == types[0] for other in types) else ParameterType.from_types(types)


def parse_parameters(expr: JsonSchema, *, is_lenient: bool = False) -> ParameterSchema:
    """Parse the schema of a function's parameters.

    is_lenient   only keywords about types count, and nothing is refused for the sake of another

    Raises InvalidParameter if the schema is invalid, no object is valid, or something cannot be enforced where
    arguments are written one by one.
    """
    merger = parse_schema(expr, MAX_SCHEMAS, is_lenient=is_lenient)
    merged = merger.merge_document(is_object=True)
    options = list(iter_options(merged, merger.definitions))
    if not options:
        raise no_valid_value()
    return ParameterSchema([_to_argument_members(option) for option in options], merged, merger)


def iter_options(schema: Any, definitions: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the plain schemas that are the options of a merged schema.

    They have neither `$ref` nor `anyOf`, and each has `type` or `enum`.
    """
    queue, seen = [schema], set()
    while queue:
        option = queue.pop(0)
        if option is False:
            continue
        if "$ref" in option:
            name = option["$ref"].removeprefix("#/$defs/")
            if name not in seen:
                seen.add(name)
                queue.insert(0, definitions[name])
        elif "anyOf" in option:
            queue[:0] = option["anyOf"]
        else:
            yield with_type(option)


def with_type(option: dict[str, Any]) -> dict[str, Any]:
    """Return a plain schema with a type: by default the one that its keywords apply to, else string."""
    if "type" in option or "enum" in option:
        return option
    return {"type": infer_type(option) or "string", **option}


def _to_argument_members(option: Mapping[str, Any]) -> ObjectMembers:
    if "enum" in option:
        raise unenforceable_error("enum", "#", "arguments are written one by one here, and it lists whole objects")
    return to_members(option)


def to_members(option: Mapping[str, Any]) -> ObjectMembers:
    """Return the members of objects under a plain schema."""
    required = frozenset(option.get("required", ()))
    undeclared = [(pattern, schema) for pattern, schema in option.get("patternProperties", {}).items()]
    undeclared.append((None, option.get("additionalProperties", {})))
    most = option.get("maxProperties")
    least = max(option.get("minProperties", 0) - len(required), 0)
    return ObjectMembers(
        option.get("properties", {}),
        required,
        tuple((pattern, schema) for pattern, schema in undeclared if schema is not False),
        (least, None if most is None else most - len(required)),
        tuple(pattern for pattern, schema in undeclared if pattern is not None and schema is False),
    )


@lru_cache(256)
def parse_parameters_leniently(schema: str) -> ParameterSchema | None:
    """Parse the schema of a function's parameters, JSON text, for parsing alone; None: it is no schema of objects.

    If something in it cannot be enforced or is invalid, only its keywords about types count.
    """
    for is_lenient in (False, True):
        try:
            return parse_parameters(JsonSchema(schema), is_lenient=is_lenient)
        except InvalidParameter:
            continue
    return None
