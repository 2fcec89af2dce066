"""What a caller asked for → the shape of the answer."""

from jaxserve.errors import InvalidParameter
from jaxserve.structured.shapes import Choice, Regex, Schema, Shape, Whitespace
from jaxserve.structured_outputs import StructuredOutputs


def shape_of(asked: StructuredOutputs) -> Shape:
    """The shape that says the same. Raises InvalidParameter without a field's name."""
    whitespace = Whitespace(asked.disable_any_whitespace, asked.whitespace_pattern)
    if asked.json is not None:
        return Schema(asked.json, whitespace, asked.disable_additional_properties)
    if asked.json_object:
        return Schema('{"type": "object"}', whitespace)
    if asked.regex is not None:
        return Regex(asked.regex)
    if asked.choice is not None:
        return Choice(asked.choice)
    raise InvalidParameter("this kind of constraint is not known here")
