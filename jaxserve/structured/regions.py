"""The ends of regions: a regex or a grammar must not match the fixed text that follows it.

llguidance's lexer takes the longest text that fits, so that a regex would consume its own end marker and never end.
Such a regex ends at the first marker instead, as free text does. A grammar that could do so is refused.
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
    """Return the items of a sequence, in which each regex ends before what follows it.

    Raises InvalidParameter if a grammar may continue with the first byte of what follows it.
    """
    return tuple(_bound(item, SequenceExpr(items[index + 1 :])) for index, item in enumerate(items))


def _bound(item: GrammarExpr, following: GrammarExpr) -> GrammarExpr:
    if not isinstance(item, Regex | LarkGrammar) or not _begins_with_text(following):
        return item
    markers = first_set(following)
    if isinstance(item, Regex):
        is_ambiguous = any(can_continue_with(item.pattern, marker[0]) for marker in markers)
        return FreeText(markers, item.pattern) if is_ambiguous else item
    marker = next((marker for marker in markers if item.continuation_bytes >> marker.encode()[0] & 1), None)
    if marker is not None:
        raise InvalidParameter(
            f"the grammar's text may go on with {marker[:1]!r}, with which the end of its region, {marker[:100]!r}, "
            "begins: choose another end, or a grammar whose last characters are others."
        )
    return item


def _begins_with_text(expr: GrammarExpr) -> bool:
    """Whether it begins with fixed text, whichever of the possible ones."""
    match expr:
        case TextLiteral(text):
            return bool(text)
        case TextChoice(texts):
            return all(texts)
        case OrExpr(options):
            return all(map(_begins_with_text, options))
        case SequenceExpr(items):
            return bool(items) and _begins_with_text(items[0])
    return False
