"""Regular expressions of clients, in the syntax of ECMA-262 or Python, → the dialect of Rust's regex crate.

Where the three differ, the result matches what all of them match, except that \\w, \\d, \\W and \\D are ASCII,
as in ECMA-262. Lookaround, backreferences and word boundaries are refused, because llguidance has none of them.
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
CACHED = 512  # results of each kind, the newest; patterns of clients may be as long as MAX_BYTES
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
_CODE = re.compile(  # of a character, behind the backslash
    r"x([0-9a-fA-F]{2})|u\{([0-9a-fA-F]{1,6})\}|u(d[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2})|u([0-9a-fA-F]{4})", re.I
)
_IN_CLASS = re.compile(r"\[\^?\]?(?:\\.|[^\]\\])*\]", re.S)
_PROPERTY = re.compile(r"[pP](?:\{[^}]*\}|[A-Z])")


@lru_cache(CACHED)
def translate_pattern(pattern: str, blanks: str = _BLANKS) -> str:
    """Translate a regular expression for llguidance.

    blanks   the characters that \\s matches, as members of a class

    Raises InvalidParameter, without the name of a field, if it is invalid, too long, or cannot be enforced.
    """
    if len(pattern.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise InvalidParameter(f"the regular expression is longer than {MAX_BYTES} bytes.")
    if "\0" in pattern:
        raise InvalidParameter("the regular expression holds a NUL byte.")
    translated = _Translation(pattern, blanks).translate()
    grammar = LLMatcher.grammar_from_regex(regex_to_lark(translated)) if translated else ""
    message = LLMatcher.validate_grammar(grammar, None, limits=_LIMITS) if grammar else ""
    if message:
        match = re.search(r"^error: (.*)|(lookarounds not supported)", message, re.M)
        reason = next(filter(None, match.groups())) if match else message.strip().splitlines()[0]
        raise InvalidParameter(f"the regular expression {pattern[:200]!r} is refused: {reason[:200]}.")
    return translated


@lru_cache(CACHED)
def is_found(pattern: str, text: str) -> bool:
    """Whether a translated pattern is found in a text."""
    grammar = LLMatcher.grammar_from_json_schema({"type": "string", "pattern": pattern})
    matcher = LLMatcher(byte_tokenizer(), grammar, log_level=0, limits=_LIMITS)
    # To llguidance DEL is a control character too, which JSON strings must escape.
    quoted = json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
    ids = list(quoted.encode())
    return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()


@cache
def byte_tokenizer() -> LLTokenizer:
    """Return a tokenizer whose tokens are the 256 bytes."""
    return LLTokenizer("byte")


def is_valid_json(schema: dict[str, Any], value: Any) -> bool:
    """Whether llguidance accepts a value under a merged schema."""
    grammar = LLMatcher.grammar_from_json_schema(schema | {"x-guidance": {"whitespace_flexible": False}})
    matcher = LLMatcher(byte_tokenizer(), grammar, log_level=0, limits=_LIMITS)
    ids = list(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())
    return not matcher.is_error() and matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()


@lru_cache(CACHED)
def can_match(terminal: str) -> bool:
    """Whether a terminal, an expression in Lark, matches any text; False also if that takes too long to find out."""
    matcher = LLMatcher(byte_tokenizer(), f"start: T\nT: {terminal}", log_level=0, limits=_LIMITS)
    return not matcher.is_error() and not matches_nothing(matcher) and not matcher.is_error()


def is_within(pattern: str, other: str) -> bool:
    """Whether the other pattern fully matches every text that the pattern fully matches. Both are translated."""
    grammar = f"start: T\nT: /{regex_to_lark(pattern)}/ & ~/{regex_to_lark(other)}/"
    matcher = LLMatcher(byte_tokenizer(), grammar, log_level=0, limits=_LIMITS)
    return matches_nothing(matcher)


@lru_cache(CACHED)
def is_satisfiable(patterns: tuple[str, ...]) -> bool:
    """Whether all of some translated patterns are found in some text."""
    schema = {"type": "string", "allOf": [{"pattern": pattern} for pattern in patterns]}
    matcher = LLMatcher(byte_tokenizer(), LLMatcher.grammar_from_json_schema(schema), log_level=0, limits=_LIMITS)
    return "Unsatisfiable" not in matcher.get_error()


def implies(pattern: str, other: str) -> bool:
    """Whether the other pattern is found in every text in which the pattern is found.

    Both are translated. Only patterns with `^` and `$` around them are compared; for others the result is False.
    """
    bodies = [_strip_anchors(pattern), _strip_anchors(other)]
    return pattern == other or (None not in bodies and is_within(*filter(None, bodies)))


def _strip_anchors(pattern: str) -> str | None:
    """Return a pattern of the form ^…$ without the anchors, as one that the whole text matches; else None."""
    inner = pattern[1:-1]
    if not pattern.startswith("^") or not pattern.endswith("$") or has_alternatives(pattern):
        return None
    return None if any(char in "^$" for _, char in iter_operators(inner)) or inner.endswith("\\") else inner


def iter_operators(pattern: str) -> Iterator[tuple[int, str]]:
    """Yield (index, character) for all characters of a pattern that are neither escaped nor in a class."""
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
    """Whether a pattern has a `|` outside of all parentheses."""
    depth = 0
    for _, char in iter_operators(pattern):
        depth += (char == "(") - (char == ")")
        if char == "|" and depth == 0:
            return True
    return False


@lru_cache(CACHED)
def can_continue_with(pattern: str, char: str) -> bool:
    """Whether some text that a regular expression fully matches is a prefix of another, with this character next.

    Raises InvalidParameter if the regular expression is invalid.
    """
    translated = translate_pattern(pattern)
    if not translated:
        return False
    body = f"/{regex_to_lark(translated)}/"
    grammar = f"start: T\nT: ({body} /{regex_to_lark(_escape_char(char))}(?s:.*)/) & {body}"
    return not matches_nothing(LLMatcher(byte_tokenizer(), grammar, log_level=0, limits=_LIMITS))


def translate_whitespace_pattern(pattern: str) -> str:
    """Translate a regular expression for what may stand between the tokens of JSON text.

    Raises InvalidParameter if it is invalid, or matches other characters than JSON's whitespace.
    """
    translated = translate_pattern(pattern, _JSON_BLANKS)
    if not is_within(translated, f"[{_JSON_BLANKS}]*"):
        raise InvalidParameter(f"whitespace_pattern {pattern[:200]!r} matches what is no whitespace in JSON.")
    return translated


def matches_nothing(matcher: LLMatcher) -> bool:
    """Whether no text, not even the empty one, is valid from the matcher's state on. Computes a mask."""
    matcher.compute_bitmask()
    return matcher.get_error().startswith("NoExtension")


