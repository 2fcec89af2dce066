"""Builds the OpenAPI document: paths from the table of operations, components from the schemas."""

from __future__ import annotations

import http
import json
from collections.abc import Iterable, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_origin

from pydantic import BaseModel, TypeAdapter

import jaxserve
from server.auth import KEYLESS_PATHS
from server.config import ServerConfig, split_commas
from server.openapi.fields import collect_limits, make_field_keywords
from server.openapi.operations import ERROR_DESCRIPTIONS, OPERATIONS, Operation, OperationParameter
from server.schemas import message_replies, replies
from server.schemas.fields import get_rows
from server.schemas.limits import ServerLimits

if TYPE_CHECKING:
    from quart import Quart

    from jaxserve import AsyncLLM

SCHEMA_PREFIX, RESPONSE_PREFIX = "#/components/schemas/", "#/components/responses/"
JSON_TYPE = "application/json"
FAMILIES = Path(jaxserve.__file__).parent / "models" / "families.json"
"""The table of models that can be served, made by scripts/family_table."""
DESCRIPTION = (
    "A server of one language model, with OpenAI's chat-completions API and vLLM's additions to it. Types are read "
    'leniently: a number may stand in a string ("3"), true may be 1 or "yes". For every optional field null means the '
    "same as leaving it out, and keys that are not listed are accepted without effect. HEAD works wherever GET does."
)
STREAM_DESCRIPTION = (
    "Server-sent events; the last one's data is [DONE]. An error in mid-stream is one event before that."
)
EVENT_DESCRIPTION = "Server-sent events. The type of each stands in its line `event` and in its data."


def to_openapi_path(rule: str) -> str:
    """Write the pattern of a Quart route as OpenAPI does: /v1/models/{name}."""
    return rule.replace("<anything:", "{").replace("<", "{").replace(">", "}")


def list_routes(app: Quart) -> set[tuple[str, str]]:
    """List the (method, path) of all routes, without HEAD and OPTIONS, which Quart adds to every path."""
    rules = app.url_map.iter_rules()
    return {
        (method, to_openapi_path(rule.rule))
        for rule in rules
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }


def build_document(llm: AsyncLLM, config: ServerConfig, names: tuple[str, ...], served: Set[tuple[str, str]]) -> Any:
    """Build the document of a server.

    names: served names of its model. served: the (method, path) of its routes. "x-model-families" has a row for each
    architecture that could be served.
    """
    operations = {route: operation for route, operation in OPERATIONS.items() if route in served}
    has_keys = bool(config.api_key)
    content: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "jaxserve", "version": jaxserve.__version__, "description": DESCRIPTION},
        "servers": [{"url": config.root_path.rstrip("/") or "/"}],
        "paths": {},
        "x-model-families": json.loads(FAMILIES.read_bytes()),
        "components": {
            "schemas": _make_schemas(list(operations.values()), collect_limits(llm, config, names)),
            "responses": {
                _name_error(status, is_messages): _make_error_response(status, is_messages)
                for is_messages in (False, True)
                for status in ERROR_DESCRIPTIONS
                if has_keys or status != 401
            },
        },
    }
    for (method, path), operation in operations.items():
        content["paths"].setdefault(path, {})[method.lower()] = _make_operation(method, path, operation)
    if has_keys:
        _add_security(content, KEYLESS_PATHS | split_commas(config.open_paths))
    return content


def _add_security(content: dict[str, Any], open_paths: frozenset[str]) -> None:
    """Add the bearer scheme, and the paths that need a key."""
    scheme = {"type": "http", "scheme": "bearer", "description": "A key of --api-key."}
    content["components"]["securitySchemes"] = {"key": scheme}
    for path, methods in content["paths"].items():
        for method, operation in methods.items():
            is_optional = OPERATIONS[method.upper(), path].key_scope == "some"
            operation["security"] = [] if path in open_paths else [{}, {"key": []}] if is_optional else [{"key": []}]
            if path not in open_paths:
                name = _name_error(401, OPERATIONS[method.upper(), path].is_messages)
                operation["responses"]["401"] = {"$ref": RESPONSE_PREFIX + name}


def _make_operation(method: str, path: str, operation: Operation) -> dict[str, Any]:
    result: dict[str, Any] = {
        "operationId": f"{method.lower()}{path.replace('/', '_').replace('{', '').replace('}', '')}",
        "tags": [operation.tag],
        "summary": operation.summary,
        "parameters": [_make_parameter(parameter) for parameter in operation.parameters],
    }
    if operation.request is not None:
        content = {"application/json": {"schema": _make_reference(operation.request), "example": operation.example}}
        result["requestBody"] = {"required": True, "content": content}
    result["responses"] = {
        "200": {"description": operation.summary + ".", "content": _make_content(operation)},
        **{
            str(status): {"$ref": RESPONSE_PREFIX + _name_error(status, operation.is_messages)}
            for status in operation.error_statuses
        },
    }
    if operation.is_cached:
        result["responses"]["304"] = {
            "description": "The browser has it already; empty.",
            "content": _make_content(operation),
        }
    if operation.has_unready_reply:
        result["responses"]["503"] = {"description": "Not now; empty.", "content": _make_content(operation)}
    return result


def _make_parameter(parameter: OperationParameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": parameter.location,
        "required": parameter.location == "path",
        "description": parameter.description,
        "schema": parameter.schema,
    }


