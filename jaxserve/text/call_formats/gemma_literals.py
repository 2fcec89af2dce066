"""Gemma's literals: JSON without quotes around keys, and strings between markers of their own."""

import re
from dataclasses import dataclass
from typing import Any

from jaxserve.text.incremental_json import dump_json, parse_json

_MAX_DEPTH = 8
_BARE = re.compile(r"[^{}\[\],:]+")
_SCALAR = re.compile(r"true|false|null|-?\d+(\.\d+)?([eE][+-]?\d+)?")


@dataclass(frozen=True, slots=True)
class GemmaLiterals:
    """The literals of Gemma's calls.

    quotes         The one marker before and after a string; a JSON string is parsed as well.
    has_escapes    A backslash escapes the next character.
    accepts_json   JSON is such a literal, too.
    """

    quotes: tuple[str, ...]
    has_escapes: bool = False
    accepts_json: bool = False

    def parse(self, text: str) -> Any:
        """Return the value of a literal. Raises Malformed if it is none."""
        tokens: list[str] = []
        pieces = text.split(self.quotes[0])
        for index, piece in enumerate(pieces):
            if index % 2:
                tokens.append(dump_json(piece))
            else:
                tokens.append(_BARE.sub(_quote, piece))
        return parse_json("".join(tokens))


def _quote(match: re.Match[str]) -> str:
    text = match.group().strip()
    if not text or _SCALAR.fullmatch(text):
        return text
    if text.startswith('"') and text.endswith('"') and len(text) > 1:
        return text
    return dump_json(text)
