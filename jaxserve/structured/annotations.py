"""What a schema says that nobody enforces."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from jaxserve.structured.schema import merger_of
from jaxserve.structured.shapes import Schema, Shape


def unenforced_formats(shape: Shape) -> tuple[str, ...]:
    """The formats in the schemas of a resolved shape that are annotations, each once."""
    found: dict[str, None] = {}
    for schema in _schemas(shape):
        if '"format"' in schema.schema:
            merger = merger_of(schema)
            merger.whole(is_object=schema.is_object)
            found |= merger.unenforced
    return tuple(found)


def _schemas(value: Any) -> Iterator[Schema]:
    """All schemas in a shape."""
    if isinstance(value, Schema):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _schemas(item)
    elif is_dataclass(value):
        for field in fields(value):
            yield from _schemas(getattr(value, field.name))
