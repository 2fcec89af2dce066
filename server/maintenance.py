"""The commands `jaxserve pull`, `list`, `rm` and `doctor`: models in the cache, and the state of this machine."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from server.flags import CommandParser

if TYPE_CHECKING:
    from jaxserve import Finding

FILE_WIDTH = 200  # columns, when the output is not a terminal
MARKS = {"ok": "[green]ok[/]", "warning": "[yellow]warning[/]", "wrong": "[red]wrong[/]"}


def pull(words: Sequence[str]) -> int:
    """Run `jaxserve pull`: download a model into the cache, print its path, and return the exit code."""
    parser = CommandParser("jaxserve pull", "MODEL [FLAGS]", "Fetches a model, so that a start needs no network.")
    parser.add_argument("model", metavar="MODEL", help="org/name, org/name-GGUF:Q4_K_M, or org/name/file.gguf")
    parser.add_argument("--revision", metavar="TEXT", help="branch, tag or commit")
    parser.add_argument("--hf-token", metavar="TEXT", help="token for the hub; default: HF_TOKEN, or its own login's")
    _add_download_dir(parser)
    arguments = parser.parse_args(words)
    from jaxserve import pull_model
    from server.startup import StartupProgress, make_console

    with StartupProgress(make_console()) as phases:
        path = pull_model(
            arguments.model,
            revision=arguments.revision,
            download_dir=arguments.download_dir,
            token=arguments.hf_token,
            progress=phases.report,
        )
    print(path)
    return 0


def list_cached(words: Sequence[str]) -> int:
    """Run `jaxserve list`: print names, sizes and dates of what is cached, and return the exit code."""
    parser = CommandParser("jaxserve list", "[FLAGS]", "Models and compiled programs that are kept on this machine.")
    _add_download_dir(parser)
    arguments = parser.parse_args(words)
    from rich.console import Console
    from rich.table import Table

    from jaxserve import list_cache

    entries = list_cache(arguments.download_dir)
    if not entries:
        print("Nothing is kept yet; jaxserve pull fetches a model.")
        return 0
    table = Table("name", "size", "changed", "where", box=None, padding=(0, 2, 0, 0), header_style="dim")
    for entry in entries:
        date = time.strftime("%Y-%m-%d", time.localtime(entry.modified_s))
        name = "\n".join([entry.name, *(f"  {file}" for file in entry.files)])
        table.add_row(name, f"{entry.num_bytes / 1e6:.0f} MB", date, _abbreviate_home(entry.path))
    width = None if sys.stdout.isatty() else FILE_WIDTH
    Console(highlight=False, markup=False, width=width).print(table)
    return 0


def remove(words: Sequence[str]) -> int:
    """Run `jaxserve rm`: delete one entry of those that `list` shows; return the exit code, 1 if it was kept."""
    parser = CommandParser(
        "jaxserve rm", "NAME [FLAGS]", "Deletes a model, or the compiled programs, by the name in list."
    )
    parser.add_argument("name", metavar="NAME", help="as jaxserve list shows it; programs: all compiled programs")
    parser.add_argument("--yes", "-y", action="store_true", help="do not ask")
    _add_download_dir(parser)
    arguments = parser.parse_args(words)
    from jaxserve import list_cache, remove_from_cache

    size = sum(entry.num_bytes for entry in list_cache(arguments.download_dir) if entry.name == arguments.name)
    if size and not arguments.yes:
        if not sys.stdin.isatty():
            parser.error("nobody can be asked here; --yes deletes without")
        if input(f"Delete {arguments.name}, {size / 1e6:.0f} MB? [y/N] ").strip().lower() not in ("y", "yes"):
            print("kept")
            return 1
    remove_from_cache(arguments.name, arguments.download_dir)
    print(f"deleted {arguments.name}, {size / 1e6:.0f} MB")
    return 0


def doctor(words: Sequence[str]) -> int:
    """Run `jaxserve doctor`: check this machine, and return the exit code, 1 if something is wrong."""
    parser = CommandParser(
        "jaxserve doctor", "[FLAGS]", "Looks at this machine as a server would use it; changes nothing."
    )
    parser.add_argument(
        "--host", default="localhost", metavar="TEXT", help="address to listen on (default: %(default)s)"
    )
    parser.add_argument("--port", type=int, default=8000, metavar="N", help="port to listen on (default: %(default)s)")
    arguments = parser.parse_args(words)
    from rich.console import Console
    from rich.markup import escape

    from jaxserve import diagnose

    console = Console(highlight=False, soft_wrap=True)
    is_wrong = False
    for finding in [*diagnose(), _check_port(arguments.host, arguments.port)]:
        is_wrong |= finding.status == "wrong"
        advice = f"\n{'':21}[dim]{escape(finding.advice)}[/]" if finding.advice else ""
        mark = MARKS[finding.status] + " " * (9 - len(finding.status))
        console.print(f"{finding.name:<11} {mark}{escape(finding.text.replace(str(Path.home()), '~'))}{advice}")
    return int(is_wrong)


def _check_port(host: str, port: int) -> "Finding":
    """Check whether a server could listen there."""
    from jaxserve import Finding, StartupError
    from server.config import ServerConfig
    from server.listen import listen

    try:
        for listener in listen(ServerConfig(host=host, port=port)):
            listener.close()
    except StartupError as error:
        return Finding("port", "warning", str(error), "a server that runs there is fine; jaxserve chat talks to it")
    return Finding("port", "ok", f"{host} port {port} is free")


def _add_download_dir(parser: CommandParser) -> None:
    parser.add_argument("--download-dir", metavar="TEXT", help="where models are kept; default: the user's cache")


def _abbreviate_home(path: Path) -> str:
    return str(path).replace(str(Path.home()), "~")