def escape_pattern(text: str) -> str:
    """Return a pattern that matches this text."""
    return "".join(map(_escape_char, text))


class _Translation:
    """Translates one pattern, from left to right."""

    def __init__(self, pattern: str, blanks: str) -> None:
        self._text = pattern
        self._classes = _CLASSES | {"s": f"[{blanks}]"}
        self._index = 0

    def translate(self) -> str:
        """Return the translated pattern."""
        written = []
        while self._index < len(self._text):
            written.append(self._next())
        return "".join(written)

    def _next(self) -> str:
        char = self._take()
        if char == "\\":
            return self._escape(in_class=False)
        if char == "[":
            return self._class()
        if char == "{":
            quantifier = _QUANTIFIER.match(self._text, self._index - 1)
            if quantifier is None:
                return r"\{"
            for count in re.findall("[0-9]+", quantifier.group()):
                if int(count.lstrip("0")[:9] or 0) > MAX_REPETITIONS:
                    why = f"repeats {count[:20]} times, which is more than {MAX_REPETITIONS}"
                    raise InvalidParameter(f"the regular expression {self._text[:200]!r} {why}.")
            self._index = quantifier.end()
            return quantifier.group()
        return "\\" + char if char in "]}" else char

    def _take(self) -> str:
        if self._index >= len(self._text):
            raise InvalidParameter(f"the regular expression {self._text[:200]!r} ends too early.")
        self._index += 1
        return self._text[self._index - 1]

    def _escape(self, in_class: bool) -> str:
        """Translate what follows a backslash."""
        for kind in (_CODE, _PROPERTY):
            match = kind.match(self._text, self._index)
            if match:
                self._index = match.end()
                return rf"\x{{{_to_code_point(match.groups()):x}}}" if kind is _CODE else "\\" + match.group()
        char = self._take()
        if char in self._classes:
            return self._classes[char]
        if char in _CONTROLS:
            return _CONTROLS[char]
        if char == "b" and in_class:
            return r"\x{8}"
        if char in _ANCHORS and not in_class:
            return _ANCHORS[char]
        return "\\" + char if char.isalnum() and char.isascii() else _escape_char(char)

    def _class(self) -> str:
        """Translate a character class. In Rust's dialect it has operators (&&, --, ~~) that the others do not have."""
        for any_char in (r"\s\S]", r"\S\s]", r"\d\D]", r"\D\d]", r"\w\W]", r"\W\w]"):
            if self._text.startswith(any_char, self._index):
                self._index += len(any_char)
                return "(?s:.)"
        written = ["[^" if self._text[self._index : self._index + 1] == "^" else "["]
        self._index += len(written[0]) - 1
        if self._text[self._index : self._index + 1] == "]":
            raise InvalidParameter(f"the regular expression {self._text[:200]!r} has an empty class, or one with ']'.")
        while (char := self._take()) != "]":
            low = self._member(char)
            follows = self._text[self._index : self._index + 2]
            if follows[:1] == "-" and follows[1:] not in ("]", "") and not low.startswith("["):
                self._index += 1
                high = self._member(self._take())
                low += rf"\-{high}" if high.startswith("[") else f"-{high}"
            written.append(low)
        # In JSON, llguidance 1.9 adds the quote and the backslash to a class with all control characters: exclude NUL.
        nul = r"\x{0}" if written[0] == "[^" else ""
        return "".join([*written, nul, "]"])

    def _member(self, char: str) -> str:
        return self._escape(in_class=True) if char == "\\" else _escape_char(char)


def _escape_char(char: str) -> str:
    return "\\" + char if char in r"\.+*?()|[]{}^$#&-~" else char


def _to_code_point(groups: tuple[str | None, ...]) -> int:
    digits = next(filter(None, groups))
    if "\\" in digits:  # a surrogate pair
        high, low = (int(half, 16) for half in digits.lower().split("\\u"))
        return 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00)
    return int(digits, 16)
