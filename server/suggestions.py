"""Suggestions for a mistyped name: only for small misspellings, and never for the opposite of what was typed."""

from collections.abc import Iterable

POLARITY_PREFIXES = (
    "enable",
    "disable",
    "allow",
    "trust",
    "exclude",
    "skip",
)  # words that change the meaning of a name to its opposite


def suggest(typed: str, known_names: Iterable[str]) -> str | None:
    """Return the known name that `typed` most likely stands for, or None.

    One edit is allowed, one more for every eight characters, at most three.
    """
    names = dict.fromkeys(known_names)
    if typed.startswith("no-"):
        positive = suggest(typed.removeprefix("no-"), names)
        return f"no-{positive}".replace("no-no-", "") if positive else None
    if typed.startswith("disable-") and (positive := f"enable-{typed.removeprefix('disable-')}") in names:
        return f"no-{positive}"
    limit = min(3, 1 + len(typed) // 8)
    scored = [(distance, name) for name in names if (distance := _edit_distance(typed, name, limit)) <= limit]
    scored = [
        (distance, name)
        for distance, name in scored
        if _polarity_prefix(typed) == _polarity_prefix(name) or distance <= 1
    ]
    if scored:
        return min(scored)[1]
    longer = [
        name for name in names if name.startswith(typed + "-") and _polarity_prefix(typed) == _polarity_prefix(name)
    ]
    return longer[0] if len(longer) == 1 else None


def _polarity_prefix(name: str) -> str:
    first = name.split("-")[0]
    return first if first in POLARITY_PREFIXES else ""


def _edit_distance(typed: str, name: str, limit: int) -> int:
    """Count the letters to add, drop, change or swap with the next one; limit + 1 if there are more.

    This is the restricted Damerau-Levenshtein distance.
    """
    if abs(len(typed) - len(name)) > limit:
        return limit + 1
    before: list[int] = []
    row = list(range(len(name) + 1))
    for i, a in enumerate(typed, 1):
        above, row = row, [i]
        for j, b in enumerate(name, 1):
            best = min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (a != b))
            if i > 1 and j > 1 and a == name[j - 2] and typed[i - 2] == b:
                best = min(best, before[j - 2] + 1)
            row.append(best)
        before = above
    return row[-1]
