"""StopMatcher: stop strings in a text that arrives in pieces.

The match that ends first counts, and text that might begin a match is held back. The cost is linear in the text: each
piece is searched once, together with the few characters before it.
"""

import copy
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StopMatch:
    """A match of a stop string.

    stop         The string that matched.
    start, end   Its place in the whole text, in characters.
    """

    stop: str
    start: int
    end: int


class StopMatcher:
    """Search for stop strings in one output: feed it pieces, and send the text that it returns."""

    def __init__(self, stops: tuple[str, ...], included: bool) -> None:
        """Start before the first character.

        stops      The strings, none of them empty. Of several matches the one that ends first counts, then the first
                   in this order.
        included   True: the text ends after the match and nothing is held back; False: it ends before the match.
        """
        self._stops = stops
        self._included = included
        self._max_tail_chars = max(map(len, stops), default=1) - 1  # before a piece, where a match may begin
        self._tail = ""  # the last characters seen, at most _max_tail_chars
        self._num_seen = 0  # characters
        self._num_sent = 0  # characters; those not sent are the end of _tail

    def copy(self) -> "StopMatcher":
        """Return an independent copy in the same state."""
        return copy.copy(self)

    def feed(self, piece: str, *, matches_count: bool = True) -> tuple[str, StopMatch | None]:
        """Return the text that may be sent now, and the match that ends in this piece if there is one.

        After a match nothing may be fed any more.

        matches_count: False makes matches that end in this piece ordinary text (min_tokens).
        """
        if not self._stops:
            return piece, None
        window = self._tail + piece
        offset = self._num_seen - len(self._tail)  # of the window in the whole text
        match = self._find(window, len(self._tail), offset) if matches_count and piece else None
        self._num_seen += len(piece)
        self._tail = window[max(len(window) - self._max_tail_chars, 0) :]
        if match is not None:
            return self._take(window, offset, match.end if self._included else match.start), match
        held = 0 if self._included else len(self._tail)
        return self._take(window, offset, self._num_seen - held), None

    def flush(self) -> str:
        """Return the text that was held back, when no more comes."""
        return self._take(self._tail, self._num_seen - len(self._tail), self._num_seen)

    def _take(self, window: str, offset: int, until: int) -> str:
        text = window[self._num_sent - offset : max(until, self._num_sent) - offset]
        self._num_sent = max(until, self._num_sent)
        return text

    def _find(self, window: str, num_old: int, offset: int) -> StopMatch | None:
        """Return the match in `window` that ends first, after its `num_old` first characters."""
        best: tuple[int, int, str] | None = None
        for order, stop in enumerate(self._stops):
            start = window.find(stop, max(num_old - len(stop) + 1, 0))
            if start >= 0:
                candidate = (start + len(stop), order, stop)
                best = candidate if best is None else min(best, candidate)
        if best is None:
            return None
        end, _, stop = best
        return StopMatch(stop, offset + end - len(stop), offset + end)
