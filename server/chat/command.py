"""The commands `jaxserve chat`, which talks to a running server, and `jaxserve run`, which starts a model itself."""

import argparse
import dataclasses
import os
import sys
import threading
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from server.chat.client import MAX_TOKENS, ChatClient, ChatError
from server.environment import PREFIX
from server.flag_translator import FlagTranslator
from server.flags import CommandParser, add_flags, read_arguments, select_fields

if TYPE_CHECKING:
    from jaxserve import AsyncLLM, EngineConfig

SAMPLING = {"temperature": float, "top_p": float, "top_k": int, "min_p": float, "max_tokens": int, "seed": int}
RUN_HELP = """\
Starts a model and talks to it; /help lists the commands. With a QUESTION it answers that one and leaves. What comes
through a pipe is the question, or stands behind it. A single word is a MODEL, several words are a QUESTION."""
CHAT_HELP = """\
A conversation in the terminal with a server that runs; /help lists the commands. With a QUESTION it answers that one
and leaves; what comes through a pipe then stands behind it. Without one, every line of a pipe is a message."""


class _IntermixedParser(CommandParser):
    """A parser that accepts flags between the positional words, too."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse flags and positional words in any order."""
        return self.parse_intermixed_args(args, namespace)


def chat(words: Sequence[str], api_key: str | None) -> int:
    """Run `jaxserve chat`, and return the exit code. api_key: the one of the environment."""
    parser = _IntermixedParser("jaxserve chat", '["QUESTION"] [FLAGS]', CHAT_HELP)
    parser.add_argument("words", nargs="*", metavar="QUESTION", help=argparse.SUPPRESS)
    parser.add_argument("--url", default="http://localhost:8000", help="where the server is (default: %(default)s)")
    parser.add_argument("--api-key", default=api_key, help="the server's key")
    parser.add_argument("--model", help="the name of a served model; default: the server's first")
    _add_sampling_flags(parser)
    arguments = vars(parser.parse_args(words))
    client = ChatClient(arguments["url"], arguments["api_key"], arguments["model"])
    return _start_conversation(client, arguments, " ".join(arguments["words"]), f"at {client.url}", reads_lines=True)


def run(words: Sequence[str]) -> int:
    """Run `jaxserve run`: start a model in this process, talk to it, and return the exit code."""
    from jaxserve import EngineConfig

    parser = CommandParser("jaxserve run", '[MODEL] ["QUESTION"] [FLAGS]', RUN_HELP)
    parser.add_argument("--model", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    _add_sampling_flags(parser)
    add_flags(parser, EngineConfig, skip=("model", "seed"))
    command = FlagTranslator.from_parser(parser).parse(words)
    is_named = any(flag.name == "model" for flag in command.flags)
    model, question = (
        (None, " ".join(command.positionals)) if is_named else split_model_and_question(command.positionals)
    )
    flags = [f"--{'.'.join((flag.name, *flag.path))}={value}" for flag in command.flags for value in flag.values]
    switches = [f"--{flag.name}" for flag in command.flags if not flag.values]
    variables = {PREFIX + field.name.upper() for field in dataclasses.fields(EngineConfig)}
    environ = {name: os.environ[name] for name in variables & os.environ.keys()}  # settings of servers are ignored
    arguments = read_arguments(parser, [*flags, *switches], environ)
    engine: dict[str, Any] = {
        "max_num_seqs": 1,
        **select_fields(EngineConfig, arguments),
    }  # one person, one answer at a time
    engine.pop("seed", None)  # --seed is the request's
    if model is not None:
        engine["model"] = model
    llm = _load_model(EngineConfig(**engine))
    from server.local_server import LocalServer

    with LocalServer(llm) as server:
        return _start_conversation(ChatClient(server.url), arguments, question, "in this process", reads_lines=False)


def split_model_and_question(words: Sequence[str]) -> tuple[str | None, str]:
    """Return the model, or None for the default one, and the question, or "" for a conversation."""
    if words and (len(words[0].split()) < 2 or Path(words[0]).exists()):
        return words[0], " ".join(words[1:])
    return None, " ".join(words)


def _load_model(config: "EngineConfig") -> "AsyncLLM":
    """Load a model, and show the progress on standard error as `jaxserve serve` does."""
    from server.startup import StartupProgress, make_console

    with StartupProgress(make_console()) as phases:
        phases.report("import", 0, 0)
        from jaxserve import AsyncLLM

        # The web framework is imported while the engine loads, which runs little Python code.
        web = threading.Thread(target=import_module, args=("server.local_server",), daemon=True)
        web.start()
        llm = AsyncLLM.load(config, progress=phases.report)
        web.join()
    return llm


def _add_sampling_flags(parser: CommandParser) -> None:
    parser.add_argument("--system", metavar="TEXT", help="a system prompt")
    for name, kind in SAMPLING.items():
        default = str(MAX_TOKENS) if name == "max_tokens" else "the model's"
        options = {"type": kind, "metavar": "N" if kind is int else "X", "help": f"default: {default}"}
        parser.add_argument("--" + name.replace("_", "-"), **options)


def _start_conversation(
    client: ChatClient, arguments: dict[str, Any], question: str, where: str, *, reads_lines: bool
) -> int:
    """Start a conversation, or answer one question.

    reads_lines: without a question, each line of piped input is a message; else all of it is one.
    """
    from server.chat.conversation import Conversation
    from server.chat.terminal import Terminal

    settings = {name: arguments[name] for name in SAMPLING if arguments.get(name) is not None}
    terminal = Terminal(client, Conversation(arguments.get("system"), settings=settings))
    try:
        client.fetch_model()
    except ChatError as error:
        print(f"jaxserve: {error}", file=sys.stderr)
        return 1
    if not sys.stdin.isatty():
        if not question and reads_lines:
            return terminal.answer_lines()
        question = "\n\n".join(filter(None, (question, sys.stdin.read().strip())))
        if not question:
            print("jaxserve: nothing to ask: standard input is empty", file=sys.stderr)
            return os.EX_USAGE
    if question:
        return terminal.answer_once(question)
    return terminal.run(f"Talking to {client.model} {where}; /help lists commands.")
