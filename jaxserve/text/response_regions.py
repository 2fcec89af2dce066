"""The regions of a response_template on a TextBuffer: literals and regexes that open and close them, split anywhere."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxserve.text.text_buffer import Emit, Parser, TextBuffer

if TYPE_CHECKING:
    from transformers.utils.chat_parsing.response_templates import ResponseTemplate, ResponseTemplateField


_MAX_WAITING = 4096  # characters that a regex may take without an end


@dataclass(frozen=True, slots=True)
class Region:
    """A place in an answer: in the region of `field`, which `opening` has opened; or around the regions.

    field   of the text around the regions: its own, or None if nobody wants that text
    """

    field: "ResponseTemplateField | None"
    opening: str
    captures: Mapping[str, str]
    is_outer: bool = False


@dataclass(frozen=True, slots=True)
class _Delimiter:
    """literals, can_extend: as transformers has them. field: whose beginning it is; None: it is an end."""

    pattern: Any
    literals: list[str] | None
    can_extend: bool
    field: "ResponseTemplateField | None"


class RegionParser:
    """Finds the way from region to region. is_start: the buffer begins where the answer does."""

    def __init__(self, template: "ResponseTemplate", buffer: TextBuffer, is_start: bool) -> None:
        fields = template.fields.values()
        outer = template.fields[template.implicit] if template.implicit else None
        self.around = Region(outer, "", {}, is_outer=True)
        self._buffer = buffer
        self._is_start = is_start
        self._openings = [
            _Delimiter(each.open_re, each.open_literals, each.open_literal_can_extend, each)
            for each in fields
            if each.open_re is not None
        ]
        self._last_empty = -1  # where an end without a text was taken

    def parse_region(self, region: Region, emit: Emit) -> Parser[Region | None]:
        """Emits the region's text; the region behind it, or None at the end of the answer."""
        current, buffer = region.field, self._buffer
        closing = [] if current is None or current.close_re is None else [_closing(current)]
        delimiters = [*self._openings, *closing] if region.is_outer else closing
        while True:
            found, safe = self._search(delimiters)
            end = found[1].start() - self._shift if found else safe
            if end > buffer.pos:
                emit(buffer.text[buffer.pos : end])
            buffer.pos = end
            if found is not None:
                return self._take(*found)
            if buffer.is_ended:
                return None
            yield

    def _take(self, delimiter: _Delimiter, match: Any) -> Region | None:
        self._buffer.pos = match.end() - self._shift
        if match.start() == match.end() and delimiter.field is None:
            if self._last_empty == self._buffer.position:
                return None
            self._last_empty = self._buffer.position
        if delimiter.field is None:
            return self.around
        captures = {name: text for name, text in match.groupdict().items() if text is not None}
        return Region(delimiter.field, match.group(), captures)

    @property
    def _shift(self) -> int:
        """1 where a character stands before the buffer's text, which then is not the start of the answer."""
        return int(self._buffer.position > self._buffer.pos or not self._is_start)

    def _search(self, delimiters: list[_Delimiter]) -> tuple[tuple[_Delimiter, Any] | None, int]:
        """The delimiter that comes first, the longest of several; and up to where the text is certainly none."""
        buffer = self._buffer
        text = "\0" * self._shift + buffer.text
        start, safe = buffer.pos + self._shift, len(text)
        best: tuple[tuple[int, int, bool], _Delimiter, Any] | None = None
        for delimiter in delimiters:
            match = delimiter.pattern.search(text, start, partial=not buffer.is_ended)
            if match is None:
                continue
            if not buffer.is_ended and (match.partial or _may_change(delimiter, match, text)):
                if len(text) - match.start() <= _MAX_WAITING:
                    safe = min(safe, match.start())
                continue
            key = (match.start(), -len(match.group()), delimiter.field is None)
            if best is None or key < best[0]:
                best = key, delimiter, match
        if best is None or (best[0][0] >= safe and not buffer.is_ended):
            return None, safe - self._shift
        return (best[1], best[2]), safe - self._shift


def _closing(field: "ResponseTemplateField") -> _Delimiter:
    return _Delimiter(field.close_re, field.close_literals, field.close_literal_can_extend, None)


def _may_change(delimiter: _Delimiter, match: Any, text: str) -> bool:
    """Whether a match might be another if more text came."""
    if match.end() == len(text):
        return match.start() == match.end() or delimiter.literals is None or delimiter.can_extend
    if delimiter.literals is not None:
        return False
    longer = delimiter.pattern.match(text + "\0", match.start())
    return longer is None or (longer.span(), longer.groupdict()) != (match.span(), match.groupdict())


class StrippedEmitter:
    """A text on its way out, without the white space at its ends. before: stands before it, if there is any."""

    def __init__(self, emit: Emit, before: str | None = None) -> None:
        self.has_text = False
        self._emit = emit
        self._blank = before or ""

    def emit(self, text: str) -> None:
        if not self.has_text:
            text = text.lstrip()
        kept = text.rstrip()
        if kept:
            self._emit(self._blank + kept)
            self.has_text, self._blank = True, text[len(kept) :]
        elif self.has_text:
            self._blank += text
