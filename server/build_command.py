"""The command `jaxserve build`: the programs of a model, compiled for a machine that need not be at hand."""

import argparse
import dataclasses
import json
import os
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jaxserve import BUILD_FIELDS, EngineConfig
from server.environment import PREFIX
from server.flag_translator import FlagTranslator
from server.flags import CommandParser, add_flags, read_arguments, select_fields

if TYPE_CHECKING:
    from jaxserve import BuiltDirectory

DESCRIPTION = (
    "Compiles what serve with the same flags needs, for this machine or for TPUs and GPUs that are elsewhere, and"
    " writes it into a directory that serve --programs names. The compilers of absent devices are the packages of"
    " jaxserve[tpu] and jaxserve[cuda]; a program is found again by the same versions of jaxserve, JAX and compiler, on"
    " the same kind of device. For cpu that is this kind of processor, with the same features."
)
TARGETS_HELP = (
    "the machine: cpu (this one), v5e-1, v5e-4, v5e-8, v6e-1, v6e-4, v6e-8, v5p-8 (four chips), or h100, h200,"
    " b200, a100 or l4 with x1, x2, x4 or x8"
)


def build(words: Sequence[str]) -> int:
    """Run `jaxserve build`: write compiled programs into a directory, print its path, and return the exit code."""
    parser = _make_parser()
    words, directory = _split_directory(parser, words)
    environ = {name: os.environ[name] for name in _list_variables() if name in os.environ}
    values = read_arguments(parser, words, environ)
    from server.startup import StartupProgress, make_console

    console = make_console()
    with StartupProgress(console) as phases:
        phases.report("import", 0, 0)
        from jaxserve import build_programs

        config = EngineConfig(**select_fields(EngineConfig, values))
        built = build_programs(
            config,
            directory,
            target=values["target"],
            with_weights=values.get("weights", False),
            progress=phases.report,
        )
    size = f"{built.program_bytes / 1e6:.1f} MB in {phases.seconds:.1f} s"
    console.print(f"{built.num_programs} programs for {values['target']}, {size}", soft_wrap=True)
    console.print(f"digest {built.digest}", soft_wrap=True)
    console.print(_make_command(config, built), soft_wrap=True)
    print(built.path)
    return 0


def _split_directory(parser: CommandParser, words: Sequence[str]) -> tuple[list[str], str]:
    """Return the command line without DIR, the second of the words that belong to no flag, and DIR."""
    translator = FlagTranslator.from_parser(parser)
    command = translator.parse(words)
    if any(flag.name == "help" for flag in command.flags):
        parser.parse_args(["--help"])
    for flag in command.flags:
        translator.translate(flag)
    if translator.refusals:  # a flag of serve alone would leave its value as a third word
        parser.error(translator.refusals[0])
    if len(command.positionals) != 2:
        parser.error(f"MODEL and DIR are two words, and there are {len(command.positionals)}")
    model, directory = command.positionals
    others = ([*words[:index], *words[index + 1 :]] for index, word in enumerate(words) if word == directory)
    return next(rest for rest in others if translator.parse(rest).positionals == (model,)), directory


def _make_command(config: EngineConfig, built: "BuiltDirectory") -> str:
    """Return the command that serves what was built."""
    model = config.model if built.model is None else str(built.model)
    words = ["jaxserve", "serve", model, "--programs", str(built.path)]
    for field in dataclasses.fields(EngineConfig):
        value = getattr(config, field.name)
        is_of_source = field.name in ("model", "hf_token") or (built.model is not None and field.name == "revision")
        if field.name not in BUILD_FIELDS or is_of_source or value == field.default:
            continue
        flag = field.name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", json.dumps(value) if isinstance(value, dict) else str(value)]
    return shlex.join(words)


def _list_variables() -> list[str]:
    return [PREFIX + name.upper() for name in BUILD_FIELDS]


def _make_parser() -> CommandParser:
    parser = CommandParser("jaxserve build", "--target MACHINE MODEL DIR [FLAGS]", DESCRIPTION)
    parser.add_argument(
        "model", nargs="?", default=argparse.SUPPRESS, metavar="MODEL", help="a directory, a .gguf file, or a hub id"
    )
    parser.add_argument("--target", required=True, metavar="MACHINE", help=TARGETS_HELP)
    parser.add_argument(
        "--weights", action="store_true", help="write the model, too, as convert does, so that it loads at once"
    )
    skip = [field.name for field in dataclasses.fields(EngineConfig) if field.name not in BUILD_FIELDS]
    add_flags(parser, EngineConfig, skip=("model", *skip))
    return parser
