"""What a merged schema says of a string, as regular expressions that the whole text matches, where it has no quotes."""

import re
from collections.abc import Mapping
from typing import Any

from jaxserve.structured.schema_keywords import unenforceable_error

_ANY = "(?s:.*)"
MAX_LENGTH = 100_000


def to_text_patterns(schema: Mapping[str, Any], path: str) -> tuple[str, ...]:
    """Patterns each of which a string's whole text matches. path: where the schema stands.

    Raises InvalidParameter naming the keyword that cannot be enforced of a text without quotes.
    """
    found = []
    if "minLength" in schema or "maxLength" in schema:
        least, most = schema.get("minLength", 0), schema.get("maxLength")
        for keyword, length in (("minLength", least), ("maxLength", most or 0)):
            if length > MAX_LENGTH:
                raise unenforceable_error(keyword, path, f"of a text without quotes it can be up to {MAX_LENGTH}")
        found.append(f"(?s:.){{{least},{'' if most is None else most}}}")
    for rule in [schema, *schema.get("allOf", ())]:
        if "pattern" in rule:
            found.append(to_fullmatch_pattern(rule["pattern"], path))
    return tuple(found)


def to_fullmatch_pattern(pattern: str, path: str) -> str:
    """A pattern that is searched for, as one that the whole text matches. pattern: as `translate_pattern` gave it."""
    return "(?:" + "|".join(_anchored(branch, path) for branch in _branches(pattern)) + ")"


def _anchored(branch: str, path: str) -> str:
    before, after = _ANY, _ANY
    while branch.startswith("^"):
        before, branch = "", branch[1:]
    while branch.endswith("$") and not _is_escaped(branch, len(branch) - 1):
        branch, after = branch[:-1], ""
    inner = _group(branch)
    if inner is not None and _anchors(inner):
        if before and after:
            return to_fullmatch_pattern(inner, path)
        raise _refused(path)
    if _anchors(branch):
        raise _refused(path)
    return f"{before}(?:{branch}){after}"


def _refused(path: str) -> Exception:
    return unenforceable_error("pattern", path, "it has '^' or '$' inside, and the text is written without quotes")


def _is_escaped(pattern: str, place: int) -> bool:
    backslashes = re.search(r"\\*$", pattern[:place])
    return backslashes is not None and len(backslashes.group()) % 2 == 1


def _marks(pattern: str) -> list[tuple[int, str, int]]:
    """(place, character, depth of groups) of what stands outside of classes and is not escaped."""
    found, depth, place, in_class = [], 0, 0, False
    while place < len(pattern):
        char = pattern[place]
        if char == "\\":
            place += 2
            continue
        if in_class:
            in_class = char != "]"
        elif char == "[":
            in_class = True
        else:
            depth -= char == ")"
            found.append((place, char, depth))
            depth += char == "("
        place += 1
    return found


def _branches(pattern: str) -> list[str]:
    """What stands between the `|` that are in no group."""
    cuts = [place for place, char, depth in _marks(pattern) if char == "|" and not depth]
    starts, ends = [0, *(cut + 1 for cut in cuts)], [*cuts, len(pattern)]
    return [pattern[start:end] for start, end in zip(starts, ends, strict=True)]


def _group(branch: str) -> str | None:
    """The inside of the one group, with no flags of its own, that the branch is; else None."""
    head = re.match(r"\((?:\?:|\?P?<\w+>)?(?!\?)", branch)
    closing = [place for place, char, depth in _marks(branch) if char == ")" and not depth]
    return branch[head.end() : -1] if head and closing == [len(branch) - 1] else None


def _anchors(pattern: str) -> bool:
    return any(char in "^$" for _, char, _ in _marks(pattern))
