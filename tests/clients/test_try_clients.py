"""scripts/try_clients without the clients: its table, what it makes of their programs, and when it installs."""

import json
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from tests.fake_openai import FakeOpenAI
from tests.models.tiny import write

SCRIPTS = Path(__file__).parents[2] / "scripts"
MODULES = ("table", "environment", "run", "reference")
LINE = '{"tried": "a chat", "ok": %s, "said": "%s"}'


@pytest.fixture(scope="module")
def clients() -> dict[str, ModuleType]:
    return {name: import_module(f"tests.clients.{name}") for name in MODULES}


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def try_clients(*words: str, path: str = os.environ["PATH"]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPTS / "try_clients"), *words]
    return subprocess.run(command, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=120)


def test_every_client_is_pinned_and_has_its_program(clients: dict[str, ModuleType]) -> None:
    table = clients["table"]
    for client in table.CLIENTS:
        pin = r"(@[\w-]+/)?[\w-]+@\d[\w.]+" if client.is_node else r"[\w-]+(\[\w+\])?==\d[\w.]+"
        assert all(re.fullmatch(pin, requirement) for requirement in client.requirements), client
    assert len({(client.name, client.requirements) for client in table.CLIENTS}) == len(
        {client.name for client in table.CLIENTS}
    )
    assert {client.program for client in table.CLIENTS} == {file.name for file in table.PROGRAMS.glob("with_*")}


def test_titles_name_the_package_and_its_version(clients: dict[str, ModuleType]) -> None:
    client = clients["table"].Client
    assert client("lm", ("lm-eval[api]==0.4.13", "b==1"), "with_lm.py").title == "lm-eval 0.4.13 (Python)"
    assert client("sdk", ("@ai/sdk@3.0.92",), "with_sdk.mjs").title == "@ai/sdk 3.0.92 (Node)"


@pytest.mark.parametrize(
    ("program", "tried", "said"),
    [
        (f"print('hello'); print('[]'); print('''{LINE % ('true', 'fine')}''')", [("a chat", True)], "fine"),
        (f"print('''{LINE % ('false', 'no')}''')", [("a chat", False)], "no"),
        (f"print('''{LINE % ('true', '')}'''); exit(3)", [("a chat", True), ("the program", False)], "ended with 3"),
        ("print('hello')", [("the program", False)], "told of nothing"),
    ],
)
def test_what_a_program_tells_and_how_it_ends(
    clients: dict[str, ModuleType], tmp_path: Path, program: str, tried: list[tuple[str, bool]], said: str
) -> None:
    trials = list(clients["run"].run("client", [sys.executable, "-c", program], tmp_path / "logs" / "log"))
    assert [(one.tried, one.ok) for one in trials] == tried
    assert trials[-1].said.startswith(said)


def test_a_program_that_does_not_end_is_ended(
    clients: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients["run"], "WITHIN_S", 1)
    program = "import threading; print('x', flush=True); threading.Event().wait()"
    (trial,) = clients["run"].run("client", [sys.executable, "-c", program], tmp_path / "log")
    assert (trial.ok, "took longer than 1 s" in trial.said) == (False, True)


def test_the_table_shows_failures_in_one_line_each(clients: dict[str, ModuleType]) -> None:
    trial = clients["run"].Trial
    lines = clients["run"].table([trial("a", "chat", True), trial("bc", "n", False, "x|\n" + "y" * 500)]).splitlines()
    assert lines[2].split() == ["|", "a", "|", "chat", "|", "ok", "|", "|"]
    assert lines[3].startswith("| bc     | n     | FAILED | x\\| yyy") and lines[3].endswith("y… |")
    assert len({len(line) for line in lines[:4]}) == 1
    assert lines[-1] == "1 of 2 ok"


@pytest.mark.parametrize(("ok", "code"), [("true", 0), ("false", 1)])
def test_the_exit_code_says_whether_all_went_well(
    clients: dict[str, ModuleType], tmp_path: Path, ok: str, code: int
) -> None:
    (client, *_) = [one for one in clients["table"].CLIENTS if one.name == "openai"]
    script(tmp_path / "openai" / "bin" / "python", f"""echo '{LINE % (ok, "'$2 $3'")}'""")
    (tmp_path / "openai" / clients["environment"].STAMP).write_text("\n".join(client.requirements) + "\n")
    with FakeOpenAI("word") as server:
        ended = try_clients("--url", server.url + "/", "--only", "openai", "--cache", str(tmp_path))
    assert ended.returncode == code, ended.stderr
    assert f"| {server.url} " in ended.stdout and f"{client.title} | a chat" in ended.stdout


def test_a_client_that_cannot_be_installed_is_a_failure(tmp_path: Path) -> None:
    ended = try_clients("--only", "vercel", "--cache", str(tmp_path / "cache"), path=str(tmp_path))
    assert ended.returncode == 1
    assert "| its environment | FAILED | there is no npm on the PATH" in ended.stdout


def test_an_environment_is_made_once_and_again_when_a_pin_changed(
    clients: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment, client = clients["environment"], clients["table"].Client
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    npm = script(tmp_path / "bin" / "npm", f'cat "$3/package.json" >> {tmp_path}/calls; echo >> {tmp_path}/calls')
    node = script(tmp_path / "bin" / "node", "")
    for version in ("1.0.0", "1.0.0", "2.0.0"):
        command = environment.prepared(client("sdk", (f"@ai/sdk@{version}",), "with_openai.mjs"), tmp_path / "cache")
    assert command == (str(node), str(tmp_path / "cache" / "sdk" / "with_openai.mjs"))
    assert Path(command[1]).exists() and (Path(command[1]).parent / "checks.mjs").exists()
    assert re.findall(r'"@ai/sdk": "(.*?)"', (tmp_path / "calls").read_text()) == ["1.0.0", "2.0.0"]
    script(npm, "echo not found >&2; exit 1")
    for _ in range(2):
        with pytest.raises(environment.Unusable, match="not found"):
            environment.prepared(client("sdk", ("@ai/sdk@3.0.0",), "with_openai.mjs"), tmp_path / "cache")


def test_the_texts_are_short_different_and_cut_before_a_space(clients: dict[str, ModuleType]) -> None:
    reference = clients["reference"]
    pairs = reference.texts(reference.NUM_TEXTS)
    assert len(set(pairs)) == reference.NUM_TEXTS
    for context, continuation in pairs:
        assert continuation.startswith(" ")
        assert (context, continuation) in reference.LISTS or len((context + continuation).split()) in reference.WORDS


def test_the_reference_holds_a_model_and_what_transformers_says_of_texts(
    clients: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, scored = write(tmp_path / "m", "llama"), []

    def score(directory: Path, pairs: list[tuple[str, str]]) -> list[tuple[float, bool]]:
        scored.append(directory)
        return [(-1.5, True)] * len(pairs)

    monkeypatch.setattr(clients["reference"], "scores", score)
    home, _ = (clients["reference"].write_reference(str(source), tmp_path / "cache") for _ in range(2))
    assert (home / "model").resolve() == scored[0].resolve() == scored[1].resolve()
    assert (home / "model" / "tokenizer.json").exists() and (home / "model" / "model.safetensors").exists()
    lines = [json.loads(line) for line in (home / "texts.jsonl").read_text().splitlines()]
    assert len(lines) == clients["reference"].NUM_TEXTS and lines[0]["loglikelihood"] == -1.5
