"""Takes the text of a custom tool out of the arguments with which the model calls it, piece by piece."""

import re

from server.responses.tools import INPUT_KEY

_HEAD = re.compile(rf'\s*\{{\s*"{INPUT_KEY}"\s*:\s*"')
_MAX_HEAD_CHARS = 64
_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_LITERAL = re.compile(r'[^"\\]+')
_UNICODE = re.compile(r"\\u([0-9a-fA-F]{4})")
_HIGH, _LOW = range(0xD800, 0xDC00), range(0xDC00, 0xE000)


class CustomInputDecoder:
    """Decoder of `{"input": "text"}`, in any pieces. Arguments of another form are the text themselves."""

    def __init__(self) -> None:
        self._pending = ""
        self._state = "head"

    def feed(self, piece: str) -> str:
        """Return what more of the arguments adds to the text."""
        self._pending += piece
        if self._state == "head":
            self._read_head(is_last=False)
        return self._take()

    def close(self) -> str:
        """Return the rest, when no more comes: a piece of an escape sequence is dropped."""
        if self._state == "head":
            self._read_head(is_last=True)
        return self._take()

    def _read_head(self, *, is_last: bool) -> None:
        head = _HEAD.match(self._pending)
        if head is not None:
            self._state, self._pending = "text", self._pending[head.end() :]
        elif is_last or len(self._pending) > _MAX_HEAD_CHARS:
            self._state = "other"

    def _take(self) -> str:
        if self._state == "text":
            return self._decode()
        taken, self._pending = (self._pending, "") if self._state == "other" else ("", self._pending)
        return taken

    def _decode(self) -> str:
        """Decode as much of a JSON string as is complete. Behind its end nothing counts."""
        decoded: list[str] = []
        position = 0
        while position < len(self._pending) and self._state == "text":
            literal = _LITERAL.match(self._pending, position)
            if literal is not None:
                decoded.append(literal[0])
                position = literal.end()
            elif self._pending[position] == '"':
                self._state = "ended"
            else:
                text, width = self._decode_escape(position)
                if not width:
                    break
                decoded.append(text)
                position += width
        self._pending = "" if self._state == "ended" else self._pending[position:]
        return "".join(decoded)

    def _decode_escape(self, position: int) -> tuple[str, int]:
        """Return the character of an escape sequence and its length, 0 if it is not complete yet."""
        sequence = self._pending[position : position + 12]
        if len(sequence) < 2:
            return "", 0
        if sequence[1] != "u":
            return _ESCAPES.get(sequence[1], sequence[1]), 2
        unit = _UNICODE.match(sequence)
        if unit is None:
            return ("", 0) if len(sequence) < 6 else ("\N{REPLACEMENT CHARACTER}", 2)
        code = int(unit[1], 16)
        if code not in _HIGH:
            return ("\N{REPLACEMENT CHARACTER}" if code in _LOW else chr(code)), 6
        if len(sequence) < 12 and "\\u".startswith(sequence[6:8]):
            return "", 0
        low = _UNICODE.match(sequence, 6)
        if low is None or int(low[1], 16) not in _LOW:
            return "\N{REPLACEMENT CHARACTER}", 6
        return chr(0x10000 + (code - _HIGH.start) * 0x400 + int(low[1], 16) - _LOW.start), 12
