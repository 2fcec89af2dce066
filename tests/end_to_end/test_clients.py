"""Popular clients, each in an environment of its own, get correct replies: from the default model, and to a script."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import assets

SCRIPT = Path(__file__).parents[2] / "scripts" / "try_clients"
CLIENTS = ("openai", "instructor", "langchain", "pydantic-ai", "vercel")
WITH_TOOLS = ("anthropic-node", "openai-node", "langchain", "vercel")


@pytest.mark.assets
@pytest.mark.timeout(1200)  # their packages are installed the first time
def test_they_work() -> None:
    assets.model()
    try_clients("--only", *CLIENTS, "--servers", "model")


@pytest.mark.timeout(1200)
def test_loops_with_tools_come_to_their_end() -> None:
    try_clients("--only", *WITH_TOOLS, "--servers", "scripted")


def try_clients(*words: str) -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True, text=True)
    failed = [line for line in done.stdout.splitlines() if line.startswith("|") and "| ok |" not in line][2:]
    if any("its environment" in line for line in failed) and os.environ.get("CI", "").lower() not in ("1", "true"):
        pytest.skip("\n".join(failed))
    assert done.returncode == 0, "\n".join(failed) or done.stderr
