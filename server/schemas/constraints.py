"""Resolves response_format and structured_outputs into at most one constraint on the answer."""

from dataclasses import replace
from typing import Any

from jaxserve import InvalidParameter, StructuredOutputs, dump_exact_json
from server.errors import preview
from server.schemas.constraint_fields import (
    GRAMMAR_BACKENDS,
    RESPONSE_FORMAT_TYPES,
    ResponseFormat,
    StructuredOutputsJson,
)
from server.schemas.generation import GenerationRequest

PASSTHROUGH = (
    *("regex", "grammar", "json_object", "structural_tag"),
    *("disable_any_whitespace", "disable_additional_properties", "whitespace_pattern"),
)


def resolve_constraint(request: GenerationRequest) -> StructuredOutputs | None:
    """Return the constraint of a request; None: the answer is free. The library checks schemas and grammars themselves.

    Both fields may set the same key: then response_format wins, and the other field's switches apply.

    Raises InvalidParameter about the field at fault if it is malformed, or both fields set different constraints.
    """
    formatted = _from_response_format(request.response_format)
    if request.structured_outputs is None:
        return StructuredOutputs(**formatted) if formatted else None
    structured_outputs = _from_structured_outputs(request.structured_outputs)
    if any(getattr(structured_outputs, key) is None for key in formatted):
        raise InvalidParameter(
            "response_format and structured_outputs are two constraints on one answer; leave one of them out.",
            "structured_outputs",
        )
    return replace(structured_outputs, **formatted)


def find_constraint_field(request: GenerationRequest) -> str:
    """Return the name of the field that the client has used for its constraint."""
    form = request.response_format
    return "structured_outputs" if form is None or form.type == "text" else "response_format"


def _from_structured_outputs(fields: StructuredOutputsJson) -> StructuredOutputs:
    if fields.backend is not None and fields.backend not in GRAMMAR_BACKENDS:
        raise InvalidParameter(
            f"structured_outputs._backend must be one of {', '.join(GRAMMAR_BACKENDS)}, got {preview(fields.backend)}; "
            "it is only a hint, so leave it out.",
            "structured_outputs",
        )
    values: dict[str, Any] = {name: getattr(fields, name) for name in PASSTHROUGH}
    values |= {"json": _to_json_text(fields.json_), "choice": None if fields.choice is None else tuple(fields.choice)}
    return StructuredOutputs(**{name: value for name, value in values.items() if value is not None})


def _from_response_format(form: ResponseFormat | None) -> dict[str, Any]:
    """Return the one key that a response_format sets; none for the type text, whatever else it has."""
    if form is None or form.type == "text":
        return {}
    if form.type == "json_object":
        return {"json_object": True}
    if form.type == "json_schema":
        return {"json": _to_json_text(_unwrap_schema(form.json_schema))}
    if form.type == "structural_tag":
        extra = form.model_extra or {}
        if extra.get("format") is None and (extra.get("structures") is None or extra.get("triggers") is None):
            raise _format_error("of type structural_tag needs format, or structures and triggers")
        return {"structural_tag": _to_json_text({"type": form.type, **extra})}
    raise _format_error(f"has the type {preview(form.type)}; there are {', '.join(RESPONSE_FORMAT_TYPES)}")


def _unwrap_schema(wrapped: dict[str, Any] | None) -> dict[str, Any]:
    if wrapped is None:
        raise _format_error("of type json_schema needs json_schema, an object with name and schema")
    if not isinstance(wrapped.get("name"), str):
        raise _format_error("needs a string as json_schema.name")
    if not isinstance(wrapped.get("schema"), dict):
        raise _format_error("needs an object as json_schema.schema")
    return wrapped["schema"]


def _to_json_text(value: dict[str, Any] | str | None) -> str | None:
    """Write a schema as JSON text. Keys keep their order, because answers follow it."""
    return value if value is None or isinstance(value, str) else dump_exact_json(value)


def _format_error(reason: str) -> InvalidParameter:
    return InvalidParameter(f"response_format {reason}.", "response_format")
