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
    quotes: tuple[str, ...] = ('"', "'")
    has_escapes: bool = True
    accepts_json: bool = True

    def parse(self, text: str) -> Any:
        tokens: list[str] = []
        place = 0
        while place < len(text):
            found = _TOKEN.match(text, place)
            if found is None:
                raise Malformed
            place = found.end()
            _take(found, tokens)
        return parse_json(" ".join(tokens))


def _take(found: re.Match[str], tokens: list[str]) -> None:
    """Adds one token of the literal, as JSON has it."""
    kind, token = found.lastgroup, found.group().strip()
    if kind == "string":
        token = dump_json(_ESCAPE.sub(_unescaped, found["string"][1:-1]))
    elif kind == "word":
        if token not in _CONSTANTS:
            raise Malformed
        token = _CONSTANTS[token]
    elif kind == "mark":
        token = {"(": "[", ")": "]"}.get(token, token)
        if token in "]}" and tokens and tokens[-1] == ",":
            tokens.pop()
    tokens.append(token)


def _unescaped(found: re.Match[str]) -> str:
    code = found[1] or found[2] or found[3]
    if code:
        return chr(int(code, 16))
    return _ESCAPED.get(found[4], found[4] if found[4] in "\\'\"/" else found[0])
