"""What the text of an answer must be, as a caller says it. Plain values; structured/ makes grammars of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from json import dumps
from typing import Any

from jaxserve.errors import InvalidParameter

CONSTRAINT_FIELDS = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")


@dataclass(frozen=True, slots=True, kw_only=True)
class StructuredOutputs:
    """One constraint on an answer, in vLLM's names: exactly one of the first six is given.

    json             a JSON schema: as JSON text, as a dict, or as a pydantic model; kept as text
    regex            matched by the whole answer
    choice           the answer is one of these; one of them may be empty
    grammar          a context-free grammar: GBNF where a line has `::=`, else Lark
    json_object      True: any JSON object
    structural_tag   a structural tag, as JSON text or a dict: free text in which regions follow schemas
    disable_any_whitespace          JSON in its compact form
    disable_additional_properties   no keys but declared ones, in objects that say nothing of others
    whitespace_pattern              a regex for what stands between JSON tokens; nothing with disable_any_whitespace
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
            said = f"{', '.join(given)} are" if given else "none is"
            raise InvalidParameter(
                f"structured_outputs must have exactly one of {listed}; {said} given.", "structured_outputs"
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
    """JSON text of a schema in any of its forms; keys keep their order, because an answer has them in it."""
    if value is None or isinstance(value, str):
        return value
    if hasattr(value, "model_json_schema"):
        value = value.model_json_schema()
    if isinstance(value, Mapping | bool):
        return dumps(value, ensure_ascii=False)
    raise InvalidParameter(
        f"structured_outputs.{name} must be JSON text, a dict or a pydantic model, got {value!r}.", "structured_outputs"
    )
