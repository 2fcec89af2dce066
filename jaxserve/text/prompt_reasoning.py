"""Find out whether a prompt has opened or closed a reasoning section for the output that follows it."""

from collections.abc import Collection, Sequence
from typing import Literal


def find_reasoning_section(
    prompt: str, opening: Sequence[str], closing: Sequence[str], turn_markers: Collection[str] = ()
) -> Literal["open", "closed"] | None:
    """Return whether the last turn of the prompt has opened a reasoning section, or closed one; None: neither.

    turn_markers   The special tokens. The last one that is not a marker of the section begins the turn, so that a
                   <think> in a user's message does not count. Without any, only the very end of the prompt counts.
    """
    turn = _last_turn(prompt, [marker for marker in turn_markers if marker and marker not in (*opening, *closing)])
    if turn is None:
        end = prompt.rstrip()
        return "open" if end.endswith(tuple(opening)) else "closed" if end.endswith(tuple(closing)) else None
    last_opening = max((turn.rfind(marker) for marker in opening), default=-1)
    last_closing = max((turn.rfind(marker) for marker in closing), default=-1)
    if last_opening < 0 and last_closing < 0:
        return None
    return "open" if last_opening > last_closing else "closed"


def _last_turn(prompt: str, markers: Sequence[str]) -> str | None:
    """Return the text behind the last marker. It is usually short, so ever longer ends of the prompt are searched."""
    for num_chars in (256, 4096, len(prompt)):
        end = prompt[-num_chars:] if num_chars else ""
        starts = [index + len(marker) for marker in markers if (index := end.rfind(marker)) >= 0]
        if starts:
            return end[max(starts) :]
    return None
