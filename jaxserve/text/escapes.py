"""Special tokens that are markers, as single characters: no text that a model writes in other tokens can be one."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

_FIRST = 0xF0000  # of a private-use plane


@dataclass(frozen=True, slots=True)
class Escapes:
    """chars: special token → the character that stands for it; control_tokens: the same by the token's id."""

    chars: Mapping[str, str]
    control_tokens: Mapping[int, str]

    @classmethod
    def from_dialects(cls, special_tokens: Mapping[str, int], *dialects: Any) -> "Escapes":
        """For those special tokens (text → id) that stand in the dialects' literals or, escaped, in their regexes."""
        literals = "\n".join(_strings(dialects)).replace("\\", "")
        used = sorted((text for text in special_tokens if text and text in literals), key=len, reverse=True)
        chars = {text: chr(_FIRST + index) for index, text in enumerate(used)}
        return cls(chars, {special_tokens[text]: char for text, char in chars.items()})

    def escape(self, value: Any) -> Any:
        """The same dialect with other texts in it. Dataclasses, tuples, lists and mappings are gone through."""
        if not self.chars:
            return value
        if isinstance(value, str):
            for text, char in self.chars.items():
                for form in (text, text.replace("|", r"\|"), re.escape(text)):
                    value = value.replace(form, char)
            return value
        if isinstance(value, tuple | list):
            return type(value)(map(self.escape, value))
        if isinstance(value, Mapping):
            return {key: self.escape(item) for key, item in value.items()}
        if is_dataclass(value) and not isinstance(value, type):
            return replace(value, **{each.name: self.escape(getattr(value, each.name)) for each in fields(value)})
        return value


def _strings(value: Any) -> Iterator[str]:
    """All texts in a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _strings(tuple(value.values()))
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _strings(item)
    elif is_dataclass(value):
        yield from _strings(tuple(getattr(value, each.name) for each in fields(value)))
