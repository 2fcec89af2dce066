"""What may follow free text: where a shape can begin, and what is left of it once its beginning has been read."""

from jaxserve.structured.grammar_expr import (
    FreeText,
    GrammarExpr,
    OptionalExpr,
    OrExpr,
    RepeatExpr,
    SequenceExpr,
    TextChoice,
    TextLiteral,
    TokenLiteral,
)


def matches_empty(shape: GrammarExpr) -> bool:
    match shape:
        case TextLiteral(text):
            return not text
        case TextChoice(texts):
            return "" in texts
        case SequenceExpr(items):
            return all(map(matches_empty, items))
        case OrExpr(options):
            return any(map(matches_empty, options))
        case RepeatExpr(item, least):
            return least == 0 or matches_empty(item)
    return isinstance(shape, OptionalExpr | FreeText)


def starts_with_token(shape: GrammarExpr) -> bool:
    """Whether it is a token, and no text, by which it begins."""
    match shape:
        case TokenLiteral():
            return True
        case SequenceExpr(items):
            return any(map(starts_with_token, items[:1]))
        case OrExpr(options):
            return all(map(starts_with_token, options))
    return False


def first_set(shape: GrammarExpr) -> tuple[str, ...]:
    """The fixed texts that this shape begins with, where it begins with any."""
    match shape:
        case TextLiteral(text):
            return (text,) if text else ()
        case TextChoice(texts):
            return tuple(text for text in texts if text)
        case SequenceExpr(items):
            found: tuple[str, ...] = ()
            for item in items:
                found += first_set(item)
                if not matches_empty(item):
                    break
            return tuple(dict.fromkeys(found))
        case OrExpr(options):
            return tuple(dict.fromkeys(text for option in options for text in first_set(option)))
        case RepeatExpr(item) | OptionalExpr(item):
            return first_set(item)
    return ()


def derivative(shape: GrammarExpr, marker: str) -> GrammarExpr | None:
    """What is left of the shape behind `marker`, or None if it cannot begin with it."""
    match shape:
        case TextLiteral(text):
            return TextLiteral(text[len(marker) :]) if text.startswith(marker) else None
        case TextChoice(texts):
            rests = tuple(text[len(marker) :] for text in texts if text.startswith(marker))
            return TextChoice(rests) if rests else None
        case SequenceExpr(items):
            return _either(_after_items(flatten(items), marker))
        case OrExpr(options):
            return _either([derivative(option, marker) for option in options])
        case OptionalExpr(item):
            return derivative(item, marker)
        case RepeatExpr(item, least, most, separator):
            first = None if most == 0 else derivative(item, marker)
            if first is None:
                return None
            again = item if separator is None else SequenceExpr((separator, item))
            return SequenceExpr((first, RepeatExpr(again, max(least - 1, 0), None if most is None else most - 1)))
    return None


def _after_items(items: tuple[GrammarExpr, ...], marker: str) -> list[GrammarExpr | None]:
    found: list[GrammarExpr | None] = []
    for index, item in enumerate(items):
        rest = derivative(item, marker)
        if rest is not None:
            found.append(SequenceExpr((rest, *items[index + 1 :])))
        if not matches_empty(item):
            break
    return found


def _either(shapes: list[GrammarExpr | None]) -> GrammarExpr | None:
    possible = tuple(shape for shape in shapes if shape is not None)
    return possible[0] if len(possible) == 1 else OrExpr(possible) if possible else None


def flatten(items: tuple[GrammarExpr, ...]) -> tuple[GrammarExpr, ...]:
    """The same sequence without sequences in it, literals joined, and no free text hidden before a sequel.

    Where an option may end in free text, the sequel is written behind each option, so that the text can see it.
    """
    flat: list[GrammarExpr] = []
    for item in items:
        for part in flatten(item.items) if isinstance(item, SequenceExpr) else (item,):
            if isinstance(part, TextLiteral) and flat and isinstance(flat[-1], TextLiteral):
                flat[-1] = TextLiteral(flat[-1].text + part.text)
            else:
                flat.append(part)
    for index, part in enumerate(flat[:-1]):
        if isinstance(part, OrExpr | OptionalExpr) and _ends_in_text(part):
            options = part.options if isinstance(part, OrExpr) else (part.item, SequenceExpr(()))
            sequel = tuple(flat[index + 1 :])
            return (*flat[:index], OrExpr(tuple(SequenceExpr(flatten((option, *sequel))) for option in options)))
    return tuple(flat)


def _ends_in_text(shape: GrammarExpr) -> bool:
    match shape:
        case FreeText():
            return True
        case SequenceExpr(items):
            for item in reversed(items):
                if _ends_in_text(item):
                    return True
                if not matches_empty(item):
                    return False
        case OrExpr(options):
            return any(map(_ends_in_text, options))
        case OptionalExpr(item) | RepeatExpr(item):
            return _ends_in_text(item)
    return False
