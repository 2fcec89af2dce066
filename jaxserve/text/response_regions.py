"""RegionParser: the regions of a response_template, opened and closed by literals and regexes, in a TextBuffer."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxserve.text.text_buffer import Emit, Parser, TextBuffer

if TYPE_CHECKING:
    from transformers.utils.chat_parsing.response_templates import ResponseTemplate, ResponseTemplateField


_MAX_HELD_CHARS = 4096  # that are held back for a regex match that may still change


@dataclass(frozen=True, slots=True)
class Region:
    """A region of an output, or the text around the regions.

    field      The field of the region; of the text around the regions its field, or None if that text is not used.
    opening    The text that has opened the region.
    captures   The named groups of the regex that has opened the region.
    is_outer   This is the text around the regions.
    """

    field: "ResponseTemplateField | None"
    opening: str
    captures: Mapping[str, str]
    is_outer: bool = False


@dataclass(frozen=True, slots=True)
class _Delimiter:
    """A pattern that opens the region of `field`, or with None closes one; the rest is as in transformers."""

    pattern: Any
    literals: list[str] | None
    can_extend: bool
    field: "ResponseTemplateField | None"


class RegionParser:
    """Parser of the regions of one output.

    outer   The text around the regions.
    """

    def __init__(self, template: "ResponseTemplate", buffer: TextBuffer, is_start: bool) -> None:
        """Start parsing; is_start: the buffer begins where the output does."""
        fields = template.fields.values()
        outer = template.fields[template.implicit] if template.implicit else None
        self.outer = Region(outer, "", {}, is_outer=True)
        self._buffer = buffer
        self._is_start = is_start
        self._openings = [
            _Delimiter(field.open_re, field.open_literals, field.open_literal_can_extend, field)
            for field in fields
            if field.open_re is not None
        ]
        self._last_empty = -1  # position of the last empty end

    def parse_region(self, region: Region, emit: Emit) -> Parser[Region | None]:
        """Emit the region's text and return the next region, or None at the end of the output."""
        current, buffer = region.field, self._buffer
        closing = [] if current is None or current.close_re is None else [_closing(current)]
        delimiters = [*self._openings, *closing] if region.is_outer else closing
        while True:
            delimiter_match, safe_end = self._search(delimiters)
            end = delimiter_match[1].start() - self._shift if delimiter_match else safe_end
            if end > buffer.pos:
                emit(buffer.text[buffer.pos : end])
            buffer.pos = end
            if delimiter_match is not None:
                return self._enter(*delimiter_match)
            if buffer.is_ended:
                return None
            yield

    def _enter(self, delimiter: _Delimiter, match: Any) -> Region | None:
        self._buffer.pos = match.end() - self._shift
        if match.start() == match.end() and delimiter.field is None:
            if self._last_empty == self._buffer.position:
                return None
            self._last_empty = self._buffer.position
        if delimiter.field is None:
            return self.outer
        captures = {name: text for name, text in match.groupdict().items() if text is not None}
        return Region(delimiter.field, match.group(), captures)

    @property
    def _shift(self) -> int:
        """1 where the text to search begins with a character that keeps it from matching as the start of the output."""
        return int(self._buffer.position > self._buffer.pos or not self._is_start)

    def _search(self, delimiters: list[_Delimiter]) -> tuple[tuple[_Delimiter, Any] | None, int]:
        """Return the first delimiter, the longest of several, and the end of the text that is certainly none."""
        buffer = self._buffer
        text = "\0" * self._shift + buffer.text
        start, safe_end = buffer.pos + self._shift, len(text)
        best: tuple[tuple[int, int, bool], _Delimiter, Any] | None = None
        for delimiter in delimiters:
            match = delimiter.pattern.search(text, start, partial=not buffer.is_ended)
            if match is None:
                continue
            if not buffer.is_ended and (match.partial or _may_change(delimiter, match, text)):
                if len(text) - match.start() <= _MAX_HELD_CHARS:
                    safe_end = min(safe_end, match.start())
                continue
            key = (match.start(), -len(match.group()), delimiter.field is None)
            if best is None or key < best[0]:
                best = key, delimiter, match
        if best is None or (best[0][0] >= safe_end and not buffer.is_ended):
            return None, safe_end - self._shift
        return (best[1], best[2]), safe_end - self._shift


def _closing(field: "ResponseTemplateField") -> _Delimiter:
    return _Delimiter(field.close_re, field.close_literals, field.close_literal_can_extend, None)


def _may_change(delimiter: _Delimiter, match: Any, text: str) -> bool:
    """Return whether the match might be another one if more text came."""
    if match.end() == len(text):
        return match.start() == match.end() or delimiter.literals is None or delimiter.can_extend
    if delimiter.literals is not None:
        return False
    longer = delimiter.pattern.match(text + "\0", match.start())
    return longer is None or (longer.span(), longer.groupdict()) != (match.span(), match.groupdict())


class StrippedEmitter:
    """Emit a text without the whitespace at its ends, and with `before` in front if there is any text.

    has_text   Whether any text has been emitted.
    """

    def __init__(self, emit: Emit, before: str | None = None) -> None:
        self.has_text = False
        self._emit = emit
        self._held = before or ""

    def emit(self, text: str) -> None:
        """Emit a piece of the text, and hold back whitespace at its end."""
        if not self.has_text:
            text = text.lstrip()
        stripped = text.rstrip()
        if stripped:
            self._emit(self._held + stripped)
            self.has_text, self._held = True, text[len(stripped) :]
        elif self.has_text:
            self._held += text
