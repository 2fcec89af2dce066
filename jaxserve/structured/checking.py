"""The part of compiling that strangers could make expensive. It runs in a helper, which may be killed."""

from typing import Any

from llguidance import LLMatcher, LLParserLimits

from jaxserve.errors import InvalidParameter
from jaxserve.structured.grammar import shape_of
from jaxserve.structured.lark import grammar_text
from jaxserve.structured.shapes import Shape, from_json
from jaxserve.structured_outputs import StructuredOutputs

LIMITS = LLParserLimits(verbose_errors=False)
MAX_MESSAGE_CHARS = 500


def check(data: dict[str, Any]) -> str:
    """The helper's side: the grammar of what was asked, as LLMatcher takes it. Raises InvalidParameter."""
    if "asked" in data:
        asked = data["asked"] | {"choice": None if data["asked"]["choice"] is None else tuple(data["asked"]["choice"])}
        what: StructuredOutputs | Shape = StructuredOutputs(**asked)
    else:
        what = from_json(data["shape"])
    return checked(what, data["special_tokens"], data["param"])


def checked(what: StructuredOutputs | Shape, special_tokens: dict[str, int], param: str) -> str:
    """The grammar, of which llguidance has nothing to complain. Raises InvalidParameter that names `param`."""
    try:
        shape = shape_of(what, special_tokens) if isinstance(what, StructuredOutputs) else what
        text = grammar_text(shape, special_tokens)
    except InvalidParameter as error:
        raise InvalidParameter(f"{param}: {error}", param) from None
    _, complaints = LLMatcher.validate_grammar_with_warnings(text, None, limits=LIMITS)
    complaints = [complaint for complaint in complaints if not complaint.startswith("no tokenizer - can't validate")]
    if complaints:
        message = complaints[0].strip()
        cut = message if len(message) <= MAX_MESSAGE_CHARS else f"{message[:MAX_MESSAGE_CHARS]}…"
        raise InvalidParameter(f"{param} cannot be enforced: {cut}", param)
    return text
