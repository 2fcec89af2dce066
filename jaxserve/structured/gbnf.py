"""Grammars in GBNF, llama.cpp's notation, which xgrammar's EBNF resembles → productions.

A rule ends where the next one begins (`name ::=`), so line breaks may stand anywhere, as in xgrammar's notation.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from jaxserve.errors import InvalidParameter
from jaxserve.structured.productions import (
    Alternation,
    CharClass,
    Concatenation,
    Production,
    Repetition,
    RuleRef,
    remove_useless_rules,
    walk,
)

ROOT = "root"
MAX_DEPTH = 100
MAX_REPETITIONS = 10_000
MAX_CODE_POINT = 0x10FFFF
_TOKEN = re.compile(
    r"""(?P<blank>(?:\s|\#[^\n]*)+)
      | (?P<definition>[\w-]+)\s*::=
      | (?P<name>[\w-]+)
      | (?P<string>"(?:\\.|[^"\\])*")
      | (?P<set>\[(?:\\.|[^\]\\])*\])
      | (?P<times>\{\s*\d+\s*(?:,\s*\d*\s*)?\})
      | (?P<mark>[()|*+?.])""",
    re.S | re.X,
)
_CHAR = re.compile(
    r"\\(?:x([0-9a-fA-F]{2})|u\{([0-9a-fA-F]{1,6})\}|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(?P<short>.))|(?P<plain>.)",
    re.S,
)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "v": "\v", "a": "\a", "b": "\b", "e": "\x1b", "0": "\0"}
_ESCAPES |= {char: char for char in "\"'\\[]/-^?"}
_QUANTIFIERS = {"*": (0, None), "+": (1, None), "?": (0, 1)}


def is_gbnf(text: str) -> bool:
    """Whether a grammar has a rule in the form of GBNF, `name ::=`."""
    return re.search(r"(?m)^\s*[\w-]+\s*::=", text) is not None


def parse_gbnf(text: str) -> dict[str, Production]:
    """Parse a grammar into its rules by name, without useless ones.

    Useless are rules that `root` does not reach, and rules and options that derive no finite text.

    Raises InvalidParameter, without the name of a field, if the grammar is not GBNF or derives no finite text.
    """
    rules = _GbnfParser(text).parse()
    if ROOT not in rules:
        raise InvalidParameter("the grammar is not GBNF: No 'root' rule found.")
    for node in (node for production in rules.values() for node in walk(production)):
        if isinstance(node, RuleRef) and node.name not in rules:
            raise InvalidParameter(f"the grammar is not GBNF: Rule {node.name[:100]!r} not found.")
    useful = remove_useless_rules(rules, ROOT)
    if not useful:
        raise InvalidParameter("the grammar derives no finite text: its 'root' never comes to an end.")
    return useful


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    start: int


class _GbnfParser:
    """A recursive-descent parser of one grammar."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = self._tokenize()
        self._next = next(self._tokens)

    def parse(self) -> dict[str, Production]:
        """Return all rules by name."""
        rules: dict[str, Production] = {}
        while self._next.kind != "end":
            token = self._take()
            if token.kind != "definition":
                raise self._error(token, "Expected a rule, name ::= …")
            if token.text in rules:
                raise self._error(token, f"Rule {token.text[:100]!r} is defined twice")
            rules[token.text] = self._alternation(0)
            if self._next.text == ")":
                raise self._error(self._next, "')' without '('")
        return rules

    def _alternation(self, depth: int) -> Production:
        options = [self._concatenation(depth)]
        while self._next.text == "|":
            self._take()
            options.append(self._concatenation(depth))
        return options[0] if len(options) == 1 else Alternation(tuple(options))

    def _concatenation(self, depth: int) -> Production:
        items: list[Production] = []
        while self._next.kind not in ("definition", "end") and self._next.text not in ("|", ")"):
            item = self._item(depth)
            while (counts := self._counts()) is not None:
                item = Repetition(item, *counts)
            items += item.items if isinstance(item, Concatenation) else (item,)
        return items[0] if len(items) == 1 else Concatenation(tuple(items))

    def _item(self, depth: int) -> Production:
        token = self._take()
        match token.kind, token.text:
            case "name", name:
                return RuleRef(name)
            case "string", _:
                chars = self._chars(token)
                return Concatenation(tuple(CharClass(((code, code),)) for code, _ in chars))
            case "set", _:
                return self._set(token)
            case "mark", ".":
                return CharClass(((0, MAX_CODE_POINT),))
            case "mark", "(":
                if depth == MAX_DEPTH:
                    raise self._error(token, f"nested too deeply, in more than {MAX_DEPTH} parentheses")
                inner = self._alternation(depth + 1)
                if self._next.text != ")":
                    raise self._error(self._next, "Expected ')'")
                self._take()
                return inner
        raise self._error(token, f"{token.text!r} has nothing before it that it could repeat")

    def _counts(self) -> tuple[int, int | None] | None:
        """Parse the (least, most) of a repetition behind an item, if there is one."""
        token = self._next
        if token.kind == "mark" and token.text in _QUANTIFIERS:
            return _QUANTIFIERS[self._take().text]
        if token.kind != "times":
            return None
        digits, comma, more_digits = (part.strip() for part in self._take().text.strip("{}").partition(","))
        # Nine digits suffice, and Python does not parse numbers of more than 4300.
        least, most = (int(part.lstrip("0")[:9] or 0) for part in (digits, more_digits))
        if max(least, most) > MAX_REPETITIONS:
            raise self._error(token, f"more than {MAX_REPETITIONS} repetitions")
        counts = least, most if more_digits else None if comma else least
        if counts[1] is not None and counts[0] > counts[1]:
            raise self._error(token, "the least number of repetitions is larger than the largest")
        return counts

    def _set(self, token: _Token) -> CharClass:
        inner = self._chars(token)
        is_negated = inner[:1] == [(ord("^"), False)]
        ranges, index = [], int(is_negated)
        while index < len(inner):
            low = high = inner[index][0]
            if inner[index + 1 : index + 2] == [(ord("-"), False)] and index + 2 < len(inner):
                high, index = inner[index + 2][0], index + 2
            if low > high:
                raise self._error(token, f"the range from {chr(low)!r} to {chr(high)!r} is empty")
            ranges.append((low, high))
            index += 1
        if not ranges and not is_negated:
            raise self._error(token, "a set must not be empty")
        return CharClass(_complement(_merge(ranges)) if is_negated else _merge(ranges))

    def _chars(self, token: _Token) -> list[tuple[int, bool]]:
        """(code point, whether it was escaped) of each character between the token's delimiters."""
        chars = []
        for match in _CHAR.finditer(token.text, 1, len(token.text) - 1):
            plain, short = match["plain"], match["short"]
            if plain is not None:
                code = ord(plain)
            elif short is not None:
                if short not in _ESCAPES:
                    raise self._error(token, f"unknown escape \\{short}")
                code = ord(_ESCAPES[short])
            else:
                code = int(next(filter(None, match.groups())), 16)
            if code > MAX_CODE_POINT or 0xD800 <= code < 0xE000:
                raise self._error(token, f"{match.group()} is no character")
            chars.append((code, plain is None))
        return chars

    def _tokenize(self) -> Iterator[_Token]:
        start = 0
        while start < len(self._text):
            match = _TOKEN.match(self._text, start)
            if match is None:
                raise self._unreadable(start)
            kind = str(match.lastgroup)
            if kind != "blank":
                yield _Token(kind, match[kind], start)
            start = match.end()
        while True:
            yield _Token("end", "", start)

    def _take(self) -> _Token:
        token, self._next = self._next, next(self._tokens)
        return token

    def _unreadable(self, start: int) -> InvalidParameter:
        char = self._text[start]
        token = _Token("unreadable", char, start)
        if char in '"[':
            return self._error(token, f"unexpected end of input behind {char}")
        if char in "<!":
            return self._error(token, "tokens (<…>) cannot be named in GBNF here, but in a Lark grammar")
        return self._error(token, f"unexpected {char!r}")

    def _error(self, token: _Token, reason: str) -> InvalidParameter:
        line = self._text.count("\n", 0, token.start) + 1
        return InvalidParameter(f"the grammar is not GBNF: line {line}: {reason}.")


def _merge(ranges: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Sort ranges, and join those that overlap or touch."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(merged[-1][1], high)
        else:
            merged.append((low, high))
    return tuple(merged)


def _complement(ranges: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    """Return the ranges of all characters that are in none of the sorted ranges."""
    gaps, start = [], 0
    for low, high in ranges:
        if low > start:
            gaps.append((start, low - 1))
        start = high + 1
    return (*gaps, (start, MAX_CODE_POINT)) if start <= MAX_CODE_POINT else tuple(gaps)
