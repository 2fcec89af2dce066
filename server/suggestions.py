"""Suggestions for a mistyped name: only for near misspellings, and never the contrary of what was typed."""

from collections.abc import Iterable

POLARITY_PREFIXES = ("enable", "disable", "allow", "trust", "exclude", "skip")  # words that turn a name around


def suggest(typed: str, known: Iterable[str]) -> str | None:
    """The known name that `typed` most likely stands for, or None. One edit for every five letters, at most three."""
    names = dict.fromkeys(known)
    if typed.startswith("no-"):
        positive = suggest(typed.removeprefix("no-"), names)
        return f"no-{positive}".replace("no-no-", "") if positive else None
    if typed.startswith("disable-") and (positive := f"enable-{typed.removeprefix('disable-')}") in names:
        return f"no-{positive}"
    most = min(3, 1 + len(typed) // 8)
    scored = [(distance, name) for name in names if (distance := _edit_distance(typed, name, most)) <= most]
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


def _edit_distance(left: str, right: str, limit: int) -> int:
    """Letters to add, drop, change or swap with the next (restricted Damerau-Levenshtein); most + 1 if more."""
    if abs(len(left) - len(right)) > limit:
        return limit + 1
    before: list[int] = []
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        above, row = row, [i]
        for j, b in enumerate(right, 1):
            best = min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (a != b))
            if i > 1 and j > 1 and a == right[j - 2] and left[i - 2] == b:
                best = min(best, before[j - 2] + 1)
            row.append(best)
        before = above
    return row[-1]
