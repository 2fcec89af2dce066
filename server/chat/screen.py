"""Shows answers as they come: as Markdown on a terminal, as plain text elsewhere.

Finished blocks are printed once; only the block that still grows is redrawn, its last lines if it is higher than the
screen. Reasoning is dimmed, and shown on terminals only.
"""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.markdown import Markdown
from rich.segment import Segment
from rich.text import Text

REDRAW_S = 0.08
_FENCE = re.compile(r" {0,3}(```|~~~)")
_NEW_BLOCK = re.compile(r"[^\s\-*+>|\d]")  # no list item, quotation, table row or continuation of one


class Screen:
    """Standard output. console: for tests."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(file=sys.stdout, highlight=False)
        self.is_live = self.console.is_terminal and not self.console.is_dumb_terminal

    def note(self, text: str, *, end: str = "\n") -> None:
        """Print a line that is no part of the conversation."""
        self.console.print(Text(text, style="dim"), end=end, soft_wrap=True)

    @contextmanager
    def show_answer(self) -> Iterator["AnswerView"]:
        """Yield the view of one answer; at the end all of it is shown, also if it was stopped."""
        view = MarkdownView(self.console) if self.is_live else AnswerView(self.console)
        try:
            yield view
        finally:
            view.close()


class AnswerView:
    """An answer as plain text, written as it comes. Reasoning is left out unless the output is a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._has_reasoning = self._has_content = False

    def show_reasoning(self, text: str) -> None:
        """Show a piece of reasoning."""
        if self._console.is_terminal:
            self._has_reasoning = True
            self._console.print(Text(text, style="dim"), end="", soft_wrap=True)

    def show_content(self, text: str) -> None:
        """Show a piece of the answer."""
        if self._has_reasoning and not self._has_content:
            self._console.out("\n")
        self._has_content = True
        self._write(text)

    def close(self) -> None:
        """Print what has not been printed yet, and end the line."""
        self._console.out("")

    def _write(self, text: str) -> None:
        self._console.file.write(text)
        self._console.file.flush()


class MarkdownView(AnswerView):
    """An answer as Markdown, redrawn as it grows."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._tail = ""
        self._has_drawn = False
        self._live: Live | None = None

    def close(self) -> None:
        """Print the rest as finished Markdown."""
        if self._live is None:
            super().close()
            return
        self._live.update(Text(), refresh=True)
        self._live.stop()
        if self._tail.strip():
            self._console.print(_make_markdown(self._tail))

    def _write(self, text: str) -> None:
        if self._live is None:
            # It is drawn by a thread, so that text that came before a pause is visible during the pause.
            self._live = Live(console=self._console, refresh_per_second=1 / REDRAW_S, transient=True)
            self._live.start()
        self._tail += text
        while (end := find_block_end(self._tail)) > 0:
            self._live.update(Text())
            self._console.print(_make_markdown(self._tail[:end]))
            self._console.print()
            self._tail = self._tail[end:].lstrip("\n")
        self._live.update(_LastLines(self._tail), refresh=not self._has_drawn)
        self._has_drawn = True


class _LastLines:
    """A renderable of Markdown's last lines, as many as the screen has room for."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(_make_markdown(self._text), options, pad=False)
        for line in lines[-max(1, console.size.height - 1) :]:
            yield from line
            yield Segment.line()


def find_block_end(text: str) -> int:
    """Return the end of the first block that no further text can change; 0 if there is none yet.

    A block ends at an empty line outside a code fence, if what follows begins another block.
    """
    position, is_code = 0, False
    lines = text.split("\n")
    for index, line in enumerate(lines):
        if _FENCE.match(line):
            is_code = not is_code
        following = lines[index + 1] if index + 1 < len(lines) else ""
        if not is_code and index and not line.strip() and _NEW_BLOCK.match(following):
            return position
        position += len(line) + 1
    return 0


def _make_markdown(text: str) -> Markdown:
    """Make Markdown in which line breaks are kept, as models mean them; in code and tables they are anyway."""
    lines, is_code = [], False
    for line in text.split("\n"):
        is_fence = _FENCE.match(line) is not None
        is_code ^= is_fence
        keeps = is_code or is_fence or line.lstrip().startswith("|") or not line.strip()
        lines.append(line if keeps else line + "  ")
    return Markdown("\n".join(lines))
