"""Connections within the limit of open files: room stays for the process itself and for questions about its health."""

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxserve import StartupError
from server import file_limit
from server.file_limit import MAX_EXCESS, MIN_FREE_FILES, fit_connections
from tests.sources import REPO


@pytest.fixture(scope="module")
def fit():
    def fit(limit, wanted):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(file_limit, "_raise_file_limit", lambda: limit)
            return fit_connections(wanted)

    return fit


@given(free=st.integers(MIN_FREE_FILES + 2, 10_000_000), wanted=st.integers(1, 100_000))
def test_all_connections_together_leave_files_free(fit, free, wanted):
    limit = len(os.listdir("/dev/fd")) + free
    limits = fit(limit, wanted)
    assert 1 <= limits.max_connections <= wanted
    assert 1 <= limits.max_excess <= MAX_EXCESS
    assert len(os.listdir("/dev/fd")) + sum(limits) < limit


def test_a_high_limit_changes_nothing(fit, caplog):
    assert fit(1 << 20, 4096) == (4096, MAX_EXCESS)
    assert not caplog.text


def test_a_low_limit_is_reported(fit, caplog):
    assert fit(1024, 4096).max_connections < 1000
    assert "max_connections is 4096, and the limit of open files (1024) leaves" in caplog.text


def test_no_room_at_all_is_refused(fit):
    with pytest.raises(StartupError, match="ulimit -n 4096"):
        fit(len(os.listdir("/dev/fd")) + 2, 4096)


PROGRAM = """
import resource
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (min(64, hard), hard))
from server.file_limit import fit_connections
fit_connections(10)
print(resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard))
"""


def test_the_limit_is_raised_as_far_as_the_system_allows():
    ended = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, cwd=REPO)
    assert (ended.stdout, ended.stderr) == ("True\n", "")


def test_a_limit_that_cannot_be_raised_is_taken_as_it_is(monkeypatch):
    def refuse(*_: object) -> None:
        raise ValueError

    monkeypatch.setattr(file_limit.resource, "getrlimit", lambda _: (500, 1000))
    monkeypatch.setattr(file_limit.resource, "setrlimit", refuse)
    assert fit_connections(4096).max_connections < 500
