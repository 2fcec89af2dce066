"""`jaxserve convert`: what it prints, and its exit codes."""

from pathlib import Path

import pytest

from server import cli
from tests.models.tiny import write


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("convert") / "model", "llama", seed=3)


def test_it_ends_with_the_path_and_the_next_command(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "with space"
    assert cli.main(["convert", str(source), str(target), "--quantization", "int8"]) == 0
    shown = capsys.readouterr()
    assert shown.out == f"{target}\n"
    *_, weights, command = shown.err.splitlines()
    assert weights == "0.1 MB of weights as orbax, 22 matrices packed"
    assert command == f"jaxserve serve '{target}'"
    assert "WARNING" not in shown.err


def test_what_cannot_be_written_is_one_sentence_and_78(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["convert", str(source), str(source)]) == cli.EX_CONFIG
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == f"jaxserve: {source} is there and not an empty directory; name another one, or delete it first."


def test_a_damaged_directory_is_one_sentence_and_78(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "to"
    assert cli.main(["convert", str(source), str(target)]) == 0
    again = ["convert", str(target), str(tmp_path / "again")]
    for folder, words in (("ocdbt.process_0/d", again), ("d", ["serve", str(target), "--port", "0"])):
        for file in (target / "weights" / folder).iterdir():
            file.write_bytes(file.read_bytes()[:100])
        assert cli.main(words) == cli.EX_CONFIG
        said = capsys.readouterr().err.splitlines()[-1]
        assert "cannot be read" in said and str(target) in said
    assert not (tmp_path / "again").exists()
