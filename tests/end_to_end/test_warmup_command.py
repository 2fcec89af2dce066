"""`jaxserve warmup` fills the cache that a later start with the same flags reads."""

import re
from pathlib import Path

import pytest

from server import cli

SMALLEST = ("--max-model-len", "64", "--max-num-seqs", "1", "--max-num-batched-tokens", "16")


def test_what_was_warmed_up_once_is_all_found_again(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["warmup", str(tiny_model), *SMALLEST, "--compilation-cache-dir", str(tmp_path / "programs")]
    assert cli.main(words) == 0
    first = capsys.readouterr().err.splitlines()[-1]
    assert cli.main(words) == 0
    second = capsys.readouterr().err.splitlines()[-1]
    compiled = re.match(r"Warm in .* s: (\d+) compiled, 0 of them from the cache", first)
    assert compiled is not None and int(compiled[1]) > 0
    assert f"{compiled[1]} compiled, {compiled[1]} of them from the cache" in second


def test_a_model_that_is_not_there_is_one_sentence_and_78(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["warmup", str(tmp_path / "nothing")]) == cli.EX_CONFIG
    assert capsys.readouterr().err.splitlines()[-1].startswith("jaxserve: ")
