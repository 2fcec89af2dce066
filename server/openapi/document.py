"""Puts the OpenAPI document together: paths from the table of operations, components from the schemas."""

from __future__ import annotations

import http
from collections.abc import Iterable, Set
from typing import TYPE_CHECKING, Any, get_args, get_origin

from pydantic import TypeAdapter

import jaxserve
from server.auth import KEYLESS
from server.config import ServerConfig, separated
from server.openapi.fields import Facts, all_facts
from server.openapi.operations import ERRORS, OPERATIONS, Operation, Parameter
from server.schemas import replies, support
from server.schemas.support import Fate, Support

if TYPE_CHECKING:
    from quart import Quart

    from jaxserve import AsyncLLM

PLACE = "#/components/schemas/"
JSON = "application/json"
TABLES = {
    "ChatRequest": support.CHAT,
    "CompletionRequest": support.COMPLETIONS,
    "TokenizeRequest": support.TOKENIZE,
    "DetokenizeRequest": support.DETOKENIZE,
}
ABOUT = (
    "A server of one language model, with OpenAI's chat-completions API and vLLM's additions to it. Types are read "
    'leniently: a number may stand in a string ("3"), true may be 1 or "yes". For every optional field null means the '
    "same as leaving it out, and keys that are not listed are accepted without effect. HEAD works wherever GET does."
)
STREAM_ENDS = "Server-sent events; the last one's data is [DONE]. An error in mid-stream is one event before that."


def path_of(rule: str) -> str:
    """A route's pattern as others write it: /v1/models/{name}."""
    return rule.replace("<anything:", "{").replace(">", "}")


def routes_of(app: Quart) -> set[tuple[str, str]]:
    """(method, path) of all that the app serves, without what every path has: HEAD beside GET, and OPTIONS."""
    rules = app.url_map.iter_rules()
    return {(method, path_of(rule.rule)) for rule in rules for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}}


def document(llm: AsyncLLM, config: ServerConfig, names: tuple[str, ...], served: Set[tuple[str, str]]) -> Any:
    """The document of a server that serves these routes (method, path)."""
    operations = {route: operation for route, operation in OPERATIONS.items() if route in served}
    has_keys = bool(config.api_key)
    made: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "jaxserve", "version": jaxserve.__version__, "description": ABOUT},
        "servers": [{"url": config.root_path.rstrip("/") or "/"}],
        "paths": {},
        "components": {
            "schemas": _schemas(list(operations.values()), all_facts(llm, config, names)),
            "responses": {str(status): _error(status) for status in ERRORS if has_keys or status != 401},
        },
    }
    for (method, path), operation in operations.items():
        made["paths"].setdefault(path, {})[method.lower()] = _operation(method, path, operation)
    if has_keys:
        _close(made, KEYLESS | separated(config.open_paths))
    return made


def _close(made: dict[str, Any], open_paths: frozenset[str]) -> None:
    """Says which paths need a key."""
    scheme = {"type": "http", "scheme": "bearer", "description": "A key of --api-key."}
    made["components"]["securitySchemes"] = {"key": scheme}
    for path, methods in made["paths"].items():
        for method, operation in methods.items():
            is_optional = OPERATIONS[method.upper(), path].key == "some"
            operation["security"] = [] if path in open_paths else [{}, {"key": []}] if is_optional else [{"key": []}]
            if path not in open_paths:
                operation["responses"]["401"] = {"$ref": "#/components/responses/401"}


def _operation(method: str, path: str, operation: Operation) -> dict[str, Any]:
    made: dict[str, Any] = {
        "operationId": f"{method.lower()}{path.replace('/', '_').replace('{', '').replace('}', '')}",
        "tags": [operation.tag],
        "summary": operation.summary,
        "parameters": [_parameter(one) for one in operation.parameters],
    }
    if operation.request is not None:
        content = {"application/json": {"schema": _reference(operation.request), "example": operation.example}}
        made["requestBody"] = {"required": True, "content": content}
    made["responses"] = {
        "200": {"description": operation.summary + ".", "content": _content(operation)},
        **{str(status): {"$ref": f"#/components/responses/{status}"} for status in operation.errors},
    }
    if operation.is_cached:
        made["responses"]["304"] = {"description": "The browser has it already; empty.", "content": _content(operation)}
    if operation.unready:
        made["responses"]["503"] = {"description": "Not now; empty.", "content": _content(operation)}
    return made


def _parameter(one: Parameter) -> dict[str, Any]:
    return {
        "name": one.name,
        "in": one.place,
        "required": one.place == "path",
        "description": one.says,
        "schema": one.schema,
    }