def _make_content(operation: Operation) -> dict[str, Any]:
    if isinstance(operation.reply, tuple):
        return {kind: {"schema": {} if kind == JSON_TYPE else {"type": "string"}} for kind in operation.reply}
    schema = {"type": "object"} if operation.reply is dict else _make_reference(operation.reply)
    content: dict[str, Any] = {JSON_TYPE: {"schema": schema}}
    if operation.chunk is not None:
        content["text/event-stream"] = {"schema": _make_event_schema(operation)}
    return content


def _make_event_schema(operation: Operation) -> dict[str, Any]:
    """Make the schema of one event of a stream: an object with its data, and its type if the data has one."""
    if not operation.ends_with_done:
        data = _make_data_schema(_make_reference(operation.chunk))
        properties = {"event": {"type": "string"}, "data": data}
        return {"type": "object", "description": EVENT_DESCRIPTION, "required": [*properties], "properties": properties}
    data = _make_data_schema({"anyOf": [_make_reference(operation.chunk), _make_reference(replies.ErrorReply)]})
    return {
        "type": "object",
        "description": STREAM_DESCRIPTION,
        "required": ["data"],
        "properties": {"data": {"anyOf": [{"const": "[DONE]"}, data]}},
    }


def _make_data_schema(json_schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "string", "contentMediaType": "application/json", "contentSchema": json_schema}


def _name_error(status: int, is_messages: bool) -> str:
    return f"{status}-messages" if is_messages else str(status)


def _make_error_response(status: int, is_messages: bool) -> dict[str, Any]:
    reply = replies.UnauthorizedReply if status == 401 else replies.ErrorReply
    if is_messages:
        reply = message_replies.MessageError
    response: dict[str, Any] = {
        "description": f"{http.HTTPStatus(status).phrase}. {ERROR_DESCRIPTIONS[status]}",
        "content": {"application/json": {"schema": _make_reference(reply)}},
    }
    if status == 401:
        response["headers"] = {"WWW-Authenticate": {"schema": {"const": "Bearer"}}}
    if status in (429, 503):
        response["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds."}}
    return response


def _make_reference(kind: Any) -> dict[str, Any]:
    """Make the reference to a reply type or a schema, or to a list of one."""
    if get_origin(kind) is list:
        return {"type": "array", "items": _make_reference(*get_args(kind))}
    return {"$ref": SCHEMA_PREFIX + _component_name(kind.__name__)}


def _component_name(class_name: str) -> str:
    """Return the name of a schema in the document.

    It has no suffix Json, which distinguishes classes of the server from those of the library.
    """
    return class_name.removesuffix("Json")


def _make_schemas(operations: list[Operation], limits: ServerLimits) -> dict[str, Any]:
    """Make all schemas by their names. Requests may have keys that are not listed, replies have none."""
    request_types = {operation.request for operation in operations if operation.request}
    reply_types = {kind for operation in operations for kind in (operation.reply, operation.chunk)}
    reply_types |= {replies.ErrorReply, replies.UnauthorizedReply, message_replies.MessageError}
    reply_types = {
        get_args(kind)[0] if get_origin(kind) is list else kind
        for kind in reply_types - {None, dict}
        if not isinstance(kind, tuple)
    }
    request_schemas, reply_schemas = _generate_schemas(request_types), _generate_schemas(reply_types)
    for kind in request_types:
        _describe_fields(request_schemas[kind.__name__], kind, limits)
    for schema in reply_schemas.values():
        if "properties" in schema:
            schema["additionalProperties"] = False
    return dict(sorted({**request_schemas, **reply_schemas}.items()))


def _generate_schemas(kinds: Iterable[type]) -> dict[str, Any]:
    """Let pydantic generate the schemas of these types and of all types in their fields."""
    adapters = [(kind.__name__, "validation", TypeAdapter(kind)) for kind in kinds]
    _, generated = TypeAdapter.json_schemas(adapters, ref_template=SCHEMA_PREFIX + "{model}")  # type: ignore[arg-type]
    return {_component_name(name): _simplify(schema) for name, schema in generated["$defs"].items()}


def _simplify(schema: Any) -> Any:
    """Remove titles and null defaults, and write `anyOf` a type and null as a list of two types."""
    if isinstance(schema, list):
        return [_simplify(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        schema = {**schema, "$ref": _component_name(schema["$ref"])}
    simplified = {
        key: {name: _simplify(field) for name, field in value.items()} if key == "properties" else _simplify(value)
        for key, value in schema.items()
        if key != "title" and (key, value) != ("default", None)
    }
    options = simplified.get("anyOf", [])
    if len(options) == 2 and options[1] == {"type": "null"} and isinstance(options[0].get("type"), str):
        del simplified["anyOf"]
        simplified = {**options[0], "type": [options[0]["type"], "null"], **simplified}
    return simplified


def _describe_fields(schema: dict[str, Any], kind: type[BaseModel], limits: ServerLimits) -> None:
    """Add to each field of a request its range, its default, and whether it is supported."""
    rows = get_rows(kind)
    schema["required"] = [name for name in schema["properties"] if rows[name].is_required]
    for name, field in schema["properties"].items():
        field |= make_field_keywords(name, rows[name], limits)
