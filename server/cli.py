"""The command line `jaxserve COMMAND`. Every command imports only what it needs.

Printing the help imports no JAX, no transformers and no web framework: they are imported when a server starts.
Exit codes: 0 after a drain, 2 for a command line that is not understood, 70 if the engine died, 78 if the start failed.
"""

import argparse
import difflib
import logging
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from contextlib import ExitStack

    from jaxserve import EngineConfig
    from server.config import ServerConfig
    from server.flags import CommandParser

EX_USAGE, EX_SOFTWARE, EX_CONFIG, INTERRUPTED = 2, 70, 78, 130
VISIBLE_KEY = (
    "every user of this machine can read an --api-key in the list of processes; JAXSERVE_API_KEY or --api-key-file "
    "keeps it private"
)
KEY_VARIABLES = ("JAXSERVE_API_KEY", "VLLM_API_KEY")

OVERVIEW = """\
usage: jaxserve COMMAND …

  jaxserve run [MODEL] ["QUESTION"]  start a model and talk to it in the terminal, or answer one question
  jaxserve serve [MODEL] [FLAGS]     serve a model: the OpenAI API under /v1, a chat page at /
  jaxserve chat ["QUESTION"]         talk in the terminal to a server that runs
  jaxserve pull MODEL                fetch a model, so that a start needs no network
  jaxserve convert MODEL DIRECTORY   write a model anew, packed and laid out, so that it loads at once
  jaxserve build MODEL DIRECTORY     compile a model's programs for this or another machine, for serve --programs
  jaxserve list                      show the models and compiled programs that are kept here
  jaxserve rm NAME                   delete one of them
  jaxserve warmup [MODEL] [FLAGS]    fetch and compile what serve with these flags needs, then leave
  jaxserve doctor                    look at this machine: versions, device and its speed, memory, cache, hub, port
  jaxserve --version

`jaxserve COMMAND --help` lists the flags. MODEL is a directory, a .gguf file, or a hub id such as org/name or
org/name-GGUF:Q4_K_M; without one it is SmolLM2-135M-Instruct, fetched once."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command, and return the exit code. argv: the words behind `jaxserve`, by default those of the process."""
    words = list(sys.argv[1:] if argv is None else argv)
    command = words[0] if words else "--help"
    if command in ("--version", "-V", "version"):
        from jaxserve import __version__

        print(f"jaxserve {__version__}")
        return 0
    if command in ("--help", "-h", "help"):
        print(OVERVIEW)
        return 0
    if command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, n=1)
        guess = f"did you mean jaxserve {near[0]}?" if near else "jaxserve --help lists them."
        print(f"jaxserve: no command {command!r}; {guess}", file=sys.stderr)
        return EX_USAGE
    return COMMANDS[command](words[1:])


def serve(words: Sequence[str]) -> int:
    """Run `jaxserve serve`: load the model with progress shown, serve until told to stop, and return the exit code."""
    return _run_with_configs("serve", words, _serve)


def warmup(words: Sequence[str]) -> int:
    """Run `jaxserve warmup`: fill the caches of models and compiled programs as `serve` with the same flags would.

    It is meant for the build of a container image, whose servers then find everything cached.
    """
    return _run_with_configs("warmup", words, _warmup)


def _run_with_configs(command: str, words: Sequence[str], run: Callable[["EngineConfig", "ServerConfig"], int]) -> int:
    from jaxserve import EngineConfig, EngineStopped, StartupError
    from server import logs
    from server.config import ServerConfig
    from server.flags import read_arguments, select_fields

    values = read_arguments(_make_serve_parser(command), words, os.environ)
    logs.configure_logging(values.get("log_level", "info"), values.get("log_format", "text"))
    if any(word.partition("=")[0] == "--api-key" for word in words):
        logging.getLogger(__name__).warning(VISIBLE_KEY)
    try:
        return run(
            EngineConfig(**select_fields(EngineConfig, values)), ServerConfig(**select_fields(ServerConfig, values))
        )
    except StartupError as error:
        logs.report_startup_error(error)
        return EX_CONFIG
    except EngineStopped as error:
        logs.report_startup_error(error)
        return EX_SOFTWARE
    except KeyboardInterrupt:
        return INTERRUPTED


def _serve(engine_config: "EngineConfig", server_config: "ServerConfig") -> int:
    """Start and serve, and end at once if a signal asks for it before the server is ready."""
    from contextlib import ExitStack

    from server.start_signals import exit_on_signal

    on_failure = ExitStack()
    with exit_on_signal(on_failure.close):
        return _start_and_serve(engine_config, server_config, on_failure)


