"""`jaxserve pull`, `list`, `rm` and `doctor`, as processes with caches of their own and a hub on this machine."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from jaxserve import Finding, doctor
from jaxserve.config import DEFAULT_MODEL
from jaxserve.weights.fetch import SMOLLM2
from server import maintenance
from tests.weights import hub_stand_in

REPOSITORY = "org/quants-GGUF"
GGUF = b"GGUF" + bytes(2_000_000)


@pytest.fixture(scope="module")
def hub():
    with hub_stand_in.running({REPOSITORY: {"M-Q4_K_M.gguf": GGUF, "M-Q8_0.gguf": GGUF}}) as running:
        yield running


@pytest.fixture
def command(hub, tmp_path):
    """Runs jaxserve with the caches in tmp_path."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "JAXSERVE_"))}
    settings = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "hub"), "XDG_CACHE_HOME": str(tmp_path)}

    def run(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "server", *words]
        return subprocess.run(
            line, env=kept | settings | more, input="", capture_output=True, text=True, timeout=120, check=False
        )

    return run


def fill(cache: Path) -> None:
    """The default model, and a compiled program."""
    for file in (cache / "jaxserve" / "models" / SMOLLM2.name, cache / "jaxserve" / "programs" / "jax-1" / "program"):
        file.parent.mkdir(parents=True)
        file.write_bytes(bytes(3_000_000))


def test_a_quantization_is_pulled_listed_and_removed(command, tmp_path):
    pulled = command("pull", f"{REPOSITORY}:q8_0")
    assert pulled.returncode == 0, pulled.stderr
    assert Path(pulled.stdout.strip()).read_bytes() == GGUF
    assert command("pull", f"{REPOSITORY}:q8_0", HF_HUB_OFFLINE="1").stdout == pulled.stdout
    listed = command("list").stdout
    assert REPOSITORY in listed and "M-Q8_0.gguf" in listed and "M-Q4_K_M.gguf" not in listed and "2 MB" in listed
    removed = command("rm", REPOSITORY, "--yes")
    assert (removed.returncode, removed.stdout) == (0, f"deleted {REPOSITORY}, 2 MB\n")
    assert command("list").stdout == "Nothing is kept yet; jaxserve pull fetches a model.\n"


def test_what_jaxserve_keeps_itself_is_listed_and_removed_by_name(command, tmp_path):
    fill(tmp_path)
    listed = command("list").stdout
    assert DEFAULT_MODEL in listed and "programs" in listed and listed.count("3 MB") == 2
    assert command("rm", "programs", "-y").returncode == 0
    assert not (tmp_path / "jaxserve" / "programs" / "jax-1").exists()
    assert (tmp_path / "jaxserve" / "models" / SMOLLM2.name).exists()


def test_nothing_is_removed_unasked_or_unknown(command, tmp_path):
    fill(tmp_path)
    unasked, unknown = command("rm", DEFAULT_MODEL), command("rm", "org/ghost", "--yes")
    assert (unasked.returncode, unknown.returncode) == (2, 78)
    assert "--yes deletes without" in unasked.stderr
    assert f"'org/ghost' is not in the cache; there is {DEFAULT_MODEL}, programs." in unknown.stderr
    assert (tmp_path / "jaxserve" / "models" / SMOLLM2.name).exists()


def test_what_cannot_be_pulled_is_said_in_one_sentence(command):
    wrong = command("pull", f"{REPOSITORY}:Q2_K")
    assert wrong.returncode == 78
    assert f"choose one of them: {REPOSITORY}:Q4_K_M, {REPOSITORY}:Q8_0" in wrong.stderr


def test_doctor_looks_at_everything_and_is_content(command, hub):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ended = command("doctor", "--host", "127.0.0.1", "--port", str(taken.getsockname()[1]))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    rows = {line.split()[0]: line.split()[1] for line in ended.stdout.splitlines() if not line.startswith(" ")}
    assert list(rows) == ["versions", "device", "memory", "cache", "compiler", "hub", "port"]
    assert (rows["device"], rows["hub"], rows["port"]) == ("ok", "ok", "warning")
    assert "GB/s" in ended.stdout and hub.endpoint in ended.stdout


def test_doctor_finds_a_cache_that_cannot_be_written(command, tmp_path):
    (tmp_path / "file").write_text("")
    ended = command("doctor", "--port", "0", XDG_CACHE_HOME=str(tmp_path / "file"), HF_HUB_OFFLINE="1")
    assert ended.returncode == 1
    assert "cache       wrong" in ended.stdout and "set XDG_CACHE_HOME" in ended.stdout
    assert "hub         warning  HF_HUB_OFFLINE is set" in ended.stdout


def test_a_check_that_breaks_is_a_finding(monkeypatch, capsys):
    def breaks() -> Finding:
        raise RuntimeError("no device\nand more")

    monkeypatch.setattr(doctor, "check_device", breaks)
    monkeypatch.setattr(doctor, "check_hub", lambda: Finding("hub", "ok", "fine"))
    assert maintenance.doctor(["--port", "0"]) == 1
    assert "device      wrong    no device" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("file", "vendor", "found"),
    [
        ("accel0", "0x1ae0", "accelerator of the TPU kind"),
        ("vfio/0", "0x1ae0", "accelerator of the TPU kind"),
        ("vfio/0", "0x8086", None),
        ("vfio/vfio", "0x1ae0", None),
        ("nvidiactl", "0x10de", "NVIDIA GPU"),
        ("null", "0x8086", None),
    ],
)
def test_an_accelerator_that_linux_shows_is_named(file, vendor, found, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    for path, text in ((tmp_path / "dev" / file, ""), (tmp_path / "sys/bus/pci/devices/0000:00:04.0/vendor", vendor)):
        path.parent.mkdir(parents=True)
        path.write_text(f"{text}\n")
    assert doctor.find_idle_accelerator(tmp_path) == found


@pytest.mark.parametrize(("free_gib", "status"), [(1, "warning"), (8, "ok")])
def test_little_memory_is_a_warning(monkeypatch, free_gib, status):
    class Memory:
        available, total = free_gib << 30, 16 << 30

    monkeypatch.setattr(doctor.psutil, "virtual_memory", lambda: Memory)
    assert doctor.check_memory().status == status
