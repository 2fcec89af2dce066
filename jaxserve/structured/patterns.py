"""Regular expressions as clients write them, ECMA-262's way or Python's, → the dialect of Rust's regex crate.

Where the three differ, the result matches what all of them match, except that \\w, \\d, \\W and \\D are
ASCII's, as in ECMA-262. Lookaround, backreferences and word boundaries are in no regular language and are refused.
"""

import json
import re
from collections.abc import Iterator
from functools import cache, lru_cache
from typing import Any

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, regex_to_lark

from jaxserve.errors import InvalidParameter

MAX_BYTES = 16 << 10
MAX_REPETITIONS = 100_000
_JSON_BLANKS = r"\t\n\r "
_LIMITS = LLParserLimits(verbose_errors=False)
_BLANKS = r"\t-\r \x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}"
_CLASSES = {
    "d": "[0-9]",
    "D": "[^0-9]",
    "w": "[0-9A-Za-z_]",
    "W": "[^0-9A-Za-z_]",
    "S": rf"[^{_BLANKS}\x{{1c}}-\x{{1f}}\x{{85}}\x{{feff}}]",
}
_CONTROLS = {"n": r"\n", "r": r"\r", "t": r"\t", "f": r"\f", "v": r"\v", "0": r"\x{0}"}
_ANCHORS = {"A": "^", "Z": "$", "z": "$"}
_QUANTIFIER = re.compile(r"\{[0-9]+(?:,[0-9]*)?\}")
_CODE = re.compile(
    r"x([0-9a-fA-F]{2})|u\{([0-9a-fA-F]{1,6})\}|u(d[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2})|u([0-9a-fA-F]{4})", re.I
)
_IN_CLASS = re.compile(r"\[\^?\]?(?:\\.|[^\]\\])*\]", re.S)
_PROPERTY = re.compile(r"[pP](?:\{[^}]*\}|[A-Z])")