def _content(operation: Operation) -> dict[str, Any]:
    if isinstance(operation.reply, tuple):
        return {kind: {"schema": {} if kind == JSON else {"type": "string"}} for kind in operation.reply}
    schema = {"type": "object"} if operation.reply is dict else _reference(operation.reply)
    content: dict[str, Any] = {JSON: {"schema": schema}}
    if operation.chunk is not None:
        content["text/event-stream"] = {"schema": _event(operation.chunk)}
    return content


def _event(chunk: type) -> dict[str, Any]:
    """One event of a stream, in the way that OpenAPI has for them."""
    anything = {"anyOf": [_reference(chunk), _reference(replies.ErrorReply)]}
    data = {"type": "string", "contentMediaType": "application/json", "contentSchema": anything}
    return {
        "type": "object",
        "description": STREAM_ENDS,
        "required": ["data"],
        "properties": {"data": {"anyOf": [{"const": "[DONE]"}, data]}},
    }


def _error(status: int) -> dict[str, Any]:
    reply = replies.UnauthorizedReply if status == 401 else replies.ErrorReply
    made: dict[str, Any] = {
        "description": f"{http.HTTPStatus(status).phrase}. {ERRORS[status]}",
        "content": {"application/json": {"schema": _reference(reply)}},
    }
    if status == 401:
        made["headers"] = {"WWW-Authenticate": {"schema": {"const": "Bearer"}}}
    if status == 503:
        made["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds."}}
    return made


def _reference(kind: Any) -> dict[str, Any]:
    """A TypedDict or a schema; or a list of one."""
    if get_origin(kind) is list:
        return {"type": "array", "items": _reference(*get_args(kind))}
    return {"$ref": PLACE + kind.__name__}


def _schemas(operations: list[Operation], facts: dict[str, Facts]) -> dict[str, Any]:
    """By name. Requests are open, as the server is; replies have no key that is not listed."""
    requests = {one.request for one in operations if one.request}
    answers = {replies.ErrorReply, replies.UnauthorizedReply}
    answers |= {kind for one in operations for kind in (one.reply, one.chunk) if kind and not isinstance(kind, tuple)}
    asked = _of_types(requests)
    answered = _of_types({get_args(kind)[0] if get_origin(kind) is list else kind for kind in answers - {dict}})
    for kind in requests:
        _tell(asked[kind.__name__], TABLES[kind.__name__], facts[kind.__name__])
    for schema in answered.values():
        if "properties" in schema:
            schema["additionalProperties"] = False
    return dict(sorted({**asked, **answered}.items()))


def _of_types(kinds: Iterable[type]) -> dict[str, Any]:
    """What pydantic knows of these types and of all that they are made of."""
    adapters = [(kind.__name__, "validation", TypeAdapter(kind)) for kind in kinds]
    _, made = TypeAdapter.json_schemas(adapters, ref_template=PLACE + "{model}")  # type: ignore[arg-type]
    return {name: _tidy(schema) for name, schema in made["$defs"].items()}


def _tidy(schema: Any) -> Any:
    """Without titles and null defaults, and with null as a type like others where that says the same."""
    if isinstance(schema, list):
        return [_tidy(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {
        key: {name: _tidy(one) for name, one in value.items()} if key == "properties" else _tidy(value)
        for key, value in schema.items()
        if key != "title" and (key, value) != ("default", None)
    }
    options = made.get("anyOf", [])
    if len(options) == 2 and options[1] == {"type": "null"} and isinstance(options[0].get("type"), str):
        del made["anyOf"]
        made = {**options[0], "type": [options[0]["type"], "null"], **made}
    return made


def _tell(schema: dict[str, Any], table: dict[str, Support], facts: Facts) -> None:
    """Adds to each field its range, its default, and what becomes of it. Those without a default are required."""
    schema["required"] = [name for name in schema["properties"] if "default" not in facts[name]]
    for name, field in schema["properties"].items():
        known, support = facts[name], table[name]
        field |= {key: value for key, value in known.items() if (key, value) != ("default", None)}
        field["description"] = f"{known['description']} {_fate(support)}"
        field["x-support"] = support.fate.name.lower()


def _fate(one: Support) -> str:
    note = f": {one.note}" if one.note else ""
    if one.fate is Fate.REFUSED:
        neutral = "".join(f" or {value}" for value in one.neutral)
        return f"(Not supported yet{note}; 400 for anything but null{neutral}.)"
    return f"({'Accepted, without effect' if one.fate is Fate.NO_EFFECT else 'Honoured'}{note}.)"
