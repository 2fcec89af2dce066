"""The programs of scripts/: what the shell ones promise, and the arithmetic and manners of the benchmarks."""

import importlib
import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.fake_openai import FakeOpenAI

SCRIPTS = Path(__file__).parent.parent / "scripts"


@pytest.fixture(scope="module")
def results() -> ModuleType:
    return importlib.import_module("scripts.benchmarks.results")


def bench(url: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPTS / "bench"), "serving", "--url", url, "--json", "-", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with nothing in it but the scripts, and a stand-in for Python whose pip does what `pip` says."""
    for name in ("serve", "test", "prepare_venv.sh"):
        (tmp_path / "scripts").mkdir(exist_ok=True)
        shutil.copy(SCRIPTS / name, tmp_path / "scripts" / name)
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    for name in ("python3.11", "python3.12", "python3.13", "python3", "python"):
        python = tmp_path / "bin" / name
        python.parent.mkdir(exist_ok=True)
        python.write_text(FAKE_PYTHON.format(real=sys.executable))
        python.chmod(0o755)
    return tmp_path


FAKE_PYTHON = """#!/bin/bash
root=$(cd "$(dirname "$0")/.." && pwd)
case "$*" in
  *sys.version_info*) [ ! -e "$root/old" ] ;;
  *ensurepip*) [ ! -e "$root/no-venv" ] ;;
  *"import pip"*) exit 0 ;;
  "-m venv .venv") echo venv >> calls; mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
  *"-m pip install"*)
    echo "pip $*" >> calls
    [ -e pip-says ] && cat pip-says && exit 1
    printf '#!/bin/bash\\necho "served $*"\\n' > .venv/bin/jaxserve; chmod +x .venv/bin/jaxserve ;;
  -) exec {real} - ;;
  *) echo Python 3.11.0 ;;
