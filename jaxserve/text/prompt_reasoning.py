"""Whether a prompt has opened or closed a reasoning section for the answer that is to come."""

from collections.abc import Collection, Sequence
from typing import Literal


def find_reasoning_section(
    prompt: str, opening: Sequence[str], closing: Sequence[str], turn_markers: Collection[str] = ()
) -> Literal["open", "closed"] | None:
    """Whether the prompt's last turn has opened a reasoning section, or closed it; None: neither.

    turn_marks   special tokens; the last that is no marker of the section begins the turn, so that what users write of
                 <think> does not count. Without any, only the very end of the prompt is looked at.
    """
    turn = _last_turn(prompt, [mark for mark in turn_markers if mark and mark not in (*opening, *closing)])
    if turn is None:
        end = prompt.rstrip()
        return "open" if end.endswith(tuple(opening)) else "closed" if end.endswith(tuple(closing)) else None
    opened = max((turn.rfind(marker) for marker in opening), default=-1)
    closed = max((turn.rfind(marker) for marker in closing), default=-1)
    if opened < 0 and closed < 0:
        return None
    return "open" if opened > closed else "closed"


def _last_turn(prompt: str, marks: Sequence[str]) -> str | None:
    """What stands behind the last of the marks; it is usually short, so long prompts are seldom looked through."""
    for size in (256, 4096, len(prompt)):
        end = prompt[-size:] if size else ""
        places = [place + len(mark) for mark in marks if (place := end.rfind(mark)) >= 0]
        if places:
            return end[max(places) :]
    return None
