"""Where the content of a region may hold what ends it.

llguidance's lexer takes the longest text that fits, so that a regex would swallow its own end marker and never end. It
ends at the first marker instead, as free text does; a grammar that could do so is refused.
"""

from jaxserve.errors import InvalidParameter
from jaxserve.structured.derivatives import first_set
from jaxserve.structured.grammar_expr import (
    FreeText,
    GrammarExpr,
    LarkGrammar,
    OrExpr,
    Regex,
    SequenceExpr,
    TextChoice,
    TextLiteral,
)
from jaxserve.structured.patterns import can_continue_with


def bound_regions(items: tuple[GrammarExpr, ...]) -> tuple[GrammarExpr, ...]:
    """The items of a sequence, in which each regex ends before what follows it.

    Raises InvalidParameter for a grammar of which that is not sure.
    """
    return tuple(_with_end(item, SequenceExpr(items[index + 1 :])) for index, item in enumerate(items))


def _with_end(item: GrammarExpr, sequel: GrammarExpr) -> GrammarExpr:
    if not isinstance(item, Regex | LarkGrammar) or not _begins_with_text(sequel):
        return item
    markers = first_set(sequel)
    if isinstance(item, Regex):
        is_unsure = any(can_continue_with(item.pattern, marker[0]) for marker in markers)
        return FreeText(markers, item.pattern) if is_unsure else item
    marker = next((marker for marker in markers if item.continuation_bytes >> marker.encode()[0] & 1), None)
    if marker is not None:
        raise InvalidParameter(
            f"the grammar's text may go on with {marker[:1]!r}, with which the end of its region, {marker[:100]!r}, "
            "begins: choose another end, or a grammar whose last characters are others."
        )
    return item


def _begins_with_text(shape: GrammarExpr) -> bool:
    """Whether it begins with fixed text, whatever it is."""
    match shape:
        case TextLiteral(text):
            return bool(text)
        case TextChoice(texts):
            return all(texts)
        case OrExpr(options):
            return all(map(_begins_with_text, options))
        case SequenceExpr(items):
            return bool(items) and _begins_with_text(items[0])
    return False
