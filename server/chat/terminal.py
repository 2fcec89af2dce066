"""The interactive conversation of `jaxserve chat` and `jaxserve run`.

Ctrl-C stops an answer and keeps the text that has come; Ctrl-D or /quit ends. A pasted text of several lines is one
message, and so is what stands between two lines of three quotation marks.
"""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from server.chat.client import AnswerSummary, ChatClient, ChatError
from server.chat.conversation import Conversation
from server.chat.screen import Screen

COMMANDS = """\
/set NAME VALUE   temperature, top_p, top_k, min_p, max_tokens, seed, …; without VALUE: the server's; alone: shows all
/system TEXT      set the system prompt (without TEXT: drop it); forgets the conversation
/regenerate       answer the last question again
/save FILE        keep the conversation and its settings in a file
/load FILE        go on with one that was kept
/reset            forget the conversation
/help             this list
/quit             leave (Ctrl-D does, too)
\"\"\"               begins and ends a message of several lines
Ctrl-C            stop an answer"""
QUOTES = '"""'
PROMPT = "\n› "


class Terminal:
    """One conversation with one server, in the terminal."""

    def __init__(self, client: ChatClient, conversation: Conversation, screen: Screen | None = None) -> None:
        self._client = client
        self._conversation = conversation
        self._screen = screen or Screen()
        self._commands: dict[str, Callable[[str], None]] = {
            "/help": lambda _: self._screen.note(COMMANDS),
            "/set": self._set,
            "/system": self._system,
            "/regenerate": self._regenerate,
            "/save": self._save,
            "/load": self._load,
            "/reset": self._reset,
        }

    def answer_once(self, question: str) -> int:
        """Answer one question, and return the exit code."""
        return self._answer_all([question])

    def answer_lines(self) -> int:
        """Answer every line of standard input, and return the exit code."""
        return self._answer_all(filter(None, map(str.strip, sys.stdin)))

    def _answer_all(self, lines: Iterable[str]) -> int:
        for line in lines:
            try:
                self._ask(line)
            except ChatError as error:
                print(f"jaxserve: {error}", file=sys.stderr)
                return 1
        return 0

    def run(self, greeting: str) -> int:
        """Read messages and commands until the user ends, and return the exit code."""
        import readline

        readline.parse_and_bind("set enable-bracketed-paste on")  # a pasted line break does not send
        self._screen.note(greeting)
        while True:
            try:
                text = self._read()
            except KeyboardInterrupt:
                self._screen.note("\n(/quit or Ctrl-D ends)", end="")
                continue
            except EOFError:
                print()
                return 0
            if text in ("/quit", "/exit"):
                return 0
            try:
                self._handle_input(text)
            except ChatError as error:
                self._screen.note("!", end=" ")
                print(error)

    def _read(self) -> str:
        """Read one message: a line, or several."""
        text = input(PROMPT).strip()
        if not text.startswith(QUOTES):
            return text
        lines = [text.removeprefix(QUOTES)]
        while not lines[-1].rstrip().endswith(QUOTES) or (len(lines) == 1 and not lines[0]):
            lines.append(input("  "))
        return "\n".join(lines).rstrip().removesuffix(QUOTES).strip()

    def _handle_input(self, text: str) -> None:
        command, _, rest = text.partition(" ")
        if command in self._commands:
            self._commands[command](rest.strip())
        elif command.startswith("/") and command[1:].isalpha() and "\n" not in text:
            self._screen.note(f"no command {command}; /help lists them")
        elif text:
            self._answer(text)

    def _answer(self, question: str) -> None:
        """Show the answer to a question, its speed, and why it ended if that was early."""
        summary = self._ask(question)
        if summary is None:
            return
        if summary.num_tokens:
            self._screen.note(str(summary))
        if summary.finish_reason == "repetition":
            self._screen.note("(stopped: the answer began to repeat itself)")
        elif summary.finish_reason == "length":
            self._screen.note("(cut at the longest answer; /set max_tokens N allows more, /reset makes room)")

    def _ask(self, question: str) -> AnswerSummary | None:
        """Send one message and show the answer. Ctrl-C stops the answer, not the program.

        A stopped answer stays in the conversation; a message that failed does not.
        """
        content: list[str] = []
        summary = None
        self._client.fields = self._conversation.to_request_fields()
        answer = self._client.stream_answer(self._conversation.make_messages(question))
        try:
            with self._screen.show_answer() as view:
                for piece in answer:
                    if isinstance(piece, AnswerSummary):
                        summary = piece
                    elif piece[0] == "reasoning":
                        view.show_reasoning(piece[1])
                    else:
                        content.append(piece[1])  # before it is shown: what the user has seen is in the conversation
                        view.show_content(piece[1])
        except KeyboardInterrupt:
            self._screen.note("(stopped)")
        finally:
            answer.close()
        self._conversation.add(question, "".join(content))
        return summary

    def _regenerate(self, _: str) -> None:
        question, answer = self._conversation.pop_last()
        try:
            self._answer(question)
        except ChatError:
            self._conversation.add(question, answer)  # the old answer is kept if there is no new one
            raise

    def _set(self, rest: str) -> None:
        name, _, value = rest.partition(" ")
        if name:
            self._conversation.set(name, value.strip())
        settings = self._conversation.settings
        values = ", ".join(f"{name} {value}" for name, value in settings.items())
        self._screen.note(f"settings: {values or 'the server decides'}")

    def _system(self, rest: str) -> None:
        self._conversation.system = rest or None
        self._conversation.messages.clear()
        self._screen.note(f"system prompt: {self._conversation.system or 'none'}")

    def _reset(self, _: str) -> None:
        self._conversation.messages.clear()
        self._screen.note("forgotten")

    def _save(self, rest: str) -> None:
        path = _parse_path(rest)
        self._conversation.save(path)
        self._screen.note(f"saved in {path}")

    def _load(self, rest: str) -> None:
        path = _parse_path(rest)
        self._conversation.load(path)
        self._screen.note(f"{len(self._conversation.messages) // 2} questions and their answers from {path}")


def _parse_path(text: str) -> Path:
    if not text:
        raise ChatError("which file? /save FILE, /load FILE")
    return Path(text).expanduser()
