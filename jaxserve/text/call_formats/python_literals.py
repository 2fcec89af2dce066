"""Python's literals, as models write them: strings, numbers, lists, tuples, dicts and constants, JSON's included."""

import re
from dataclasses import dataclass
from typing import Any

from jaxserve.text.incremental_json import dump_json, parse_json
from jaxserve.text.text_buffer import Malformed

_TOKEN = re.compile(
    r"""\s*(?:(?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(?P<number>-?\d[\w.]*(?:(?<=[eE])[+-]\d+)?)"""
    r"""|(?P<word>[A-Za-z_]\w*)|(?P<mark>[\[\](){},:]))\s*""",
    re.DOTALL,
)
_CONSTANTS = {"True": "true", "False": "false", "None": "null", "true": "true", "false": "false", "null": "null"}
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|U(00(?:0[0-9a-fA-F]|10)[0-9a-fA-F]{4})|(.))", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "\n": ""}


@dataclass(frozen=True, slots=True)
class PythonLiterals:
    """The literals of Python, and JSON's constants.

    quotes         The markers before and after a string.
    has_escapes    A backslash escapes the next character.
    accepts_json   JSON is such a literal, too.
    """

    quotes: tuple[str, ...] = ('"', "'")
    has_escapes: bool = True
    accepts_json: bool = True

    def parse(self, text: str) -> Any:
        """Return the value of a literal. Raises Malformed if it is none."""
        tokens: list[str] = []
        pos = 0
        while pos < len(text):
            match = _TOKEN.match(text, pos)
            if match is None:
                raise Malformed
            pos = match.end()
            _append_json_token(match, tokens)
        return parse_json(" ".join(tokens))


def _append_json_token(match: re.Match[str], tokens: list[str]) -> None:
    """Append one token of the literal, as JSON has it. Raises Malformed for an unknown word."""
    kind, token = match.lastgroup, match.group().strip()
    if kind == "string":
        token = dump_json(_ESCAPE.sub(_unescape, match["string"][1:-1]))
    elif kind == "word":
        if token not in _CONSTANTS:
            raise Malformed
        token = _CONSTANTS[token]
    elif kind == "mark":
        token = {"(": "[", ")": "]"}.get(token, token)
        if token in "]}" and tokens and tokens[-1] == ",":
            tokens.pop()
    tokens.append(token)


def _unescape(match: re.Match[str]) -> str:
    code = match[1] or match[2] or match[3]
    if code:
        return chr(int(code, 16))
    return _ESCAPED.get(match[4], match[4] if match[4] in "\\'\"/" else match[0])
