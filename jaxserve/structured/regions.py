"""Where the content of a region may hold what ends it.

llguidance's lexer takes the longest text that fits, so that a regex would swallow its own end marker and never end. It
ends at the first marker instead, as free text does; a grammar that could do so is refused.
"""

from jaxserve.errors import InvalidParameter
from jaxserve.structured.patterns import may_continue_with
from jaxserve.structured.sequels import openings
from jaxserve.structured.shapes import Choice, Either, Lark, Literal, Regex, Sequence, Shape, Text


def with_ends(items: tuple[Shape, ...]) -> tuple[Shape, ...]:
    """The items of a sequence, in which each regex ends before what follows it.

    Raises InvalidParameter for a grammar of which that is not sure.
    """
    return tuple(_with_end(item, Sequence(items[index + 1 :])) for index, item in enumerate(items))


def _with_end(item: Shape, sequel: Shape) -> Shape:
    if not isinstance(item, Regex | Lark) or not _begins_with_text(sequel):
        return item
    markers = openings(sequel)
    if isinstance(item, Regex):
        is_unsure = any(may_continue_with(item.pattern, marker[0]) for marker in markers)
        return Text(markers, item.pattern) if is_unsure else item
    marker = next((marker for marker in markers if item.continues_with >> marker.encode()[0] & 1), None)
    if marker is not None:
        raise InvalidParameter(
            f"the grammar's text may go on with {marker[:1]!r}, with which the end of its region, {marker[:100]!r}, "
            "begins: choose another end, or a grammar whose last characters are others."
        )
    return item


def _begins_with_text(shape: Shape) -> bool:
    """Whether it begins with fixed text, whatever it is."""
    match shape:
        case Literal(text):
            return bool(text)
        case Choice(texts):
            return all(texts)
        case Either(options):
            return all(map(_begins_with_text, options))
        case Sequence(items):
            return bool(items) and _begins_with_text(items[0])
    return False