@lru_cache(4096)
def translate_pattern(pattern: str, blanks: str = _BLANKS) -> str:
    """The pattern for llguidance. Raises InvalidParameter, which says what is wrong and names no field.

    blanks: what \\s means, as members of a class.
    """
    if len(pattern.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise InvalidParameter(f"the regular expression is longer than {MAX_BYTES} bytes.")
    if "\0" in pattern:
        raise InvalidParameter("the regular expression holds a NUL byte.")
    translated = _Translation(pattern, blanks).pattern()
    grammar = LLMatcher.grammar_from_regex(regex_to_lark(translated)) if translated else ""
    complaint = LLMatcher.validate_grammar(grammar, None, limits=_LIMITS) if grammar else ""
    if complaint:
        reason = re.search(r"^error: (.*)|(lookarounds not supported)", complaint, re.M)
        said = next(filter(None, reason.groups())) if reason else complaint.strip().splitlines()[0]
        raise InvalidParameter(f"the regular expression {pattern[:200]!r} is refused: {said[:200]}.")
    return translated


@lru_cache(4096)
def is_found(pattern: str, text: str) -> bool:
    """Whether the pattern, as `translate_pattern` gave it, is found in a text."""
    grammar = LLMatcher.grammar_from_json_schema({"type": "string", "pattern": pattern})
    matcher = LLMatcher(byte_tokenizer(), grammar, log_level=0, limits=_LIMITS)
    quoted = json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")  # which llguidance counts as a control
    ids = list(quoted.encode())
    return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()


@cache
def byte_tokenizer() -> LLTokenizer:
    """Where every byte is a token, and nothing else is."""
    return LLTokenizer("byte")


def is_valid_json(schema: dict[str, Any], value: Any) -> bool:
    """Whether llguidance takes a value for valid under a merged schema."""
    grammar = LLMatcher.grammar_from_json_schema(schema | {"x-guidance": {"whitespace_flexible": False}})
    matcher = LLMatcher(byte_tokenizer(), grammar, log_level=0, limits=_LIMITS)
    ids = list(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())
    return not matcher.is_error() and matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()


@lru_cache(4096)
def can_match(terminal: str) -> bool:
    """Whether a terminal, an expression in Lark, matches any text; False also where that is too hard to find out."""
    matcher = LLMatcher(byte_tokenizer(), f"start: T\nT: {terminal}", log_level=0, limits=_LIMITS)
    return not matcher.is_error() and not matches_nothing(matcher) and not matcher.is_error()


def is_within(pattern: str, other: str) -> bool:
    """Whether all that the pattern matches from end to end is matched by the other, both from `translate_pattern`."""
    grammar = f"start: T\nT: /{regex_to_lark(pattern)}/ & ~/{regex_to_lark(other)}/"
    matcher = LLMatcher(byte_tokenizer(), grammar, log_level=0, limits=_LIMITS)
    return matches_nothing(matcher)


@lru_cache(4096)
def is_satisfiable(patterns: tuple[str, ...]) -> bool:
    """Whether some text holds all of the patterns, as `translate_pattern` gave them."""
    schema = {"type": "string", "allOf": [{"pattern": pattern} for pattern in patterns]}
    matcher = LLMatcher(byte_tokenizer(), LLMatcher.grammar_from_json_schema(schema), log_level=0, limits=_LIMITS)
    return "Unsatisfiable" not in matcher.get_error()


def implies(pattern: str, other: str) -> bool:
    """Whether each text that holds the pattern holds the other; False if that cannot be told of such patterns."""
    bodies = [_body(each) for each in (pattern, other)]
    return pattern == other or (None not in bodies and is_within(*filter(None, bodies)))


def _body(pattern: str) -> str | None:
    """What the whole text matches, for a pattern that says so at both its ends."""
    inner = pattern[1:-1]
    if not pattern.startswith("^") or not pattern.endswith("$") or has_alternatives(pattern):
        return None
    return None if any(char in "^$" for _, char in iter_operators(inner)) or inner.endswith("\\") else inner


def iter_operators(pattern: str) -> Iterator[tuple[int, str]]:
    """(index, character) of all in a pattern that is neither escaped nor in a class."""
    index = 0
    while index < len(pattern):
        in_class = _IN_CLASS.match(pattern, index)
        if in_class is not None:
            index = in_class.end()
        elif pattern[index] == "\\":
            index += 2
        else:
            yield index, pattern[index]
            index += 1


def has_alternatives(pattern: str) -> bool:
    """Whether the pattern is several, parted by `|` outside of all parentheses."""
    depth = 0
    for _, char in iter_operators(pattern):
        depth += (char == "(") - (char == ")")
        if char == "|" and depth == 0:
            return True
    return False


@lru_cache(4096)
def can_continue_with(pattern: str, char: str) -> bool:
    """Whether a text that the whole regular expression matches is the beginning of another with this character next.

    Raises InvalidParameter for what is no regular expression.
    """
    translated = translate_pattern(pattern)
    if not translated:
        return False
    body = f"/{regex_to_lark(translated)}/"
    grammar = f"start: T\nT: ({body} /{regex_to_lark(_literal(char))}(?s:.*)/) & {body}"
    return not matches_nothing(LLMatcher(byte_tokenizer(), grammar, log_level=0, limits=_LIMITS))


def translate_whitespace_pattern(pattern: str) -> str:
    """A pattern for what may stand between the tokens of JSON text. Raises InvalidParameter for one of more."""
    translated = translate_pattern(pattern, _JSON_BLANKS)
    if not is_within(translated, f"[{_JSON_BLANKS}]*"):
        raise InvalidParameter(f"whitespace_pattern {pattern[:200]!r} matches what is no whitespace in JSON.")
    return translated


def matches_nothing(matcher: LLMatcher) -> bool:
    """Whether not even the empty text is an answer from here on. Computes a mask."""
    matcher.compute_bitmask()
    return matcher.get_error().startswith("NoExtension")


def escape_pattern(text: str) -> str:
    """A pattern for this text."""
    return "".join(map(_literal, text))


class _Translation:
    """One reading of a pattern, from left to right."""

    def __init__(self, pattern: str, blanks: str) -> None:
        self._text = pattern
        self._classes = _CLASSES | {"s": f"[{blanks}]"}
        self._at = 0

    def pattern(self) -> str:
        written = []
        while self._at < len(self._text):
            written.append(self._next())
        return "".join(written)

    def _next(self) -> str:
        char = self._take()
        if char == "\\":
            return self._escape(in_class=False)
        if char == "[":
            return self._class()
        if char == "{":
            quantifier = _QUANTIFIER.match(self._text, self._at - 1)
            if quantifier is None:
                return r"\{"
            for count in re.findall("[0-9]+", quantifier.group()):
                if int(count.lstrip("0")[:9] or 0) > MAX_REPETITIONS:
                    why = f"repeats {count[:20]} times, which is more than {MAX_REPETITIONS}"
                    raise InvalidParameter(f"the regular expression {self._text[:200]!r} {why}.")
            self._at = quantifier.end()
            return quantifier.group()
        return "\\" + char if char in "]}" else char

    def _take(self) -> str:
        if self._at >= len(self._text):
            raise InvalidParameter(f"the regular expression {self._text[:200]!r} ends too early.")
        self._at += 1
        return self._text[self._at - 1]

    def _escape(self, in_class: bool) -> str:
        """What stands behind a backslash."""
        for kind in (_CODE, _PROPERTY):
            found = kind.match(self._text, self._at)
            if found:
                self._at = found.end()
                return rf"\x{{{_code(found.groups()):x}}}" if kind is _CODE else "\\" + found.group()
        char = self._take()
        if char in self._classes:
            return self._classes[char]
        if char in _CONTROLS:
            return _CONTROLS[char]
        if char == "b" and in_class:
            return r"\x{8}"
        if char in _ANCHORS and not in_class:
            return _ANCHORS[char]
        return "\\" + char if char.isalnum() and char.isascii() else _literal(char)

    def _class(self) -> str:
        """A character class; Rust's has operators inside that the others do not know."""
        for everything in (r"\s\S]", r"\S\s]", r"\d\D]", r"\D\d]", r"\w\W]", r"\W\w]"):
            if self._text.startswith(everything, self._at):
                self._at += len(everything)
                return "(?s:.)"
        written = ["[^" if self._text[self._at : self._at + 1] == "^" else "["]
        self._at += len(written[0]) - 1
        if self._text[self._at : self._at + 1] == "]":
            raise InvalidParameter(f"the regular expression {self._text[:200]!r} has an empty class, or one with ']'.")
        while (char := self._take()) != "]":
            low = self._member(char)
            follows = self._text[self._at : self._at + 2]
            if follows[:1] == "-" and follows[1:] not in ("]", "") and not low.startswith("["):
                self._at += 1
                high = self._member(self._take())
                low += rf"\-{high}" if high.startswith("[") else f"-{high}"
            written.append(low)
        # In JSON, llguidance 1.9 lets a set that holds all control characters hold the quote and the backslash, too.
        nul = r"\x{0}" if written[0] == "[^" else ""
        return "".join([*written, nul, "]"])

    def _member(self, char: str) -> str:
        return self._escape(in_class=True) if char == "\\" else _literal(char)


def _literal(char: str) -> str:
    return "\\" + char if char in r"\.+*?()|[]{}^$#&-~" else char


def _code(groups: tuple[str | None, ...]) -> int:
    found = next(filter(None, groups))
    if "\\" in found:
        high, low = (int(half, 16) for half in found.lower().split("\\u"))
        return 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00)
    return int(found, 16)
