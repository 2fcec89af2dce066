"""Checks replies against the app's own OpenAPI document: status, content type, and body, event by event."""

import json
import re
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator
from quart import Quart
from quart.datastructures import Headers

from server.app import get_state
from server.messages.errors import is_messages_path
from server.openapi.document import build_document, list_routes

UNDOCUMENTED_STATUSES = (404, 405)  # of paths and methods that are not in the document

_checkers: dict[str, "OpenApiChecker"] = {}


class OpenApiChecker:
    """The OpenAPI document of an app, and the check of its replies."""

    def __init__(self, content: dict[str, Any], root: str) -> None:
        self.content = content
        self._root = root
        self._validators: dict[str, Draft202012Validator] = {}

    @staticmethod
    def from_app(app: Quart) -> "OpenApiChecker":
        """Return the checker of an app; apps of the same settings share one."""
        state = get_state(app)
        settings = repr((state.config, bool(state.config.api_key), state.llm.config, state.llm.sampling_defaults))
        if settings not in _checkers:
            content = build_document(state.llm, state.config, state.model_names, list_routes(app))
            _checkers[settings] = OpenApiChecker(content, state.config.root_path.rstrip("/"))
        return _checkers[settings]

    def operation(self, method: str, path: str) -> dict[str, Any] | None:
        """Return the document's operation for this request; HEAD is as GET."""
        path = path.partition("?")[0].removeprefix(self._root)
        for template, methods in self.content["paths"].items():
            name = "get" if method == "HEAD" else method.lower()
            if name in methods and _pattern(template).fullmatch(path):
                return methods[name]
        return None

    def check_reply(self, method: str, path: str, status: int, headers: Headers, text: str) -> None:
        """Check a reply. Raises AssertionError if the document does not allow it."""
        operation = self.operation(method, path)
        if method == "OPTIONS":
            return
        if operation is None:
            assert status in {*UNDOCUMENTED_STATUSES, 401, 400, 431}, (
                f"{method} {path} is served and not in the document"
            )
            name = f"{min(status, 404)}{'-messages' if is_messages_path(path.partition('?')[0]) else ''}"
            operation = {"responses": {str(status): {"$ref": f"#/components/responses/{name}"}}}
        where = f"{method} {path} {status}"
        assert str(status) in operation["responses"], f"{where}: the document does not have this status"
        response = self._resolve(operation["responses"][str(status)])
        kind = headers["Content-Type"].partition(";")[0]
        assert kind in response["content"], f"{where}: the document does not have the type {kind}"
        for name in response.get("headers", ()):
            assert name in headers, f"{where}: no header {name}"
        if method != "HEAD" and status != 304:
            self._check_body(kind, response["content"][kind]["schema"], text, where)

    def validate(self, instance: Any, schema: dict[str, Any], where: str) -> None:
        """Validate a value against a schema of the document."""
        key = json.dumps(schema, sort_keys=True)
        if key not in self._validators:
            whole = {**schema, "components": self.content["components"]}
            self._validators[key] = Draft202012Validator(whole)
        wrong = [f"{error.json_path}: {error.message[:300]}" for error in self._validators[key].iter_errors(instance)]
        assert not wrong, f"{where} is not what the OpenAPI document says: {wrong[:3]}"

    def _resolve(self, response: dict[str, Any]) -> dict[str, Any]:
        reference = response.get("$ref")
        return self.content["components"]["responses"][reference.rpartition("/")[2]] if reference else response

    def _check_body(self, kind: str, schema: dict[str, Any], text: str, where: str) -> None:
        if kind == "application/json":
            self.validate(json.loads(text), schema, where)
        elif kind == "text/event-stream" and "properties" in schema:
            data = schema["properties"]["data"]
            inner = (data["anyOf"][1] if "anyOf" in data else data)["contentSchema"]
            for line in text.split("\n"):
                if line.startswith("data: ") and line != "data: [DONE]":
                    self.validate(json.loads(line.removeprefix("data: ")), inner, where)


@cache
def _pattern(template: str) -> re.Pattern[str]:
    """Return the pattern of a path. A model's name may have slashes, no other part may."""
    escaped = re.escape(template).replace(r"\{name\}", ".+")
    return re.compile(re.sub(r"\\\{\w+\\\}", "[^/]+", escaped))
