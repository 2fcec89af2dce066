"""Runs a client's program against a server, and makes a table of what the programs tell."""

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

WITHIN_S = 900
SAID_CHARS = 160
# Nobody shall ask the hub or look for settings of another server here.
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "PYTHONWARNINGS": "default", "NO_COLOR": "1"}
NOT_THEIRS = ("PYTHONPATH", "OPENAI_", "ANTHROPIC_", "CLAUDE", "CODEX_", "LITELLM_")  # beginnings of names


@dataclass(frozen=True, slots=True)
class Trial:
    """One thing that was tried with one client; `said` is a remark, or what went wrong."""

    client: str
    tried: str
    ok: bool
    said: str = ""


def run(title: str, command: Sequence[str], log: Path) -> Iterator[Trial]:
    """Run a program and yield the trials that it prints, a line of JSON each; stderr goes to `log`.

    A program that fails, prints nothing, or takes longer than WITHIN_S is a failed trial itself.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith(NOT_THEIRS)}
    num_told, problem = 0, ""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as errors:
        try:
            ended = subprocess.run(
                command,
                env=environment | ENVIRONMENT,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                timeout=WITHIN_S,
            )
            output, problem = ended.stdout, f"ended with {ended.returncode}" if ended.returncode else ""
        except subprocess.TimeoutExpired as error:
            output, problem = (error.stdout or b"").decode(), f"took longer than {WITHIN_S} s"
    for told in filter(None, map(_told, output.splitlines())):
        num_told += 1
        yield Trial(title, **told)
    if problem or not num_told:
        yield Trial(title, "the program", False, f"{problem or 'told of nothing'}; its words are in {log}")


def _told(line: str) -> dict | None:
    """What a line tells of one trial; clients print lines of their own, too."""
    try:
        told = json.loads(line)
    except ValueError:
        return None
    return told if isinstance(told, dict) and told.keys() == {"tried", "ok", "said"} else None


def table(trials: Sequence[Trial]) -> str:
    """client × what was tried × ok or what went wrong, in Markdown, and a line that counts."""
    rows = [("client", "tried", "", "said")]
    rows += [(one.client, one.tried, "ok" if one.ok else "FAILED", _short(one.said, one.ok)) for one in trials]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    num_failed = sum(not one.ok for one in trials)
    return "\n".join([*lines, "", f"{len(trials) - num_failed} of {len(trials)} ok"])


def _short(said: str, ok: bool) -> str:
    text, most = " ".join(said.split()).replace("|", "\\|"), SAID_CHARS // 2 if ok else SAID_CHARS
    return text if len(text) <= most else text[: most - 1] + "…"
