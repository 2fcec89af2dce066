"""`jaxserve chat` as a process of its own, in a pipe and on a terminal, against a server that says what it was told."""

import codecs
import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.fake_openai import FakeOpenAI

PATIENCE_S = 30


@pytest.fixture
def server() -> Iterator[FakeOpenAI]:
    with FakeOpenAI("Good ", "day ", "🙂") as server:
        yield server


def through_a_pipe(lines: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "server", "chat", *words]
    return subprocess.run(command, input=lines, capture_output=True, text=True, timeout=PATIENCE_S)


class Terminal:
    """`jaxserve chat` on a terminal; what it writes is read as far as it matters."""

    def __init__(self, url: str) -> None:
        self.master, slave = pty.openpty()
        command = [sys.executable, "-m", "server", "chat", "--url", url]
        self.process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
        os.close(slave)
        self.seen = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def type(self, line: str) -> None:
        os.write(self.master, (line + "\n").encode())

    def until(self, text: str) -> str:
        """Reads on until `text` has appeared; returns all before it and forgets it."""
        while text not in self.seen:
            assert select.select([self.master], [], [], PATIENCE_S)[0], f"no {text!r} in {self.seen!r}"
            self.seen += self._decoder.decode(os.read(self.master, 65536))
        before, _, self.seen = self.seen.partition(text)
        return before

    def close(self) -> int:
        code = self.process.wait(PATIENCE_S)
        os.close(self.master)
        return code


def test_each_line_of_a_pipe_is_answered_and_the_talk_is_kept(server: FakeOpenAI) -> None:
    ended = through_a_pipe("Hello\n\nAnd now?\n", "--url", server.url, "--system", "Be kind.", "--top-k", "5")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "Good day 🙂\nGood day 🙂\n", "")
    assert [message["content"] for message in server.chats[1]["messages"]] == [
        *("Be kind.", "Hello"),
        *("Good day 🙂", "And now?"),
    ]
    assert (server.chats[0]["model"], server.chats[0]["top_k"]) == ("fake-model", 5)
    assert "temperature" not in server.chats[0]


def test_reasoning_is_dimmed_on_a_terminal_and_no_part_of_the_talk(server: FakeOpenAI) -> None:
    server.thoughts = ("Let me ", "see. ")
    terminal = Terminal(server.url)
    terminal.until("/help lists commands.")
    terminal.type("Hello")
    thought = terminal.until("Good day")
    assert "\x1b[2mLet me \x1b[0m\x1b[2msee. \x1b[0m\r\n\r\n" in thought
    terminal.type("And now?")
    terminal.until("Good day")
    assert [message["content"] for message in server.chats[1]["messages"]] == ["Hello", "Good day 🙂", "And now?"]
    terminal.until("first after")
    terminal.type("/quit")
    assert terminal.close() == 0
    assert through_a_pipe("Hello\n", "--url", server.url).stdout == "Good day 🙂\n"


def test_without_a_server_one_sentence_says_so() -> None:
    ended = through_a_pipe("Hello\n", "--url", "http://127.0.0.1:9")
    assert ended.returncode == 1
    assert ended.stderr.startswith("jaxserve chat: no server answers at http://127.0.0.1:9")
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("status", "breaks_off", "reason"), [(503, False, "too many"), (None, True, "the engine has ended")]
)
def test_a_refusal_is_told_in_the_servers_words(
    server: FakeOpenAI, status: int | None, breaks_off: bool, reason: str
) -> None:
    server.refusal, server.breaks_off = status and (status, reason), breaks_off
    ended = through_a_pipe("Hello\n", "--url", server.url + "/v1")
    assert (ended.returncode, ended.stderr) == (1, f"jaxserve chat: {reason}\n")


def test_a_key_opens_a_closed_server() -> None:
    with FakeOpenAI("In.", api_key="sesame") as server:
        assert "--api-key" in through_a_pipe("Hello\n", "--url", server.url).stderr
        assert through_a_pipe("Hello\n", "--url", server.url, "--api-key", "sesame").stdout == "In.\n"


def test_ctrl_c_stops_the_answer_and_not_the_program(server: FakeOpenAI) -> None:
    server.words, server.hold_after = ("Once ", "upon ", *["a time "] * 2000), 2
    terminal = Terminal(server.url)
    terminal.until("/help lists commands.")
    terminal.type("Tell me a story")
    terminal.until("Once upon")
    terminal.process.send_signal(signal.SIGINT)
    terminal.until("(stopped)")
    server.gate.set()
    assert server.hung_up.wait(PATIENCE_S)
    server.words, server.hold_after = ("Fine.",), None
    terminal.type("Go on")
    terminal.until("Fine.")
    terminal.until("1 token · first after")
    terminal.type("/quit")
    assert terminal.close() == 0
    assert [message["content"] for message in server.chats[1]["messages"]] == ["Tell me a story", "Once upon ", "Go on"]


def test_commands_change_the_conversation(server: FakeOpenAI) -> None:
    terminal = Terminal(server.url)
    for line, answer in {
        "/help": "/reset",
        "/system Be brief.": "system prompt: Be brief.",
        "/wrong": "no command /wrong",
        "Hello": "first after",
        "/reset": "forgotten",
        "Again": "first after",
    }.items():
        terminal.type(line)
        terminal.until(answer)
    terminal.until("› ")
    os.write(terminal.master, b"\x04")
    assert terminal.close() == 0
    assert server.chats[1]["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Again"},
    ]
