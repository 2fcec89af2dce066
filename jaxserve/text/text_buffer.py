"""Text that arrives in pieces, read by generators that wait wherever it has not arrived yet.

A TextBuffer is the text so far; what reads it is a generator that takes from it and yields to wait for more. So a
format is written down as if its text were whole, and reads the same however the text is cut: nothing is decided on a
beginning that more text could change, and what might begin a marker is held back until that is settled. Linear in the
text.
"""

import re
from collections.abc import Callable, Generator
from functools import lru_cache
from typing import NoReturn, TypeVar

T = TypeVar("T")
Parser = Generator[None, None, T]  # yields to wait for more text
Emit = Callable[[str], None]

MAX_NAME_CHARS = 256
MAX_WHITESPACE_CHARS = 256  # of white space that may wait for what comes behind it
_SPACE = re.compile(r"\s*")
FUNCTION_NAME = re.compile(rf"[\w.:/$@-]{{0,{MAX_NAME_CHARS}}}")
PARAMETER_NAME = re.compile(rf"[\w.$@-]{{0,{MAX_NAME_CHARS}}}")


class Malformed(Exception):
    """The text cannot be what its beginning promised."""


class Unfinished(Malformed):
    """The text ended too soon."""


class TextBuffer:
    """The text so far, and how far it has been read.

    text, pos   what is there, and how much of it has been read; both change with every feed
    position    how many characters have been read in all
    is_ended    no more will come
    is_cut      it was ended from outside, wherever it was: nothing may be concluded from where it ends
    """

    __slots__ = ("_num_discarded", "_recorded", "is_cut", "is_ended", "pos", "text")

    def __init__(self) -> None:
        self.text = ""
        self.pos = 0
        self._num_discarded = 0
        self.is_ended = False
        self.is_cut = False
        self._recorded: list[str] | None = None

    def feed(self, piece: str) -> None:
        if self._recorded is not None:
            self._recorded.append(self.text[: self.pos])
        self._num_discarded += self.pos
        self.text = self.text[self.pos :] + piece
        self.pos = 0

    @property
    def position(self) -> int:
        return self._num_discarded + self.pos

    def unread(self, literal: str) -> None:
        """Gives back the literal that was taken last."""
        self.pos -= len(literal)

    def start_recording(self) -> None:
        """From here on, what is read is kept for `kept`."""
        self._recorded = None
        self.feed("")
        self._recorded = []

    def stop_recording(self) -> str:
        """All that was read since `keep`, which ends it."""
        text = "".join(self._recorded or ()) + self.text[: self.pos]
        self._recorded = None
        return text

    def push_back(self, text: str) -> None:
        """Give back a text that was read last."""
        if self._recorded is not None:
            self._recorded = ["".join((*self._recorded, self.text[: self.pos])).removesuffix(text)]
        self._num_discarded += self.pos - len(text)
        self.text = text + self.text[self.pos :]
        self.pos = 0

    def pending_text(self) -> str:
        """All text since `keep`, read or not; else what has not been read."""
        return "".join((*self._recorded, self.text)) if self._recorded is not None else self.text[self.pos :]

    def wait_for_text(self) -> Parser[None]:
        """For more text; Unfinished when there is none."""
        if self.is_ended:
            raise Unfinished
        yield

    def peek(self) -> Parser[str]:
        """The next character that is no whitespace, which is skipped; "" at the end of the text."""
        while True:
            self.pos = _SPACE.match(self.text, self.pos).end()  # pyright: ignore[reportOptionalMemberAccess]
            if self.pos < len(self.text):
                return self.text[self.pos]
            if self.is_ended:
                return ""
            yield

    def accept(self, *literals: str) -> Parser[str | None]:
        """The one of `literals` that comes next, taken, or None. Whitespace before it is skipped in either case."""
        yield from self.peek()
        while True:
            for literal in literals:
                if self.text.startswith(literal, self.pos):
                    self.pos += len(literal)
                    return literal
            if self.is_ended or not self._may_begin(self.pos, literals):
                return None
            yield

    def expect(self, *literals: str) -> Parser[str]:
        """The one of `literals` that comes next, taken; Malformed if none does."""
        found = yield from self.accept(*literals)
        return found or self.fail()

    def fail(self) -> NoReturn:
        raise Unfinished if self.is_ended and self.pos == len(self.text) else Malformed

    def is_followed_by(self, literals: tuple[str, ...], or_end: bool = False) -> Parser[bool]:
        """Whether one of `literals` comes next, after whitespace. Takes nothing.

        or_end: or the text ends there, perhaps in the midst of one.
        """
        while True:
            start = _SPACE.match(self.text, self.pos).end()  # pyright: ignore[reportOptionalMemberAccess]
            if self.text.startswith(literals, start):
                return True
            if self.is_ended or start - self.pos > MAX_WHITESPACE_CHARS or not self._may_begin(start, literals):
                return or_end and self.is_ended and self._may_begin(start, literals)
            yield

    def _may_begin(self, start: int, literals: tuple[str, ...]) -> bool:
        rest = self.text[start : start + max(map(len, literals), default=0)]
        return any(literal.startswith(rest) for literal in literals)

    def read_name(self, pattern: re.Pattern[str] = FUNCTION_NAME) -> Parser[str]:
        """A function's name (or, with PARAMETER_NAME, a parameter's), after whitespace; Malformed if there is none."""
        yield from self.peek()
        while True:
            end = pattern.match(self.text, self.pos).end()  # pyright: ignore[reportOptionalMemberAccess]
            if end < len(self.text) or self.is_ended or end - self.pos == MAX_NAME_CHARS:
                break
            yield
        if end == self.pos:
            self.fail()
        name = self.text[self.pos : end]
        self.pos = end
        return name

    def read_until(self, literals: tuple[str, ...], emit: Emit) -> Parser[str | None]:
        """Emits the text before the first of `literals` and takes that; None if the text ends before one comes."""
        try:
            return (yield from self.read_through(literals, emit))
        except Unfinished:
            if self.pos < len(self.text):
                emit(self.text[self.pos :])
                self.pos = len(self.text)
            return None

    def read_through(self, literals: tuple[str, ...], emit: Emit) -> Parser[str]:
        """Emits the text before the first of `literals`, which must come, and takes that.

        If the text ends before, what may have been a literal's beginning is not emitted.
        """
        markers = marker_set(literals)
        while True:
            found = markers.search(self.text, self.pos)
            end = found.start() if found else markers.safe_end(self.text, self.pos)
            if end > self.pos:
                emit(self.text[self.pos : end])
                self.pos = end
            if found:
                self.pos = found.end()
                return found.group()
            yield from self.wait_for_text()


class MarkerSet:
    """Literals that are looked for together. None may begin another: the shorter would always be found first."""

    def __init__(self, literals: tuple[str, ...]) -> None:
        clash = [(a, b) for a in literals for b in literals if a != b and b.startswith(a)]
        assert not clash and "" not in literals, f"of these markers one begins the other: {clash}"
        self.search = re.compile("|".join(map(re.escape, literals)) or r"(?!)").search
        self._beginnings = frozenset(literal[:end] for literal in literals for end in range(1, len(literal)))
        self._firsts = tuple({literal[0] for literal in literals if len(literal) > 1})
        self._reach = max(map(len, literals), default=1) - 1

    def safe_end(self, text: str, start: int) -> int:
        """Where in `text`, which holds none of the literals, a suffix that may begin one starts."""
        window = max(start, len(text) - self._reach)
        best = len(text)
        for first in self._firsts:
            place = text.find(first, window)
            while 0 <= place < best:
                if text[place:] in self._beginnings:
                    best = place
                place = text.find(first, place + 1)
        return best


@lru_cache(maxsize=1024)
def marker_set(literals: tuple[str, ...]) -> MarkerSet:
    return MarkerSet(literals)


def discard(text: str) -> None:
    """An Emit for text that nobody needs."""
