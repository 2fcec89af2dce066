"""TextBuffer: text that arrives in pieces, for parsers that wait wherever it has not arrived yet.

A parser is a generator that takes text from a TextBuffer and yields to wait for more. So a format is written down as if
its text were whole, and is parsed alike however the text is cut: nothing is decided on a beginning that more text could
change, and what might begin a marker is held back until that is settled. The cost is linear in the text.
"""

import re
from collections.abc import Callable, Generator
from functools import lru_cache
from typing import NoReturn, TypeVar

T = TypeVar("T")
Parser = Generator[None, None, T]  # yields to wait for more text, returns a result
Emit = Callable[[str], None]

MAX_NAME_CHARS = 256
MAX_WHITESPACE_CHARS = 256  # that may be held back until the text after it has come
_SPACE = re.compile(r"\s*")
FUNCTION_NAME = re.compile(rf"[\w.:/$@-]{{0,{MAX_NAME_CHARS}}}")
PARAMETER_NAME = re.compile(rf"[\w.$@-]{{0,{MAX_NAME_CHARS}}}")


class Malformed(Exception):
    """The text cannot be what its beginning promised."""


class Unfinished(Malformed):
    """The text ended too soon."""


class TextBuffer:
    """The text so far, and how much of it has been read.

    text       The text that is kept; it changes with every feed.
    pos        The number of characters of `text` that have been read; it changes with every feed.
    is_ended   No more text will come.
    is_cut     The text was ended from outside, at any place: nothing may be concluded from where it ends.
    """

    __slots__ = ("_num_discarded", "_record_start", "_recorded", "is_cut", "is_ended", "pos", "text")

    def __init__(self) -> None:
        self.text = ""
        self.pos = 0
        self._num_discarded = 0
        self.is_ended = False
        self.is_cut = False
        # What was read since `start_recording`: these pieces, and the part of `text` from _record_start to pos.
        self._recorded: list[str] | None = None
        self._record_start = 0

    def feed(self, piece: str) -> None:
        """Append text, and drop what has been read."""
        if self._recorded is not None:
            self._recorded.append(self.text[self._record_start : self.pos])
            self._record_start = 0
        self._num_discarded += self.pos
        self.text = self.text[self.pos :] + piece
        self.pos = 0

    @property
    def position(self) -> int:
        """The number of characters that have been read since the beginning."""
        return self._num_discarded + self.pos

    def unread(self, literal: str) -> None:
        """Move back by the literal that was read last."""
        self.pos -= len(literal)

    def start_recording(self) -> None:
        """Keep all that is read from here on for `stop_recording`."""
        self._recorded, self._record_start = [], self.pos

    def stop_recording(self) -> str:
        """Return all that was read since `start_recording`."""
        text = "".join(self._recorded or ()) + self.text[self._record_start : self.pos]
        self._recorded, self._record_start = None, 0
        return text

    def push_back(self, text: str) -> None:
        """Make the text that was read last unread again, also where it is no longer kept."""
        start = self.pos - len(text)
        if start >= self._record_start and self.text.startswith(text, start):  # no copy of what follows it
            self.pos = start
            return
        if self._recorded is not None:
            recorded = "".join((*self._recorded, self.text[self._record_start : self.pos]))
            self._recorded, self._record_start = [recorded.removesuffix(text)], 0
        self._num_discarded += self.pos - len(text)
        self.text = text + self.text[self.pos :]
        self.pos = 0

    def pending_text(self) -> str:
        """Return all text since `start_recording`, read or not; without a recording, what has not been read."""
        return "".join(
            (*(self._recorded or ()), self.text[self.pos if self._recorded is None else self._record_start :])
        )

    def wait_for_text(self) -> Parser[None]:
        """Wait for more text. Raises Unfinished if none will come."""
        if self.is_ended:
            raise Unfinished
        yield

    def peek(self) -> Parser[str]:
        """Skip whitespace and return the next character without reading it; "" at the end of the text."""
        while True:
            self.pos = _SPACE.match(self.text, self.pos).end()  # pyright: ignore[reportOptionalMemberAccess]
            if self.pos < len(self.text):
                return self.text[self.pos]
            if self.is_ended:
                return ""
            yield

    def accept(self, *literals: str) -> Parser[str | None]:
        """Read the one of `literals` that comes next and return it, or None. Skips whitespace in either case."""
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
        """Read the one of `literals` that comes next and return it. Raises Malformed if none does."""
        literal = yield from self.accept(*literals)
        return literal or self.fail()

    def fail(self) -> NoReturn:
        """Raise Unfinished if the text has been read to its end, and Malformed otherwise."""
        raise Unfinished if self.is_ended and self.pos == len(self.text) else Malformed

    def is_followed_by(self, literals: tuple[str, ...], or_end: bool = False) -> Parser[bool]:
        """Whether one of `literals` comes next, after whitespace. Nothing is read.

        or_end: also True if the text ends there, perhaps in the middle of a literal.
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
        """Read the name of a function, or with PARAMETER_NAME of a parameter, after whitespace.

        Raises Malformed if there is none.
        """
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
        """Emit the text before the first of `literals`, read that and return it; None if the text ends before."""
        try:
            return (yield from self.read_through(literals, emit))
        except Unfinished:
            if self.pos < len(self.text):
                emit(self.text[self.pos :])
                self.pos = len(self.text)
            return None

    def read_through(self, literals: tuple[str, ...], emit: Emit) -> Parser[str]:
        """Emit the text before the first of `literals`, read that and return it.

        Raises Unfinished if the text ends before; what may have been the beginning of a literal is not emitted then.
        """
        markers = marker_set(literals)
        while True:
            match = markers.search(self.text, self.pos)
            end = match.start() if match else markers.safe_end(self.text, self.pos)
            if end > self.pos:
                emit(self.text[self.pos : end])
                self.pos = end
            if match:
                self.pos = match.end()
                return match.group()
            yield from self.wait_for_text()


class MarkerSet:
    """Literals that are searched for together.

    None may begin with another one: the shorter would always match first.
    """

    def __init__(self, literals: tuple[str, ...]) -> None:
        clashes = [(a, b) for a in literals for b in literals if a != b and b.startswith(a)]
        assert not clashes and "" not in literals, f"of these markers one begins with the other: {clashes}"
        self.search = re.compile("|".join(map(re.escape, literals)) or r"(?!)").search
        self._prefixes = frozenset(literal[:end] for literal in literals for end in range(1, len(literal)))
        self._first_chars = tuple({literal[0] for literal in literals if len(literal) > 1})
        self._max_prefix_chars = max(map(len, literals), default=1) - 1

    def safe_end(self, text: str, start: int) -> int:
        """Return where the longest suffix of `text` starts that may begin a literal; `text` holds no whole one."""
        window = max(start, len(text) - self._max_prefix_chars)
        end = len(text)
        for char in self._first_chars:
            index = text.find(char, window)
            while 0 <= index < end:
                if text[index:] in self._prefixes:
                    end = index
                index = text.find(char, index + 1)
        return end


@lru_cache(maxsize=1024)
def marker_set(literals: tuple[str, ...]) -> MarkerSet:
    """Return the MarkerSet of these literals; the last 1024 are cached."""
    return MarkerSet(literals)


def discard(text: str) -> None:
    """Do nothing: an Emit for text that is not needed."""
