"""StructuredOutputs: a constraint on the text of an output. Plain values; structured/ compiles grammars from them."""

from collections.abc import Mapping
from dataclasses import dataclass
from json import dumps
from typing import Any

from jaxserve.errors import InvalidParameter

CONSTRAINT_FIELDS = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")


@dataclass(frozen=True, slots=True, kw_only=True)
class StructuredOutputs:
    """A constraint on the text of an output, with vLLM's names: exactly one of the first six fields is set.

    json             The text is JSON that is valid under this schema: JSON text, a dict, or a pydantic model; kept as
                     text.
    regex            This regular expression matches the whole text.
    choice           The text is one of these; one of them may be empty.
    grammar          The text is derived from this context-free grammar: GBNF if a line has `::=`, else Lark.
    json_object      True: the text is any JSON object.
    structural_tag   The text is free, and regions of it follow schemas: vLLM's structural tag as JSON text or a dict.
    disable_any_whitespace          JSON has no whitespace between its tokens.
    disable_additional_properties   Objects have no keys but the declared ones if their schema does not mention others.
    whitespace_pattern              A regular expression for the whitespace between JSON tokens; disable_any_whitespace
                                    overrides it.

    Raises InvalidParameter if not exactly one constraint is set, or if it is blank or of the wrong type.
    """

    json: str | None = None
    regex: str | None = None
    choice: tuple[str, ...] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    structural_tag: str | None = None
    disable_any_whitespace: bool = False
    disable_additional_properties: bool = False
    whitespace_pattern: str | None = None

    def __post_init__(self) -> None:
        for name in ("json", "structural_tag"):
            object.__setattr__(self, name, _as_text(name, getattr(self, name)))
        if self.choice is not None and not isinstance(self.choice, str):
            object.__setattr__(self, "choice", tuple(self.choice))
        given = [name for name in CONSTRAINT_FIELDS if getattr(self, name) is not None]
        if len(given) != 1:
            listed = ", ".join(CONSTRAINT_FIELDS)
            actual = f"{', '.join(given)} are" if given else "none is"
            raise InvalidParameter(
                f"structured_outputs must have exactly one of {listed}; {actual} given.", "structured_outputs"
            )
        if self.json_object is False:
            raise InvalidParameter(
                "structured_outputs.json_object must be true if it is given, got false.", "structured_outputs"
            )
        if self.choice == ():
            raise InvalidParameter("structured_outputs.choice must not be empty.", "structured_outputs")
        for name in ("json", "grammar", "structural_tag"):
            if getattr(self, name) is not None and not getattr(self, name).strip():
                raise InvalidParameter(f"structured_outputs.{name} must not be blank.", "structured_outputs")


def _as_text(name: str, value: Any) -> str | None:
    """Convert a schema to JSON text. Keys keep their order, because outputs have them in that order."""
    if value is None or isinstance(value, str):
        return value
    if hasattr(value, "model_json_schema"):
        value = value.model_json_schema()
    if isinstance(value, Mapping | bool):
        return dumps(value, ensure_ascii=False)
    raise InvalidParameter(
        f"structured_outputs.{name} must be JSON text, a dict or a pydantic model, got {value!r}.", "structured_outputs"
    )
