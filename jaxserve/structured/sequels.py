"""What may follow free text: where a shape can begin, and what is left of it once its beginning has been read."""

from jaxserve.structured.shapes import Choice, Either, Literal, Optional, Repeat, Sequence, Shape, Text, Token


def may_be_empty(shape: Shape) -> bool:
    match shape:
        case Literal(text):
            return not text
        case Choice(texts):
            return "" in texts
        case Sequence(items):
            return all(map(may_be_empty, items))
        case Either(options):
            return any(map(may_be_empty, options))
        case Repeat(item, least):
            return least == 0 or may_be_empty(item)
    return isinstance(shape, Optional | Text)


def begins_with_token(shape: Shape) -> bool:
    """Whether it is a token, and no text, by which it begins."""
    match shape:
        case Token():
            return True
        case Sequence(items):
            return any(map(begins_with_token, items[:1]))
        case Either(options):
            return all(map(begins_with_token, options))
    return False


def openings(shape: Shape) -> tuple[str, ...]:
    """The fixed texts that this shape begins with, where it begins with any."""
    match shape:
        case Literal(text):
            return (text,) if text else ()
        case Choice(texts):
            return tuple(text for text in texts if text)
        case Sequence(items):
            found: tuple[str, ...] = ()
            for item in items:
                found += openings(item)
                if not may_be_empty(item):
                    break
            return tuple(dict.fromkeys(found))
        case Either(options):
            return tuple(dict.fromkeys(text for option in options for text in openings(option)))
        case Repeat(item) | Optional(item):
            return openings(item)
    return ()


def after(shape: Shape, marker: str) -> Shape | None:
    """What is left of the shape behind `marker`, or None if it cannot begin with it."""
    match shape:
        case Literal(text):
            return Literal(text[len(marker) :]) if text.startswith(marker) else None
        case Choice(texts):
            rests = tuple(text[len(marker) :] for text in texts if text.startswith(marker))
            return Choice(rests) if rests else None
        case Sequence(items):
            return _either(_after_items(unfold(items), marker))
        case Either(options):
            return _either([after(option, marker) for option in options])
        case Optional(item):
            return after(item, marker)
        case Repeat(item, least, most, separator):
            first = None if most == 0 else after(item, marker)
            if first is None:
                return None
            again = item if separator is None else Sequence((separator, item))
            return Sequence((first, Repeat(again, max(least - 1, 0), None if most is None else most - 1)))
    return None


def _after_items(items: tuple[Shape, ...], marker: str) -> list[Shape | None]:
    found: list[Shape | None] = []
    for index, item in enumerate(items):
        rest = after(item, marker)
        if rest is not None:
            found.append(Sequence((rest, *items[index + 1 :])))
        if not may_be_empty(item):
            break
    return found


def _either(shapes: list[Shape | None]) -> Shape | None:
    possible = tuple(shape for shape in shapes if shape is not None)
    return possible[0] if len(possible) == 1 else Either(possible) if possible else None


def unfold(items: tuple[Shape, ...]) -> tuple[Shape, ...]:
    """The same sequence without sequences in it, literals joined, and no free text hidden before a sequel.

    Where an option may end in free text, the sequel is written behind each option, so that the text can see it.
    """
    flat: list[Shape] = []
    for item in items:
        for part in unfold(item.items) if isinstance(item, Sequence) else (item,):
            if isinstance(part, Literal) and flat and isinstance(flat[-1], Literal):
                flat[-1] = Literal(flat[-1].text + part.text)
            else:
                flat.append(part)
    for index, part in enumerate(flat[:-1]):
        if isinstance(part, Either | Optional) and _ends_in_text(part):
            options = part.options if isinstance(part, Either) else (part.item, Sequence(()))
            sequel = tuple(flat[index + 1 :])
            return (*flat[:index], Either(tuple(Sequence(unfold((option, *sequel))) for option in options)))
    return tuple(flat)


def _ends_in_text(shape: Shape) -> bool:
    match shape:
        case Text():
            return True
        case Sequence(items):
            for item in reversed(items):
                if _ends_in_text(item):
                    return True
                if not may_be_empty(item):
                    return False
        case Either(options):
            return any(map(_ends_in_text, options))
        case Optional(item) | Repeat(item):
            return _ends_in_text(item)
    return False
