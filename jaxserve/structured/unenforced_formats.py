"""The values of JSON Schema's `format` in an expression that are annotations: accepted and not enforced."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from jaxserve.structured.grammar_expr import GrammarExpr, JsonSchema
from jaxserve.structured.schema_merge import parse_schema


def find_unenforced_formats(expr: GrammarExpr) -> tuple[str, ...]:
    """Return the formats in the schemas of a resolved expression that are not enforced, each once.

    Raises InvalidParameter if a schema with a format cannot be enforced.
    """
    formats: dict[str, None] = {}
    for schema in _iter_schemas(expr):
        if '"format"' in schema.schema:
            merger = parse_schema(schema)
            merger.merge_document(is_object=schema.is_object)
            formats |= merger.unenforced
    return tuple(formats)


def _iter_schemas(value: Any) -> Iterator[JsonSchema]:
    if isinstance(value, JsonSchema):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _iter_schemas(item)
    elif is_dataclass(value):
        for field in fields(value):
            yield from _iter_schemas(getattr(value, field.name))
