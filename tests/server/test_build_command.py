"""`jaxserve build`: what it takes, and that every fault is one sentence before anything is fetched or compiled."""

import re
from pathlib import Path

import pytest

from jaxserve import BUILD_FIELDS
from jaxserve.parallel.targets import TARGETS
from server import cli
from server.build_command import TARGETS_HELP


def fails(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    try:
        code = cli.main(["build", *words])
    except SystemExit as ended:
        code = int(str(ended.code))
    return code, capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--target", "v9-1", "m", "{new}"], cli.EX_CONFIG, "target='v9-1' is no machine that programs are built for"),
        (["--target", "cpu", "m", "{full}"], cli.EX_CONFIG, "is there and not an empty directory"),
        (["--target", "cpu", "m", "{file}"], cli.EX_CONFIG, "is there and not an empty directory"),
        (["--target", "cpu", "m", "{file}/in"], cli.EX_CONFIG, "Cannot write "),
        (["m", "{new}"], cli.EX_USAGE, "required: --target"),
        (["--target", "cpu", "m"], cli.EX_USAGE, "MODEL and DIR are two words, and there are 1"),
        (["--target", "cpu", "m", "{new}", "x"], cli.EX_USAGE, "MODEL and DIR are two words, and there are 3"),
        (["--target", "cpu", "m", "{new}", "--port", "1"], cli.EX_USAGE, "--port"),
        (["--target", "cpu", "m", "{new}", "--block-size", "3"], cli.EX_CONFIG, "block_size must be a power of two"),
        (["--target", "v6e-1", "m", "{new}", "--quantization", "blocks"], cli.EX_CONFIG, "has no products on a tpu"),
        (
            ["--target", "h200x1", "m", "{new}", "--weights", "--quantization", "blocks"],
            cli.EX_CONFIG,
            "int8 or fp8 or int4.",
        ),
        (["--target", "v6e-1", "m", "{new}", "--tensor-parallel-size", "4"], cli.EX_CONFIG, "at most 1"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    words: list[str], code: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    (tmp_path / "file").touch()
    places = {"new": tmp_path / "new", "full": tmp_path / "full", "file": tmp_path / "file"}
    ended, line = fails(capsys, *(word.format(**places) for word in words))
    assert ended == code and said in line, line
    assert not (tmp_path / "new").exists()


def test_help_lists_what_programs_depend_on_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["build", "--help"])
    shown = capsys.readouterr().out
    assert all(f"--{name.replace('_', '-')}" in shown for name in BUILD_FIELDS if name != "model")
    assert "--port" not in shown and "--seed" not in shown


def test_help_lists_the_machines_that_there_are() -> None:
    whole = re.findall(r"\bcpu\b|\bv\w+-\d+\b", TARGETS_HELP)
    gpus, numbers = re.findall(r"\b(?!x)[a-z]+\d+\b(?!-)", TARGETS_HELP), re.findall(r"\bx\d+\b", TARGETS_HELP)
    assert {*whole, *(gpu + number for gpu in gpus for number in numbers)} == set(TARGETS)


def test_a_directory_without_programs_is_one_sentence_of_serve(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["serve", "missing/model", "--programs", str(tmp_path)]) == cli.EX_CONFIG
    said = " ".join(capsys.readouterr().err.split())
    assert "holds no programs that can be read" in said and "jaxserve build" in said
