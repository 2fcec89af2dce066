"""Makes the environment of a client on first use: a virtual environment, or an npm project.

A stamp, written last, holds the requirements; another one, or none, means: make it anew.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

from tests.clients.table import PROGRAMS, Client

STAMP = "requirements.txt"


class Unusable(Exception):
    """The client cannot be tried; the message is a sentence."""


def prepared(client: Client, cache: Path) -> tuple[str, ...]:
    """The command that runs the client's program; its environment lies in `cache` / name."""
    home, wanted = cache / client.name, "\n".join(client.requirements) + "\n"
    stamp = home / STAMP
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
        print(f"try_clients: installing {', '.join(client.requirements)} …", file=sys.stderr)
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        (_make_project if client.is_node else _make_venv)(client, home)
        stamp.write_text(wanted, encoding="utf-8")
    if not client.is_node:
        return str(home / "bin" / "python"), str(PROGRAMS / client.program)
    for file in PROGRAMS.glob("*.mjs"):  # Node looks for packages from where the program lies
        shutil.copy(file, home)
    return _found("node"), str(home / client.program)


def _make_venv(client: Client, home: Path) -> None:
    _run(sys.executable, "-m", "venv", home)
    _run(home / "bin" / "python", "-m", "pip", "install", "--disable-pip-version-check", *client.requirements)


def _make_project(client: Client, home: Path) -> None:
    pins = dict(requirement.rsplit("@", 1) for requirement in client.requirements)
    (home / "package.json").write_text(json.dumps({"private": True, "dependencies": pins}), encoding="utf-8")
    _run(_found("npm"), "install", "--prefix", home, "--no-audit", "--no-fund")


def _found(program: str) -> str:
    if (path := shutil.which(program)) is None:
        raise Unusable(f"there is no {program} on the PATH; install Node.js 20 or newer")
    return path


def _run(*words: str | Path) -> None:
    try:
        subprocess.run(list(map(str, words)), check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        last = [line for line in (error.stderr + error.stdout).splitlines() if line.strip()][-1:]
        raise Unusable(f"{' '.join(error.cmd[:4])} … failed: {' '.join(last)}") from error
