"""What may follow free text: the fixed texts that an expression begins with, and its derivative by one of them.

The derivative of an expression by a text is what is left of it once the text has been read. Source: Brzozowski,
"Derivatives of Regular Expressions", 1964.
"""

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


def matches_empty(expr: GrammarExpr) -> bool:
    """Whether the form of the expression lets the empty text match; regexes and schemas are not examined."""
    match expr:
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
    return isinstance(expr, OptionalExpr | FreeText)


def starts_with_token(expr: GrammarExpr) -> bool:
    """Whether the expression begins with a token that is given by its id."""
    match expr:
        case TokenLiteral():
            return True
        case SequenceExpr(items):
            return any(map(starts_with_token, items[:1]))
        case OrExpr(options):
            return all(map(starts_with_token, options))
    return False


def first_set(expr: GrammarExpr) -> tuple[str, ...]:
    """Return the fixed texts that the expression can begin with, in order and without duplicates."""
    match expr:
        case TextLiteral(text):
            return (text,) if text else ()
        case TextChoice(texts):
            return tuple(text for text in texts if text)
        case SequenceExpr(items):
            texts: tuple[str, ...] = ()
            for item in items:
                texts += first_set(item)
                if not matches_empty(item):
                    break
            return tuple(dict.fromkeys(texts))
        case OrExpr(options):
            return tuple(dict.fromkeys(text for option in options for text in first_set(option)))
        case RepeatExpr(item) | OptionalExpr(item):
            return first_set(item)
    return ()


def derivative(expr: GrammarExpr, marker: str) -> GrammarExpr | None:
    """Return what may follow `marker` at the beginning of the expression; None if it cannot begin with it."""
    match expr:
        case TextLiteral(text):
            return TextLiteral(text[len(marker) :]) if text.startswith(marker) else None
        case TextChoice(texts):
            rests = tuple(text[len(marker) :] for text in texts if text.startswith(marker))
            return TextChoice(rests) if rests else None
        case SequenceExpr(items):
            return _union(_item_derivatives(flatten(items), marker))
        case OrExpr(options):
            return _union([derivative(option, marker) for option in options])
        case OptionalExpr(item):
            return derivative(item, marker)
        case RepeatExpr(item, least, most, separator):
            first = None if most == 0 else derivative(item, marker)
            if first is None:
                return None
            again = item if separator is None else SequenceExpr((separator, item))
            return SequenceExpr((first, RepeatExpr(again, max(least - 1, 0), None if most is None else most - 1)))
    return None


def _item_derivatives(items: tuple[GrammarExpr, ...], marker: str) -> list[GrammarExpr | None]:
    """One derivative for each item that may come first, because all items before it may be empty."""
    options: list[GrammarExpr | None] = []
    for index, item in enumerate(items):
        rest = derivative(item, marker)
        if rest is not None:
            options.append(SequenceExpr((rest, *items[index + 1 :])))
        if not matches_empty(item):
            break
    return options


def _union(exprs: list[GrammarExpr | None]) -> GrammarExpr | None:
    possible = tuple(expr for expr in exprs if expr is not None)
    return possible[0] if len(possible) == 1 else OrExpr(possible) if possible else None


def flatten(items: tuple[GrammarExpr, ...]) -> tuple[GrammarExpr, ...]:
    """Return an equivalent sequence without sequences in it, with adjacent literals joined.

    Where an option may end in free text, what follows is copied behind each option, because a FreeText needs to know
    the texts that may follow it. Then an OrExpr is the last item.
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
            following = tuple(flat[index + 1 :])
            return (*flat[:index], OrExpr(tuple(SequenceExpr(flatten((option, *following))) for option in options)))
    return tuple(flat)


def _ends_in_text(expr: GrammarExpr) -> bool:
    """Whether free text may be the last item."""
    match expr:
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
