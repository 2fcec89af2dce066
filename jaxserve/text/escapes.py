"""Escapes: special tokens that are markers become private-use characters, which no other token's text can hold."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

_FIRST_CODE = 0xF0000  # of a private-use plane


@dataclass(frozen=True, slots=True)
class Escapes:
    """The private-use characters that stand for special tokens in texts that are parsed.

    chars            The characters by the text of the special token.
    control_tokens   The same characters by the id of the token.
    """

    chars: Mapping[str, str]
    control_tokens: Mapping[int, str]

    @classmethod
    def from_dialects(cls, special_tokens: Mapping[str, int], *dialects: Any) -> "Escapes":
        """Choose characters for the special tokens (text → id) that occur in the literals or regexes of dialects."""
        literals = "\n".join(_strings(dialects)).replace("\\", "")
        used = sorted((text for text in special_tokens if text and text in literals), key=len, reverse=True)
        chars = {text: chr(_FIRST_CODE + index) for index, text in enumerate(used)}
        return cls(chars, {special_tokens[text]: char for text, char in chars.items()})

    def escape(self, value: Any) -> Any:
        """Return a dialect with its special tokens replaced, in dataclasses, tuples, lists and mappings."""
        if not self.chars:
            return value
        if isinstance(value, str):
            for text, char in self.chars.items():
                for spelling in (text, text.replace("|", r"\|"), re.escape(text)):
                    value = value.replace(spelling, char)
            return value
        if isinstance(value, tuple | list):
            return type(value)(map(self.escape, value))
        if isinstance(value, Mapping):
            return {key: self.escape(item) for key, item in value.items()}
        if is_dataclass(value) and not isinstance(value, type):
            return replace(value, **{field.name: self.escape(getattr(value, field.name)) for field in fields(value)})
        return value


def _strings(value: Any) -> Iterator[str]:
    """Yield all strings in a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _strings(tuple(value.values()))
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _strings(item)
    elif is_dataclass(value):
        yield from _strings(tuple(getattr(value, field.name) for field in fields(value)))
