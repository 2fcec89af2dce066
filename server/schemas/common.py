"""What the request schemas share: types of fields, and the validation of bodies.

Null and absent mean the same for every optional field, so an unset field is always None here; its default is applied in
jobs.py. Types are lenient as in vLLM, but for the types below. Unknown keys of a body are accepted and dropped: they
must not stay in memory for as long as the request runs.
"""

import logging
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from server.body import make_validation_error
from server.errors import MAX_VALUE_CHARS

log = logging.getLogger(__name__)

MAX_CODE_POINTS_SHOWN = MAX_VALUE_CHARS
LEGACY_FIELDS = frozenset({"guided_json", "guided_regex", "guided_choice", "guided_grammar", "best_of"})
_warned_fields: set[str] = set()

T = TypeVar("T", bound=BaseModel)
TOO_LONG = "Input should be an integer of at most 64 bits"
ERROR_MESSAGES = {"int_parsing_size": TOO_LONG}  # pydantic's own text speaks of strings, also about a float


def _check_64_bits(value: int) -> int:
    if not -(2**63) <= value < 2**63:
        raise ValueError(TOO_LONG)
    return value


Int = Annotated[int, AfterValidator(_check_64_bits)]
"""An integer of at most 64 bits: the JSON parser keeps all digits, and no field needs more."""
Int64 = Annotated[Int, Field(ge=-(2**63), le=2**63 - 1)]


def _require_number(value: Any) -> Any:
    if isinstance(value, str | bool):
        raise ValueError("Input should be a JSON number")
    return value


NumberInt = Annotated[Int, BeforeValidator(_require_number)]
"""An integer that must be a number in the JSON: neither "3" nor true."""


def _reject_string(value: Any) -> Any:
    if isinstance(value, str):
        raise ValueError("Input should be a JSON number")
    return value


NonStringInt = Annotated[Int, BeforeValidator(_reject_string)]
"""An integer that may be true, but not "3"."""

Strings = Annotated[list[str], Field(fail_fast=True)]
Ints = Annotated[list[Int], Field(fail_fast=True)]


class NestedModel(BaseModel):
    """An object inside the body; unknown keys are dropped."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())


def validate_body(schema: type[T], body: dict[str, Any]) -> T:
    """Validate a body against a schema.

    Raises ApiError (400) if it does not match, with a line for each field at fault, at most ten.
    """
    try:
        request = schema.model_validate(body)
    except ValidationError as error:
        raise _to_api_error(error, body) from None
    _note_unknown(body.keys() - schema.model_fields.keys())
    return request


def _to_api_error(error: ValidationError, body: dict[str, Any]) -> Exception:
    """Make the 400, with one line for each path.

    The reasons of the branches of a union are joined, since clients do not know of branches. Of a path and a longer one
    that begins with it, only the longer is listed, since it is more precise.
    """
    reasons: dict[str, list[str]] = {}
    for item in error.errors(include_url=False, include_context=False, include_input=False):
        path = _format_path(item["loc"], body, item["type"] == "missing")
        message = ERROR_MESSAGES.get(item["type"], item["msg"].removeprefix("Value error, "))
        if message not in reasons.setdefault(path, []):
            reasons[path].append(message)
    deepest = [path for path in reasons if not any(other.startswith(path + ".") for other in reasons)]
    lines = [f"{path}: {', or: '.join(reasons[path])}" for path in deepest]
    return make_validation_error(lines, deepest[0])


def _format_path(location: tuple[int | str, ...], body: Any, is_missing: bool) -> str:
    """Write a location as a dotted path, as far as it exists in the body, and the key that is missing there."""
    parts, node = ["body"], body
    for step in location:
        if isinstance(node, dict) and isinstance(step, str) and step in node:
            parts.append(step[:MAX_CODE_POINTS_SHOWN])
            node = node[step]
        elif isinstance(node, list) and isinstance(step, int) and step < len(node):
            parts.append(str(step))
            node = node[step]
    if is_missing:
        parts.append(str(location[-1]))
    return ".".join(parts)


def _note_unknown(names: set[str]) -> None:
    if names and log.isEnabledFor(logging.DEBUG):
        log.debug("unknown request fields: %s", ", ".join(sorted(names))[:MAX_VALUE_CHARS])
    for name in LEGACY_FIELDS & names - _warned_fields:
        _warned_fields.add(name)
        log.warning("the request field %s is no longer known and is ignored; use structured_outputs or n", name)
