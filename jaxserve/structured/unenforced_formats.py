"""What a schema says that nobody enforces."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from jaxserve.structured.grammar_expr import GrammarExpr, JsonSchema
from jaxserve.structured.schema_merge import parse_schema


def find_unenforced_formats(shape: GrammarExpr) -> tuple[str, ...]:
    """The formats in the schemas of a resolved shape that are annotations, each once."""
    found: dict[str, None] = {}
    for schema in _schemas(shape):
        if '"format"' in schema.schema:
            merger = parse_schema(schema)
            merger.merge_document(is_object=schema.is_object)
            found |= merger.unenforced
    return tuple(found)


def _schemas(value: Any) -> Iterator[JsonSchema]:
    """All schemas in a shape."""
    if isinstance(value, JsonSchema):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _schemas(item)
    elif is_dataclass(value):
        for field in fields(value):
            yield from _schemas(getattr(value, field.name))
