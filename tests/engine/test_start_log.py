"""What an engine logs at its start tells no user's name, and needs none."""

import pwd
from pathlib import Path

import pytest

from jaxserve.engine.description import abbreviate_home


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
