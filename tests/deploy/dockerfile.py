"""Reads the Dockerfile: its stages, and what each of them has of those that it is made from."""

import re
import shlex
from dataclasses import dataclass

from tests.sources import REPO

DEPLOY = REPO / "scripts" / "deploy"
TARGETS = ("cpu", "cuda", "tpu")


@dataclass(frozen=True)
class Instruction:
    """One instruction of a Dockerfile. stage: the name of the stage that it belongs to."""

    stage: str
    name: str
    text: str


def read_dockerfile() -> list[Instruction]:
    lines = [line for line in (DEPLOY / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    text = "\n".join(lines).replace("\\\n", " ")
    instructions, stage = [], ""
    for line in filter(str.strip, text.splitlines()):
        name, _, rest = line.strip().partition(" ")
        if name == "FROM":
            stage = rest.partition(" AS ")[2]
        instructions.append(Instruction(stage, name, " ".join(rest.split())))
    return instructions


DOCKERFILE = read_dockerfile()
PARENTS = {part.stage: part.text.partition(" AS ")[0] for part in DOCKERFILE if part.name == "FROM"}


def list_instructions(target: str, name: str) -> list[str]:
    """Return the texts of an instruction in a stage and in those that it is made from, in Docker's order."""
    above = list_instructions(PARENTS[target], name) if target in PARENTS else []
    return above + [part.text for part in DOCKERFILE if part.stage == target and part.name == name]


def read_environment(target: str) -> dict[str, str]:
    defaults = dict(word.partition("=")[::2] for word in list_instructions(target, "ARG"))
    values: dict[str, str] = {}
    for text in list_instructions(target, "ENV"):
        for word in shlex.split(text):
            name, _, value = word.partition("=")
            values[name] = re.sub(r"\$\{(\w+)\}", lambda match: defaults[match[1]], value)
    return values
