"""The unit of systemd: it can be loaded, and its times and exit codes are those of the server."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jaxserve import EngineConfig
from server import cli, lifecycle
from server.config import ServerConfig
from tests.deploy.settings import read_settings
from tests.sources import REPO

SYSTEMD = REPO / "scripts" / "deploy" / "systemd"
ANALYZE = shutil.which("systemd-analyze")
UNITS_S = {"s": 1, "min": 60, "h": 3600}
LANDLOCK = {"landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"}


def read_unit(path: Path) -> dict[str, list[str]]:
    """Return the values of every setting of a unit, in their order."""
    settings: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        if line and line[0] not in "#[":
            name, _, value = line.partition("=")
            settings.setdefault(name, []).append(value)
    return settings


UNIT = read_unit(SYSTEMD / "jaxserve.service")


def seconds(setting: str) -> float:
    text = UNIT[setting][0]
    unit = text.lstrip("0123456789")
    return float(text.removesuffix(unit)) * UNITS_S[unit]


def test_it_waits_until_the_server_says_that_it_is_ready() -> None:
    assert UNIT["Type"] == ["notify"] and UNIT["NotifyAccess"] == ["main"]
    assert UNIT["KillMode"] == ["mixed"], "workers are needed until the server has drained"


def test_its_command_and_its_file_of_settings_are_ones_that_jaxserve_takes() -> None:
    program, command, flag, path = UNIT["ExecStart"][0].split()
    assert (Path(program).name, flag, path) == ("jaxserve", "--config", "/etc/jaxserve/config.yaml")
    assert command in cli.COMMANDS
    engine, server = read_settings(["--config", str(SYSTEMD / "config.yaml")], {})
    assert engine == EngineConfig()
    assert server.api_key == () and server.open_paths == ("/metrics",)


def test_the_server_ends_what_is_stuck_before_the_watchdog_does() -> None:
    assert seconds("WatchdogSec") > EngineConfig().step_timeout_s + lifecycle.DEAD_ENGINE_EXIT_S


def test_it_is_killed_only_after_it_has_drained() -> None:
    assert seconds("TimeoutStopSec") > ServerConfig().drain_timeout_s + lifecycle.EXIT_GRACE_S


def test_a_dead_engine_is_started_again_and_a_wrong_setting_is_not() -> None:
    refused = {int(code) for code in UNIT["RestartPreventExitStatus"][0].split()}
    assert UNIT["Restart"] == ["on-failure"]
    assert refused == {cli.EX_CONFIG, cli.EX_USAGE} and lifecycle.EX_ENGINE_DEAD not in refused


def test_all_that_it_writes_is_its_own_cache() -> None:
    [cache] = UNIT["CacheDirectory"]
    assert f"XDG_CACHE_HOME=/var/cache/{cache}" in UNIT["Environment"]
    assert UNIT["CacheDirectoryMode"] == ["0700"] and UNIT["ProtectSystem"] == ["strict"]


def test_workers_may_confine_themselves_and_programs_may_be_compiled() -> None:
    allowed = {call for line in UNIT["SystemCallFilter"] for call in line.split()}
    assert allowed >= LANDLOCK | {"seccomp", "@system-service"}
    assert "MemoryDenyWriteExecute" not in UNIT


@pytest.mark.skipif(ANALYZE is None, reason="no systemd-analyze here")
def test_systemd_finds_nothing_in_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "jaxserve.service"
    text = (SYSTEMD / "jaxserve.service").read_text()
    unit.write_text(text.replace(UNIT["ExecStart"][0].split()[0], sys.executable))  # verify looks for the program
    extra = tmp_path / "jaxserve.service.d" / "accelerator.conf"
    extra.parent.mkdir()
    extra.write_text((SYSTEMD / "accelerator.conf").read_text())
    ended = subprocess.run([str(ANALYZE), "verify", str(unit)], capture_output=True, text=True, timeout=60)
    about_it = [line for line in ended.stderr.splitlines() if "jaxserve" in line or "accelerator.conf" in line]
    assert (ended.returncode, about_it) == (0, [])