esac
"""


def serve(checkout: Path, *words: str) -> subprocess.CompletedProcess[str]:
    path = f"{checkout / 'bin'}{os.pathsep}{os.environ['PATH']}"
    command = [str(checkout / "scripts" / "serve"), *words]
    return subprocess.run(
        command, cwd=checkout, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=60
    )


def calls(checkout: Path) -> list[str]:
    return [line.split()[0] for line in (checkout / "calls").read_text().splitlines()]


def test_serve_installs_once_and_again_when_the_project_changed(checkout: Path) -> None:
    first = serve(checkout, "some/model", "--port", "1")
    assert (first.returncode, first.stdout) == (0, "served serve some/model --port 1\n")
    assert "installing" in first.stderr
    again = serve(checkout)
    assert (again.stdout, again.stderr) == ("served serve\n", "")
    assert calls(checkout) == ["venv", "pip"]
    (checkout / "pyproject.toml").write_text("[project]\nname = 'other'\n")
    serve(checkout)
    assert calls(checkout) == ["venv", "pip", "pip"]


def test_a_failed_install_is_tried_again(checkout: Path) -> None:
    (checkout / "pip-says").write_text("ERROR: something unheard of\n")
    failed = serve(checkout)
    assert failed.returncode == 1
    assert "something unheard of" in failed.stderr
    (checkout / "pip-says").unlink()
    assert serve(checkout).stdout == "served serve\n"


@pytest.mark.parametrize(
    ("flag", "said", "sentence"),
    [
        ("old", "", "no Python 3.11, 3.12 or 3.13 on the PATH"),
        ("no-venv", "", "apt-get install python3.11-venv"),
        ("pip-says", "Temporary failure in name resolution\n", "pip reaches no package index"),
        ("pip-says", "OSError: [Errno 28] No space left on device\n", "the disk is full"),
    ],
)
def test_what_is_in_the_way_is_said_in_a_sentence(checkout: Path, flag: str, said: str, sentence: str) -> None:
    (checkout / flag).write_text(said)
    ended = serve(checkout)
    assert ended.returncode == 1
    assert sentence in ended.stderr.splitlines()[-1]


def test_the_shell_scripts_parse_and_ci_runs_the_tests_and_nothing_else() -> None:
    for name in ("serve", "test", "prepare_venv.sh", "prepare_compilers.sh"):
        assert subprocess.run(["bash", "-n", str(SCRIPTS / name)]).returncode == 0
    lines = (SCRIPTS.parent / ".ci" / "run").read_text().splitlines()
    assert lines == ["#!/usr/bin/env bash", 'exec "$(dirname "$0")/../scripts/test"']


@pytest.mark.parametrize(
    ("stub", "sentence"),
    [
        ('df() { printf "head\\nfs 1 1 1000000 1 /\\n"; }', "less than 3 GB are free here"),
        ("uname() { echo Darwin arm64; }", "there is no compiler for tpu on Darwin arm64"),
    ],
)
def test_a_machine_without_room_for_a_compiler_skips_it_and_says_so(tmp_path: Path, stub: str, sentence: str) -> None:
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    script = f"""
      set -euo pipefail
      say() {{ echo "$*"; }}
      {stub}
      source {SCRIPTS / "prepare_compilers.sh"}
      if prepare_compiler tpu; then echo installed; fi
    """
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert sentence in done.stdout and "installed" not in done.stdout
    assert not (tmp_path / ".venv-tpu").exists()


def test_the_compiler_for_gpus_is_the_one_that_sizes_are_recorded_of(tmp_path: Path) -> None:
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    script = f"source {SCRIPTS / 'prepare_compilers.sh'}; list_compiler_packages cuda"
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    recorded = json.loads((SCRIPTS / "device_checks" / "compiled.json").read_text())["versions"]["gpu"]
    pinned = [f"{name}=={recorded[name]}" for name in ("nvidia-cuda-nvcc", "nvidia-nvvm")]
    assert done.stdout.split()[2:] == [*pinned, "nvidia-cuda-nvdisasm"], done.stderr


def test_tokens_of_one_chunk_share_the_gap(results: ModuleType) -> None:
    arrivals = results.Arrivals(asked=0.0)
    arrivals.add(1.0, 1)
    arrivals.add(4.0, 3)
    timeline = results.Timeline(5, 0.0, tuple(arrivals.came))
    assert timeline.came == (1.0, 2.0, 3.0, 4.0)
    assert (timeline.ttft_s, timeline.tpot_s, timeline.e2el_s) == (1.0, 1.0, 4.0)


def test_a_summary_has_the_keys_of_vllm_and_leaves_failures_out(results: ModuleType) -> None:
    timelines = [results.Timeline(10, 0.0, (1.0, 1.5, 2.0)), results.Timeline(10, 0.0, (), "gone")]
    summed = results.summary(timelines, 2.0, max_concurrency=1)
    assert (summed["completed"], summed["failed"]) == (1, 1)
    assert (summed["total_input_tokens"], summed["total_output_tokens"]) == (10, 3)
    assert (summed["request_throughput"], summed["output_throughput"]) == (0.5, 1.5)
    assert (summed["median_ttft_ms"], summed["p99_tpot_ms"], summed["mean_itl_ms"]) == (1000, 500, 500)
    assert results.table([summed]).splitlines()[1].split()[:2] == ["1", "1"]


def test_percentiles_are_numpys(results: ModuleType) -> None:
    import numpy as np

    values = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0]
    for share in (0, 25, 50, 90, 99, 100):
        assert results.percentile(values, share) == pytest.approx(np.percentile(values, share))


def test_the_load_is_as_long_as_asked_for() -> None:
    with FakeOpenAI(*["word "] * 5) as server:
        ended = bench(
            server.url, "--concurrency", "1", "3", "--num-prompts", "6", "--input-len", "9", "--output-len", "5"
        )
    assert ended.returncode == 0, ended.stderr
    first, second = json.loads(ended.stdout)
    assert (first["max_concurrency"], second["max_concurrency"]) == (1, 3)
    assert (second["completed"], second["total_output_tokens"], second["total_input_tokens"]) == (6, 30, 54)
    timed = [chat for chat in server.chats if chat.get("stream")]
    assert len(timed) == (6 + 1) + (6 + 3)
    assert all(chat["ignore_eos"] and chat["temperature"] == 0 and chat["max_tokens"] == 5 for chat in timed)
    assert len({chat["messages"][0]["content"] for chat in timed}) == len(timed)


def test_answers_that_are_too_short_count_as_failed() -> None:
    with FakeOpenAI("one ", "two ") as server:
        ended = bench(server.url, "--concurrency", "1", "--num-prompts", "1", "--input-len", "9", "--output-len", "5")
    assert ended.returncode == 1
    assert "2 tokens came instead of 5" in ended.stderr


def test_without_a_server_the_benchmark_says_so() -> None:
    ended = bench("http://127.0.0.1:9")
    assert (ended.returncode, "no server answers" in ended.stderr) == (1, True)


def check_kinds(word: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPTS / "check_kinds"), "--only", word]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_kinds_of_faults_are_a_row_each_and_an_exit_code() -> None:
    ended = check_kinds("16 rope")
    assert (ended.returncode, ended.stdout.split("\n")[1:]) == (0, ["", "1 tried, 0 wrong", ""])
    assert ended.stdout.split("\n")[0].endswith(" ok")
    assert check_kinds("no such kind").returncode == 1


def test_a_kind_that_is_wrong_is_told_with_what_came(capsys: pytest.CaptureFixture[str]) -> None:
    tried = runpy.run_path(str(SCRIPTS / "check_kinds"))["tried"]
    assert not tried("01 root $ref", "a forced call", lambda: (False, "{}\n"))
    assert not tried("01 root $ref", "a forced call", lambda: {}["choices"])
    said = capsys.readouterr().out.splitlines()
    assert [line.split("WRONG: ")[1] for line in said] == ["{}", "KeyError: 'choices'"]


def test_the_readmes_table_of_fields_is_current() -> None:
    """Mended by `scripts/field_table --write`."""
    table = subprocess.run([sys.executable, str(SCRIPTS / "field_table")], capture_output=True, text=True, timeout=120)
    assert table.stdout.startswith("| purpose | fields |\n")
    assert table.stdout in (SCRIPTS.parent / "README.md").read_text(encoding="utf-8")


def test_every_field_of_a_request_is_listed_with_its_test() -> None:
    """Mended by `scripts/field_table --write`."""
    script = runpy.run_path(str(SCRIPTS / "field_table"))
    assert script["FIELDS"].read_text(encoding="utf-8") == script["every_field"]()
