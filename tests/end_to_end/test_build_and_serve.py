"""`jaxserve build` in one process, `jaxserve serve --programs` in another: a server that compiles nothing."""

import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.end_to_end.running_server import RunningServer

FLAGS = ("--max-model-len", "64", "--max-num-seqs", "1", "--max-num-batched-tokens", "16")


@pytest.fixture(scope="module")
def built(tiny_model, tmp_path_factory):
    """Builds with weights; returns the command that was printed, and the digest."""
    directory = tmp_path_factory.mktemp("built") / "tiny"
    command = [sys.executable, "-m", "server", "build", "--target", "cpu", str(tiny_model), str(directory)]
    done = subprocess.run([*command, "--weights", *FLAGS], capture_output=True, text=True, timeout=300, umask=0o077)
    assert (done.returncode, done.stdout) == (0, f"{directory}\n"), done.stderr
    *_, digest, serve = done.stderr.splitlines()
    return serve.split(), digest.split()[-1]


def test_all_may_read_what_was_built_and_nobody_else_write_it(built):
    directory = Path(built[0][4])
    modes = {path: path.stat().st_mode & 0o777 for path in (directory, *directory.rglob("*"))}
    assert {directory / "model" / "config.json", directory / "programs"} < modes.keys()
    assert modes == {path: 0o755 if path.is_dir() else 0o644 for path in modes}


def test_a_server_with_built_programs_compiles_nothing_and_answers(built):
    (*start, model, first, directory), digest = built[0][: 3 + 2], built[1]
    assert (start, first) == (["jaxserve", "serve"], "--programs")
    words = ["--programs", directory, "--programs-sha256", digest, "--compilation-cache-dir", "none", *built[0][5:]]
    words.append("--no-roofline")  # which compiles what it measures, once on every machine
    with RunningServer(model, *words) as server:
        metrics = httpx.get(server.url + "/metrics", timeout=60).text.splitlines()
        counts = {
            name: sum(float(line.split()[-1]) for line in metrics if line.startswith(f"jaxserve_{name}"))
            for name in ("compilations_total", "compilation_cache_hits_total")
        }
        reply = httpx.post(server.url + "/v1/completions", json={"prompt": "One", "max_tokens": 4}, timeout=60)
        again = httpx.get(server.url + "/metrics", timeout=60).text.splitlines()
    assert counts["compilations_total"] == 0 and counts["compilation_cache_hits_total"] > 10
    assert [line for line in again if line.startswith("jaxserve_compilations_total")] == [
        line for line in metrics if line.startswith("jaxserve_compilations_total")
    ]
    assert reply.json()["usage"]["completion_tokens"] == 4
    assert any("built in" in line and ", 0 compiled" in line for line in server.started)
