"""The nested objects of the two fields that constrain an answer: response_format and structured_outputs."""

from typing import Annotated, Any

from pydantic import ConfigDict, Field

from server.schemas.common import NestedModel, Strings
from server.schemas.fields import honoured, no_effect

RESPONSE_FORMAT_TYPES = ("text", "json_object", "json_schema", "structural_tag")
GRAMMAR_BACKENDS = (
    "auto",
    "xgrammar",
    "guidance",
    "outlines",
    "lm-format-enforcer",
)  # hints without effect; llguidance is the only engine
_FORMATS = "test_constraints.py::TestResponseFormat::test_each_type_becomes_its_constraint"
_KEYS = "test_constraints.py::TestStructuredOutputs::test_each_key_becomes_the_constraint"
_HINTS = "test_constraints.py::TestStructuredOutputs::test_hints_about_engines_change_nothing"


class ResponseFormat(NestedModel):
    """The format of an answer.

    json_schema has name and schema; a structural_tag has format, or structures and triggers.
    """

    model_config = ConfigDict(extra="allow")

    type: Annotated[str, Field(json_schema_extra={"enum": [*RESPONSE_FORMAT_TYPES]})] = honoured(
        is_required=True, note="text, json_object, json_schema, structural_tag", test=_FORMATS
    )
    json_schema: dict[str, Any] | None = honoured(note="name and schema; always strict", test=_FORMATS)


class StructuredOutputsJson(NestedModel):
    """The constraint of an answer: one of json, regex, choice, grammar, json_object and structural_tag.

    The switches are for JSON.
    """

    json_: dict[str, Any] | str | None = honoured(
        alias="json", note="a schema, or its text; a keyword that cannot be enforced is a 400", test=_KEYS
    )
    regex: str | None = honoured(note="matched by the whole answer", test=_KEYS)
    choice: Strings | None = honoured(note="one of these texts", test=_KEYS)
    grammar: str | None = honoured(note="GBNF where a line has ::=, else Lark", test=_KEYS)
    json_object: bool | None = honoured(note="true, if given", test=_KEYS)
    structural_tag: str | None = honoured(note="JSON text", test=_KEYS)
    disable_any_whitespace: bool | None = honoured(note="for JSON", test=_KEYS)
    disable_additional_properties: bool | None = honoured(note="for JSON", test=_KEYS)
    whitespace_pattern: str | None = honoured(note="for JSON, unless disable_any_whitespace", test=_KEYS)
    disable_fallback: bool | None = no_effect(note="there is one engine", test=_HINTS)
    backend: Annotated[str | None, Field(json_schema_extra={"enum": [*GRAMMAR_BACKENDS, None]})] = no_effect(
        alias="_backend", note="a known name, or 400", test=_HINTS
    )