def _start_and_serve(engine_config: "EngineConfig", server_config: "ServerConfig", on_failure: "ExitStack") -> int:
    """Start and serve. The port is bound at once, but clients cannot connect until everything is ready.

    on_failure: what is to be undone if the start fails.
    """
    import asyncio
    import dataclasses
    import threading
    from importlib import import_module

    from server.startup import (
        KEY_LINE,
        StartupProgress,
        describe_reach,
        format_address,
        make_console,
        make_curl_command,
        make_ready_table,
    )

    console = make_console()
    with on_failure, StartupProgress(console) as phases:
        phases.report("import", 0, 0)
        from jaxserve import check_config
        from server.api_keys import add_file_keys
        from server.listen import close_listeners, listen
        from server.startup_checks import check_server

        check_server(server_config)
        server_config = add_file_keys(server_config)
        check_config(engine_config)
        listeners = listen(server_config)
        on_failure.callback(close_listeners, listeners)
        if not server_config.uds:  # port 0 has become a real one
            server_config = dataclasses.replace(server_config, port=listeners[0].getsockname()[1])
        from jaxserve import AsyncLLM

        # The web framework is imported while the engine loads, which runs little Python code.
        web = threading.Thread(target=import_module, args=("server.lifecycle",), daemon=True)
        web.start()
        llm = AsyncLLM.load(engine_config, progress=phases.report)
        web.join()
        from server import lifecycle
        from server.app import create_app

        app = create_app(llm, server_config)
        on_failure.pop_all()
    address = format_address(server_config)
    reach = describe_reach(server_config, [str(listener.getsockname()[0]) for listener in listeners])
    console.print("", make_ready_table(llm.description, address, reach, phases.seconds), "", sep="\n")
    if server_config.api_key:
        console.print(KEY_LINE)
    curl_command = make_curl_command(address, bool(server_config.api_key), server_config.uds)
    console.print(curl_command, "", sep="\n", soft_wrap=True)
    return asyncio.run(lifecycle.serve(app, server_config, listeners))


def _warmup(engine_config: "EngineConfig", server_config: "ServerConfig") -> int:
    import asyncio

    from server.startup import StartupProgress, make_console

    console = make_console()
    with StartupProgress(console) as phases:
        phases.report("import", 0, 0)
        from jaxserve import AsyncLLM

        llm = AsyncLLM.load(engine_config, progress=phases.report)
        asyncio.run(llm.close())
    console.print(f"Warm in {phases.seconds:.1f} s: {llm.description['programs']}", soft_wrap=True)
    return 0


def chat(words: Sequence[str]) -> int:
    """Run `jaxserve chat`: talk to a running server, and return the exit code."""
    from server.chat.command import chat

    return chat(words, next(iter(_read_api_keys()), None))


def _make_lazy_command(module: str, name: str) -> Callable[[Sequence[str]], int]:
    """Make a command of another module, which is imported when it is called. Errors of the start become exit codes."""

    def command(words: Sequence[str]) -> int:
        """Import the command and run it."""
        from jaxserve import EngineStopped, StartupError

        try:
            return getattr(import_module(module), name)(words)
        except (StartupError, EngineStopped) as error:
            print(f"jaxserve: {error}", file=sys.stderr)
            return EX_SOFTWARE if isinstance(error, EngineStopped) else EX_CONFIG
        except KeyboardInterrupt:
            return INTERRUPTED

    return command


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "run": _make_lazy_command("server.chat.command", "run"),
    "serve": serve,
    "chat": chat,
    "pull": _make_lazy_command("server.maintenance", "pull"),
    "convert": _make_lazy_command("server.conversion", "convert"),
    "build": _make_lazy_command("server.build_command", "build"),
    "list": _make_lazy_command("server.maintenance", "list_cached"),
    "rm": _make_lazy_command("server.maintenance", "remove"),
    "warmup": warmup,
    "doctor": _make_lazy_command("server.maintenance", "doctor"),
}


def _make_serve_parser(command: str = "serve") -> "CommandParser":
    from jaxserve import EngineConfig
    from server.config import ServerConfig
    from server.flags import CommandParser, add_flags

    parser = CommandParser(f"jaxserve {command}", "[MODEL] [FLAGS]")
    parser.add_argument(
        "model",
        nargs="?",
        default=argparse.SUPPRESS,
        metavar="MODEL",
        help="a directory in Hugging Face layout, a .gguf file, or a hub id; nothing: SmolLM2-135M-Instruct",
    )
    parser.add_argument("--model", dest="model", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    parser.add_argument(
        "--config",
        default=argparse.SUPPRESS,
        metavar="FILE",
        help="a YAML file with the same names as keys; JAXSERVE_… variables win over it, flags over both",
    )
    add_flags(parser, EngineConfig, ServerConfig, skip=("model",))
    return parser


def _read_api_keys() -> tuple[str, ...]:
    return tuple(os.environ[name] for name in KEY_VARIABLES if os.environ.get(name))[:1]
