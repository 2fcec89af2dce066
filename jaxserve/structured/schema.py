"""JSON schemas as they can be enforced."""

import json
from typing import Any

from jaxserve.errors import InvalidParameter
from jaxserve.structured.shapes import Schema

SHORT_WHITESPACE = r"[ ]{1,2}|\r?\n[ \t]{0,32}"


def enforceable(shape: Schema) -> dict[str, Any]:
    """The schema, checked, with what llguidance must know about it. Raises InvalidParameter."""
    try:
        schema = json.loads(shape.schema)
    except ValueError as error:
        raise InvalidParameter(f"The schema is not JSON: {error}.") from None
    if shape.is_object:
        schema = {"type": "object"}
    return schema | {"x-guidance": _whitespace(shape)}


def _whitespace(shape: Schema) -> dict[str, Any]:
    if shape.whitespace.compact:
        return {"whitespace_flexible": False}
    return {"whitespace_pattern": shape.whitespace.pattern or SHORT_WHITESPACE}
