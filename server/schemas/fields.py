"""RequestField: all that is known of one field of a request, declared where the schema declares its type.

FIELDS.md and the README's table (scripts/field_table --write), the OpenAPI document and the sampling parameters of a
request (server/sampling.py) are made from these rows. Tests check that the tests that the rows name exist, and try
every bound and default that a row gives.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cache
from typing import Any

from pydantic import BaseModel, Field
from pydantic.fields import FieldInfo

from jaxserve import Unsupported
from server.errors import preview

BECOMES_PARAMETER = "test_chat_fields.py::test_a_field_becomes_a_sampling_parameter"
HAS_NO_EFFECT = "test_chat_fields.py::test_neutral_values_and_unknown_keys_change_nothing"
IS_REFUSED = "test_chat_fields.py::test_what_is_not_built_yet_is_refused_by_name"


class SupportStatus(StrEnum):
    """Support of a field.

    HONOURED   it does what the OpenAI or vLLM documentation says
    REFUSED    400 "... is not supported yet", and why, for any value but null and the neutral ones
    NO_EFFECT  it is accepted and its type is checked; it is documented to change nothing here
    """

    HONOURED = "honoured"
    REFUSED = "not supported yet"
    NO_EFFECT = "no effect"


class Purpose(StrEnum):
    """The purposes by which the README groups the fields, in its order."""

    PROMPT = "model and prompt"
    TEMPLATE = "chat template"
    SAMPLING = "sampling"
    RESTRICTIONS = "penalties and restrictions"
    LENGTH = "length and end"
    FORM = "form of the output"
    TOOLS = "tools and reasoning"
    LOGPROBS = "log-probabilities"
    REPLY = "reply"
    SCHEDULING = "scheduling and cache"


@dataclass(frozen=True, slots=True)
class RequestField:
    """One field of a request.

    description   what it does, in one sentence of the OpenAPI document; "" for fields of nested objects
    purpose       its row of the README's table; fields that are not honoured, or stand in nested objects, have none
    default       what null means, as JSON; None: nothing, or for a sampling parameter the model's own default
    is_required   the body must have it
    status        see SupportStatus
    note          what users should know about it
    test          the test that shows it, in whose source the field's name occurs: a pytest node id without parameters,
                  relative to tests/server unless it begins with tests/
    neutral       values beside null that a REFUSED field may have
    to_parameter  makes the sampling parameter of the same name of a value; None: it is none, or more decides about it
    keywords      keywords of its JSON schema

    Default and keywords may be functions of ServerLimits; one that returns None leaves its keyword out.
    """

    description: str = ""
    purpose: Purpose | None = None
    default: Any = None
    is_required: bool = False
    status: SupportStatus = SupportStatus.HONOURED
    note: str = ""
    test: str = ""
    neutral: tuple[Any, ...] = ()
    to_parameter: Callable[[Any], Any] | None = None
    keywords: Mapping[str, Any] = field(default_factory=dict)

    @property
    def node_id(self) -> str:
        """The pytest node id of `test`."""
        return self.test if self.test.startswith("tests/") else f"tests/server/{self.test}"


def honoured(
    description: str = "",
    purpose: Purpose | None = None,
    default: Any = None,
    *,
    test: str,
    note: str = "",
    is_required: bool = False,
    is_nullable: bool | None = None,
    alias: str | None = None,
    **keywords: Any,
) -> Any:
    """Declare a field that is honoured; see RequestField.

    is_nullable: null, or its absence, is found by a check of its own; by default fields are that are not required.
    """
    row = RequestField(description, purpose, default, is_required, note=note, test=test, keywords=keywords)
    return _declare(row, is_nullable=not is_required if is_nullable is None else is_nullable, alias=alias)


def parameter(
    description: str,
    purpose: Purpose,
    default: Any = None,
    *,
    test: str = BECOMES_PARAMETER,
    note: str = "",
    convert: Callable[[Any], Any] = lambda value: tuple(value) if isinstance(value, list) else value,
    **keywords: Any,
) -> Any:
    """Declare a field that becomes the sampling parameter of the same name.

    The range of a number and its default are that parameter's; `default` and `keywords` replace them.
    """
    return _declare(
        RequestField(description, purpose, default, note=note, test=test, to_parameter=convert, keywords=keywords)
    )


def refused(description: str, *neutral: Any, note: str = "", test: str = IS_REFUSED) -> Any:
    """Declare a field that is refused, except null and the neutral values."""
    return _declare(RequestField(description, status=SupportStatus.REFUSED, note=note, test=test, neutral=neutral))


def no_effect(
    description: str = "",
    default: Any = None,
    *,
    note: str,
    test: str = HAS_NO_EFFECT,
    alias: str | None = None,
    **keywords: Any,
) -> Any:
    """Declare a field that is accepted without effect."""
    row = RequestField(
        description, default=default, status=SupportStatus.NO_EFFECT, note=note, test=test, keywords=keywords
    )
    return _declare(row, alias=alias)


def same_as(
    schema: type[BaseModel],
    name: str,
    *,
    description: str | None = None,
    default: Any = None,
    note: str | None = None,
    test: str | None = None,
    **keywords: Any,
) -> Any:
    """Declare a field with the row of another schema's field, but for what is given here."""
    row = get_rows(schema)[name]
    given = {"description": description, "default": default, "note": note, "test": test}
    changes = {attribute: value for attribute, value in given.items() if value is not None}
    return _declare(replace(row, **changes, keywords={**row.keywords, **keywords}))


def _declare(row: RequestField, *, is_nullable: bool = True, alias: str | None = None) -> FieldInfo:
    """Make pydantic's description of a field, whose metadata has the row."""
    default: Any = None if is_nullable else ...
    info: FieldInfo = Field(default=default, alias=alias)
    info.metadata.append(row)
    return info


@cache
def get_rows(schema: type[BaseModel]) -> Mapping[str, RequestField]:
    """Return the rows of a schema's fields by their names in JSON. Raises StopIteration if a field has none."""
    return {
        info.alias or name: next(item for item in info.metadata if isinstance(item, RequestField))
        for name, info in schema.model_fields.items()
    }


def refuse_unsupported(request: BaseModel) -> None:
    """Check that no field asks for something unsupported. Raises Unsupported about the first one that does."""
    for name, row in sorted(get_rows(type(request)).items()):
        if row.status is not SupportStatus.REFUSED:
            continue
        value = getattr(request, name)
        if value is not None and value not in row.neutral:
            reason = f": {row.note}" if row.note else ""
            raise Unsupported(f"{name} is not supported yet{reason} (got {preview(value)}); leave it out.", name)
