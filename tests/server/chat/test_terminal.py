"""`jaxserve chat` as a process of its own, in a pipe and on a terminal, against a server that says what it was told."""

import codecs
import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jaxserve import DEFAULT_MODEL
from tests.fake_openai import FakeOpenAI

PATIENCE_S = 30


@pytest.fixture
def server() -> Iterator[FakeOpenAI]:
    with FakeOpenAI("Good ", "day ", "🙂") as server:
        yield server


def through_a_pipe(lines: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "server", "chat", *words]
    return subprocess.run(command, input=lines, capture_output=True, text=True, timeout=PATIENCE_S)


@contextmanager
def sigint_handled() -> Iterator[None]:
    """Let programs that start meanwhile be interrupted: a background job of a shell ignores SIGINT and hands that on.

    No `preexec_fn`, which makes Popen fork: jax warns of every fork of a process that has used it.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class Terminal:
    """`jaxserve chat` on a terminal; what it writes is read as far as it matters."""

    def __init__(self, url: str) -> None:
        self.master, slave = pty.openpty()
        command = [sys.executable, "-m", "server", "chat", "--url", url]
        with sigint_handled():
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
            self._read()
        before, _, self.seen = self.seen.partition(text)
        return before

    def _read(self) -> None:
        self.seen += self._decoder.decode(os.read(self.master, 65536))

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


def test_a_longest_answer_and_the_detection_of_repetition_are_sent_unless_set(server: FakeOpenAI) -> None:
    through_a_pipe("Hello\n", "--url", server.url)
    through_a_pipe("Hello\n", "--url", server.url, "--max-tokens", "7")
    assert [chat["max_tokens"] for chat in server.chats] == [1024, 7]
    assert server.chats[0]["repetition_detection"]["min_count"] == 5


@pytest.mark.parametrize(
    ("model_sampling", "temperature"),
    [(None, None), ({"temperature": 0.2}, None), ({}, 0.7), ({"max_new_tokens": 9}, 0.7)],
)
def test_a_model_without_sampling_defaults_gets_usual_ones(
    server: FakeOpenAI, model_sampling: dict[str, float] | None, temperature: float | None
) -> None:
    server.card |= {"default_sampling_params": model_sampling}
    through_a_pipe("Hello\n", "--url", server.url)
    through_a_pipe("Hello\n", "--url", server.url, "--temperature", "0")
    assert [chat.get("temperature") for chat in server.chats] == [temperature, 0]


@pytest.mark.parametrize(("own", "sent"), [({"temperature": 0.2}, 1.1), ({"repetition_penalty": 1.3}, None)])
def test_the_default_model_gets_what_was_measured_for_it(server: FakeOpenAI, own: dict, sent: float | None) -> None:
    server.card |= {"id": DEFAULT_MODEL, "default_sampling_params": own}
    through_a_pipe("Hello\n", "--url", server.url)
    assert server.chats[0].get("repetition_penalty") == sent


def test_a_question_on_the_command_line_is_answered_with_what_the_pipe_brings(server: FakeOpenAI) -> None:
    ended = through_a_pipe("a text\nof two lines\n", "What does it say?", "--url", server.url, "--top-k", "5")
    assert (ended.returncode, ended.stdout) == (0, "Good day 🙂\n")
    assert [chat["messages"] for chat in server.chats] == [
        [{"role": "user", "content": "What does it say?\n\na text\nof two lines"}]
    ]


def test_reasoning_is_dimmed_on_a_terminal_and_no_part_of_the_talk(server: FakeOpenAI) -> None:
    server.thoughts = ("Let me ", "see. ")
    terminal = Terminal(server.url)
    terminal.until("/help lists commands.")
    terminal.type("Hello")
    thought = terminal.until("Good day")
    assert "\x1b[2mLet me \x1b[0m\x1b[2msee. \x1b[0m\r\n" in thought
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
    assert ended.stderr.startswith("jaxserve: no server answers at http://127.0.0.1:9")
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("status", "breaks_off", "reason"), [(503, False, "too many"), (None, True, "the engine has ended")]
)
def test_a_refusal_is_told_in_the_servers_words(
    server: FakeOpenAI, status: int | None, breaks_off: bool, reason: str
) -> None:
    server.refusal, server.breaks_off = status and (status, reason), breaks_off
    ended = through_a_pipe("Hello\n", "--url", server.url + "/v1")
    assert (ended.returncode, ended.stderr) == (1, f"jaxserve: {reason}\n")


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
    server.resume.set()
    assert server.hung_up.wait(PATIENCE_S)
    server.words, server.hold_after = ("Fine.",), None
    terminal.type("Go on")
    terminal.until("Fine.")
    terminal.until("1 token · first after")
    terminal.type("/quit")
    assert terminal.close() == 0
    assert [message["content"] for message in server.chats[1]["messages"]] == ["Tell me a story", "Once upon ", "Go on"]


def test_a_pasted_text_and_one_in_quotation_marks_are_one_message_each(server: FakeOpenAI) -> None:
    terminal = Terminal(server.url)
    terminal.until("/help lists commands.")
    os.write(terminal.master, b"\x1b[200~one\ntwo\x1b[201~")
    terminal.type(" three")
    terminal.until("first after")
    for line in ('"""four', "", 'five"""'):
        terminal.type(line)
    terminal.until("first after")
    terminal.type("/quit")
    assert terminal.close() == 0
    questions = [chat["messages"][-1]["content"] for chat in server.chats]
    assert questions == ["one\ntwo three", "four\n\nfive"]


def test_an_answer_that_was_ended_says_why(server: FakeOpenAI) -> None:
    server.finish_reason = "repetition"
    terminal = Terminal(server.url)
    terminal.until("/help lists commands.")
    terminal.type("Hello")
    terminal.until("the answer began to repeat itself")
    server.finish_reason = "length"
    terminal.type("Hello")
    terminal.until("/set max_tokens N allows more")
    terminal.type("/quit")
    assert terminal.close() == 0


def test_a_server_that_does_not_know_repetition_detection_is_not_told_of_it(server: FakeOpenAI) -> None:
    server.unknown_field = "repetition_detection"
    assert through_a_pipe("Hello\nAgain\n", "--url", server.url).stdout == "Good day 🙂\nGood day 🙂\n"
    assert ["repetition_detection" in chat for chat in server.chats] == [True, False, False]


def test_commands_change_the_conversation(server: FakeOpenAI, tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    terminal = Terminal(server.url)
    for line, answer in {
        "/help": "/reset",
        "/system Be brief.": "system prompt: Be brief.",
        "/wrong": "no command /wrong",
        "Hello": "first after",
        "/reset": "forgotten",
        "/set temperature 0.5": "settings: temperature 0.5",
        "/set temprature 1": "did you mean temperature?",
        "/set top_k much": "top_k cannot be 'much'",
        "Again": "first after",
        "/regenerate": "first after",
        f"/save {file}": f"saved in {file}",
        "/set temperature": "settings: the server decides",
        "/reset ": "forgotten",
        "/regenerate ": "nothing has been asked yet",
        f"/load {file}": "1 questions and their answers",
        "/load /nowhere": "cannot read /nowhere",
        "More": "first after",
    }.items():
        terminal.type(line)
        terminal.until(answer)
    terminal.until("› ")
    os.write(terminal.master, b"\x04")
    assert terminal.close() == 0
    again = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Again"}]
    assert [chat["messages"] for chat in server.chats[1:3]] == [again, again]
    more = [*again, {"role": "assistant", "content": "Good day 🙂"}, {"role": "user", "content": "More"}]
    assert server.chats[3]["messages"] == more
    assert [chat.get("temperature") for chat in server.chats] == [None, 0.5, 0.5, 0.5]
    assert file.stat().st_mode & 0o077 == 0
