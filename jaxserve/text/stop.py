"""Stop strings in a text that arrives in pieces: the match that ends first wins, and what might begin one waits.

Linear in the text: each piece is searched once, together with the few characters before it.
"""

import copy
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StopMatch:
    """stop: the string that matched; start, end: where, in the whole text's characters."""

    stop: str
    start: int
    end: int


class StopMatcher:
    """One answer's text on its way out. Feed pieces; `text` of each result may be sent.

    stops      the strings, none empty; of several matches the one ending first wins, then the first in this order
    included   True: the text ends after the match and nothing is held back; False: it ends before the match
    """

    def __init__(self, stops: tuple[str, ...], included: bool) -> None:
        self._stops = stops
        self._included = included
        self._reach = max(map(len, stops), default=1) - 1  # characters before a piece that a match may begin in
        self._tail = ""  # the last characters seen, at most _reach of them
        self._seen = 0  # characters seen
        self._sent = 0  # characters given out; the difference is the end of _tail

    def copy(self) -> "StopMatcher":
        """Another one at the same place."""
        return copy.copy(self)

    def feed(self, piece: str, *, matches_count: bool = True) -> tuple[str, StopMatch | None]:
        """Text that may be sent now, and the match if one ends in this piece (then nothing may be fed any more).

        matches_count=False lets matches that end in this piece pass as ordinary text (min_tokens).
        """
        if not self._stops:
            return piece, None
        window = self._tail + piece
        offset = self._seen - len(self._tail)  # of the window in the whole text
        match = self._find(window, len(self._tail), offset) if matches_count and piece else None
        self._seen += len(piece)
        self._tail = window[max(len(window) - self._reach, 0) :]
        if match is not None:
            return self._take(window, offset, match.end if self._included else match.start), match
        held = 0 if self._included else len(self._tail)
        return self._take(window, offset, self._seen - held), None

    def flush(self) -> str:
        """The text that waited, when no more comes."""
        return self._take(self._tail, self._seen - len(self._tail), self._seen)

    def _take(self, window: str, offset: int, until: int) -> str:
        text = window[self._sent - offset : max(until, self._sent) - offset]
        self._sent = max(until, self._sent)
        return text

    def _find(self, window: str, old: int, offset: int) -> StopMatch | None:
        """The match in `window` that ends first, past its `old` first characters."""
        best: tuple[int, int, str] | None = None
        for order, stop in enumerate(self._stops):
            place = window.find(stop, max(old - len(stop) + 1, 0))
            if place >= 0:
                found = (place + len(stop), order, stop)
                best = found if best is None else min(best, found)
        if best is None:
            return None
        end, _, stop = best
        return StopMatch(stop, offset + end - len(stop), offset + end)
