"""Hub models, against a stand-in on this machine; a process each, since the package reads its settings once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxserve.weights.hub import is_hub_name
from tests.weights import hub_stand_in, tiny

REPO = Path(__file__).resolve().parents[2]
SCRIPT = """
import json, os, sys
from jaxserve.errors import StartupError
from jaxserve.weights.fetch import resolve_model
for name in sys.argv[1:]:
    model, _, revision = name.partition("@")
    heard = []
    try:
        told = {"revision": revision or None, "token": os.environ.get("TOKEN_BY_HAND")}
        path = resolve_model(model, **told, progress=lambda *step: heard.append(step))
        files = sorted(p.name for p in path.rglob("*") if p.is_file()) if path.is_dir() else []
        print(json.dumps({"path": str(path), "files": files, "heard": heard[-1:]}))
    except StartupError as error:
        print(json.dumps({"error": type(error).__name__, "text": str(error)}))
"""
GGUF = b"GGUF" + bytes(100)


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    model = tiny.write_directory(tmp_path_factory.mktemp("model"), tiny.weights())
    whole = {path.name: path.read_bytes() for path in model.iterdir()}
    others = {"tokenizer.json": b"{}", "chat_template.jinja": b"x", "pytorch_model.bin": b"code", "README.md": b"#"}
    copies = {"onnx/config.json": b"{}", "original/consolidated.safetensors": b"x", "consolidated.safetensors": b"x"}
    modules = {"modules.json": b"[]", "1_Pooling/pooling.json": b"{}", "2_Dense/dense.safetensors": b"x"}
    repositories = {
        "org/whole": whole | others | copies,
        "org/embedder": whole | copies | modules,
        "org/secret": whole,
        "org/packed": {"a.gguf": GGUF, "config.json": b"{}"},
        "org/choice": {"a.gguf": GGUF, "b.gguf": GGUF},
        "org/quants-GGUF": {"M-Q4_K_M.gguf": GGUF, "M-Q8_0.gguf": GGUF, "mmproj-M-F16.gguf": b"GGUF"},
        "org/other": {"pytorch_model.bin": b"code", "config.json": b"{}"},
    }
    with hub_stand_in.running(repositories, frozenset({"org/secret"})) as running:
        yield running


def resolve(hub, home: Path, *names: str, **settings: str) -> dict[str, dict]:
    """What a new process makes of each name (model, or model@revision), with these settings in its environment."""
    settings = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"} | settings
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *names],
        env=kept | settings | {"PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return dict(zip(names, map(json.loads, done.stdout.splitlines()), strict=True))


WANTED = ["chat_template.jinja", "config.json", "model.safetensors", "tokenizer.json"]
QUANTS = ["org/quants-GGUF:Q8_0", "org/quants-GGUF:q4_k_m"]
KNOWN = ["org/whole@v1", "org/embedder", "org/packed", "org/choice/b.gguf", *QUANTS]
UNKNOWN = {
    "org/ghost": "org/ghost is no directory here, and the hub has no such model",
    "org/whole@v9": "The hub has no org/whole at revision 'v9'",
    "org/choice/c.gguf": "The hub has no file org/choice/c.gguf",
    "org/choice": "name one of them: org/choice/a.gguf, org/choice/b.gguf",
    "org/quants-GGUF:Q6_K": "has no .gguf file of Q6_K; ",
    "org/ghost:Q6_K": "the hub has no such model",
    "org/whole:Q6_K": "has no .gguf files, so no Q6_K; leave out :Q6_K",
    "org/other": "neither .safetensors nor .gguf",
    "org/secret": "set HF_TOKEN",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def found(hub, home) -> dict[str, dict]:
    return resolve(hub, home, *KNOWN, *UNKNOWN)


def test_a_model_is_fetched_with_progress_and_without_what_is_not_wanted(found, home):
    model = found["org/whole@v1"]
    assert model["files"] == WANTED
    assert Path(model["path"]).is_relative_to(home)
    size = sum((Path(model["path"]) / name).stat().st_size for name in WANTED)
    assert model["heard"] == [["download", size, size]]


def test_modules_of_sentence_transformers_are_fetched_with_the_model(found):
    own = {"modules.json", "pooling.json", "dense.safetensors"}
    assert set(found["org/embedder"]["files"]) == {"config.json", "model.safetensors"} | own


@pytest.mark.parametrize("name", ["org/packed", "org/choice/b.gguf", *QUANTS])
def test_a_gguf_file_is_the_model_when_it_is_the_only_one_or_named(found, name):
    assert Path(found[name]["path"]).read_bytes() == GGUF


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_the_hub_does_not_have_is_said_in_one_sentence(found, name):
    assert found[name]["error"] == "BadConfig"
    assert UNKNOWN[name] in found[name]["text"]


def test_offline_what_was_fetched_is_found_again_and_nobody_is_asked(hub, home, found):
    hub.asked.clear()
    again = resolve(hub, home, *KNOWN, "org/secret", HF_HUB_OFFLINE="1")
    assert [again[name]["path"] for name in KNOWN] == [found[name]["path"] for name in KNOWN]
    assert again["org/secret"]["error"] == "StartupError"
    assert "org/secret is not in its cache" in again["org/secret"]["text"]
    assert hub.asked == []


def test_offline_a_quantization_is_chosen_among_those_in_the_cache(hub, home, found):
    [wrong] = resolve(hub, home, "org/quants-GGUF:Q2_K", HF_HUB_OFFLINE="1").values()
    assert "choose one of them: org/quants-GGUF:Q4_K_M, org/quants-GGUF:Q8_0" in wrong["text"]


@pytest.mark.parametrize("name", ["org/packed", *QUANTS])
def test_a_model_in_the_cache_does_for_a_hub_that_does_not_answer(hub, home, found, name):
    assert resolve(hub, home, name, HF_ENDPOINT="http://127.0.0.1:9")[name]["path"] == found[name]["path"]


def test_a_hub_that_does_not_answer_is_said_so(hub, tmp_path):
    refused = resolve(hub, tmp_path, "org/whole", HF_ENDPOINT="http://127.0.0.1:9")["org/whole"]
    assert refused["error"] == "StartupError"
    assert "cannot be reached" in refused["text"]


@pytest.mark.parametrize("where", ["HF_TOKEN", "TOKEN_BY_HAND"])
def test_a_private_model_opens_with_its_token(hub, tmp_path, where):
    found = resolve(hub, tmp_path, "org/secret", **{where: hub_stand_in.TOKEN})
    assert found["org/secret"]["files"] == WANTED[1:3]


@pytest.mark.parametrize(
    "name", ["org/name", "org/name/a.gguf", "Qwen/Qwen2.5-0.5B", "o/n/sub/a.Q4_1.gguf", "o/n:Q4_K_M"]
)
def test_hub_names_are_recognised(name):
    assert is_hub_name(name)


@pytest.mark.parametrize(
    "name", ["name", "./a/b", "../a", "/a/b", "a/b/c", "a//b", "a/../b.gguf", "a b/c", "", "a/b\n", "a/b:", "a/b:c/d"]
)
def test_other_names_are_not(name):
    assert not is_hub_name(name)
