"""Conditions of a merged schema on a string as patterns that the whole text matches, for strings without quotes."""

import re
from collections.abc import Mapping
from typing import Any

from jaxserve.structured.schema_keywords import unenforceable_error

_ANY = "(?s:.*)"
MAX_LENGTH = 100_000


def to_text_patterns(schema: Mapping[str, Any], path: str) -> tuple[str, ...]:
    """Return patterns, all of which the whole text of a valid string matches.

    path   where the schema stands

    Raises InvalidParameter if a length is too large, or a pattern has anchors inside.
    """
    patterns = []
    if "minLength" in schema or "maxLength" in schema:
        least, most = schema.get("minLength", 0), schema.get("maxLength")
        for keyword, length in (("minLength", least), ("maxLength", most or 0)):
            if length > MAX_LENGTH:
                raise unenforceable_error(keyword, path, f"of a text without quotes it can be up to {MAX_LENGTH}")
        patterns.append(f"(?s:.){{{least},{'' if most is None else most}}}")
    for rule in [schema, *schema.get("allOf", ())]:
        if "pattern" in rule:
            patterns.append(to_fullmatch_pattern(rule["pattern"], path))
    return tuple(patterns)


def to_fullmatch_pattern(pattern: str, path: str) -> str:
    """Convert a translated pattern that is searched for into one that the whole text matches.

    path   where its schema stands

    Raises InvalidParameter if it has anchors elsewhere than at its ends.
    """
    return "(?:" + "|".join(_anchored(branch, path) for branch in _branches(pattern)) + ")"


def _anchored(branch: str, path: str) -> str:
    before, after = _ANY, _ANY
    while branch.startswith("^"):
        before, branch = "", branch[1:]
    while branch.endswith("$") and not _is_escaped(branch, len(branch) - 1):
        branch, after = branch[:-1], ""
    inner = _group(branch)
    if inner is not None and _has_anchors(inner):
        if before and after:
            return to_fullmatch_pattern(inner, path)
        raise _anchor_error(path)
    if _has_anchors(branch):
        raise _anchor_error(path)
    return f"{before}(?:{branch}){after}"


def _anchor_error(path: str) -> Exception:
    return unenforceable_error("pattern", path, "it has '^' or '$' inside, and the text is written without quotes")


def _is_escaped(pattern: str, index: int) -> bool:
    backslashes = re.search(r"\\*$", pattern[:index])
    return backslashes is not None and len(backslashes.group()) % 2 == 1


def _find_operators(pattern: str) -> list[tuple[int, str, int]]:
    """Return (index, character, depth of groups) for all characters that are neither escaped nor in a class."""
    operators, depth, index, in_class = [], 0, 0, False
    while index < len(pattern):
        char = pattern[index]
        if char == "\\":
            index += 2
            continue
        if in_class:
            in_class = char != "]"
        elif char == "[":
            in_class = True
        else:
            depth -= char == ")"
            operators.append((index, char, depth))
            depth += char == "("
        index += 1
    return operators


def _branches(pattern: str) -> list[str]:
    """Split a pattern at each `|` that is in no group."""
    bars = [index for index, char, depth in _find_operators(pattern) if char == "|" and not depth]
    starts, ends = [0, *(bar + 1 for bar in bars)], [*bars, len(pattern)]
    return [pattern[start:end] for start, end in zip(starts, ends, strict=True)]


def _group(branch: str) -> str | None:
    """Return what is inside the parentheses if the branch is one group without flags; else None."""
    head = re.match(r"\((?:\?:|\?P?<\w+>)?(?!\?)", branch)
    closing = [index for index, char, depth in _find_operators(branch) if char == ")" and not depth]
    return branch[head.end() : -1] if head and closing == [len(branch) - 1] else None


def _has_anchors(pattern: str) -> bool:
    return any(char in "^$" for _, char, _ in _find_operators(pattern))
