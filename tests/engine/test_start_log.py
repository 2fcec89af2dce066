"""What an engine logs at its start tells no user's name, and needs none."""

import pwd
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from jaxserve.attention.tpu import TpuAttention
from jaxserve.config import EngineConfig
from jaxserve.engine.description import abbreviate_home, describe_attention
from jaxserve.engine.program_plan import ProgramPlan


def test_paths_below_the_home_directory_begin_with_a_tilde(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "someone"))
    assert abbreviate_home(tmp_path / "someone" / "cache") == "~/cache"
    assert abbreviate_home(tmp_path / "cache") == str(tmp_path / "cache")


def test_a_user_without_a_home_directory_is_no_error(monkeypatch: pytest.MonkeyPatch):
    def refuse(_: int) -> None:
        raise KeyError("no such user")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", refuse)
    assert abbreviate_home(Path("/var/cache")) == "/var/cache"


@pytest.mark.parametrize(
    ("passed_over", "text"), [("", "tpu"), ("'mosaic' needs larger pages.", "tpu ('mosaic' needs larger pages)")]
)
def test_the_attention_backend_stands_there_with_the_reason_why_it_is_no_better_one(passed_over, text):
    size, table = SimpleNamespace(groups=[None]), SimpleNamespace(model=SimpleNamespace(backend=TpuAttention()))
    plan: Any = ProgramPlan(EngineConfig(), cast(Any, size), cast(Any, table), lambda: None, passed_over)
    assert describe_attention(plan) == text
