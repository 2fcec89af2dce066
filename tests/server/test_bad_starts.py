"""Starts that cannot succeed: each is one sentence, before a model is fetched, a weight read or a program compiled."""

import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jaxserve import BadConfig
from jaxserve.attention import BACKENDS
from jaxserve.attention.reference import ReferenceAttention
from jaxserve.config import ATTENTION_BACKENDS
from jaxserve.engine import build as build_module
from jaxserve.engine.executor import Executor
from jaxserve.weights import hub, safetensors
from server import cli
from tests.models.tiny import write

TLS = Path(__file__).parents[1] / "data" / "tls"  # a certificate, its key, the same with a password, another key
PORT_0 = ("--host", "127.0.0.1", "--port", "0")


class SlowWork(Exception):
    """What takes long has begun."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models and files, most of them with a fault, and certificates."""
    root = tmp_path_factory.mktemp("bad_starts")
    write(root / "model", "llama", seed=3)
    write(root / "tokenizer_broken", "llama", seed=3)
    (root / "tokenizer_broken" / "tokenizer.json").write_text("{")
    for name, texts in {
        "no_weights": {"config.json": "{}"},
        "broken": {"config.json": "{", "model.safetensors": ""},
        "cut": {"config.json": "{}", "model.gguf": "GGUF"},
        "orbax": {"config.json": "{}", "_METADATA": "{", "_CHECKPOINT_METADATA": "{"},
        "generation": {"generation_config.json": '{"temperature": "hot"}'},
    }.items():
        (root / name).mkdir()
        for file, text in texts.items():
            (root / name / file).write_text(text)
    (root / "file").write_text("x")
    (root / "broken.jinja").write_text("{% for %}")
    for file in TLS.iterdir():
        shutil.copy(file, root)
    return root


@pytest.fixture
def start(files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs `serve` with everything slow forbidden; what it said. {} in a word is the directory of files."""

    def forbidden(*_: object, **__: object) -> None:
        raise SlowWork

    for owner, name in (
        *(
            (hub, "download_model"),
            (build_module, "load_params"),
            (build_module, "get_peak_rates"),
            (build_module, "compile_pages"),
        ),
        *((Executor, "compile"), (safetensors.SafetensorsCheckpoint, "read")),
    ):
        monkeypatch.setattr(owner, name, forbidden)
    monkeypatch.setenv("XDG_CACHE_HOME", str(files / "cache"))

    def start(*words: str, code: int = cli.EX_CONFIG) -> str:
        try:
            assert cli.main(["serve", *(word.replace("{}", str(files)) for word in words), *PORT_0]) == code
        except SystemExit as ended:
            assert ended.code == code
        *_, said = capsys.readouterr().err.splitlines()
        assert said.startswith("jaxserve") and len(said) < 1000
        return said

    return start


# Of no model: found before the hub is asked for one.
SETTINGS = {
    "--tool-call-parser odd": "tool_call_parser 'odd' is not known; try auto, none, or one of",
    "--reasoning-parser odd": "reasoning_parser 'odd' is not known",
    "--structured-outputs-config.reasoning_parser odd": "reasoning_parser 'odd' is not known",
    "--structured-outputs-config.odd 1": "structured_outputs_config has 'odd'",
    "--kv-events-config.odd 1": "kv_events_config has 'odd'",
    "--chat-template {}/no.jinja": "is neither Jinja text nor a readable file",
    "--chat-template {}/broken.jinja": "chat_template is no Jinja that can be used: Expected an expression",
    "--chat-template {{messages|odd}}": "No filter named 'odd'",
    "--generation-config {}/nowhere": "holds no readable generation_config.json",
    "--generation-config {}/generation": "sampling defaults cannot be used: temperature must be a number, got 'hot'",
    '--override-generation-config {"top_p":7}': "sampling defaults cannot be used: top_p",
    "--tokenizer {}/nowhere": "is neither a directory nor a .gguf file here",
    "--attention-backend odd": "attention_backend 'odd' is unknown; known: auto, reference",
    "--quantization int8 --dtype bfloat16": "computes in float32, not bfloat16",
    "--download-dir {}/file": "is a file; name another",
    "--compilation-cache-dir {}/file/programs": "is a file; name another",
    "--profile-dir {}/file/profiles": "is a file; name another",
    "--profile-steps 10": "write first:last",
    "--profile-steps 10:10": "write first:last",
    "--max-num-queued-reqs 0": "max_num_queued_reqs must be at least 1, got 0",
    "--kv-cache-memory-bytes 0": "kv_cache_memory_bytes must be at least 1, got 0",
    "--gpu-memory-utilization 1.5": "must be in (0, 1], got 1.5",
    "--ssl-certfile {}/certificate.pem": "ssl_keyfile and ssl_certfile go together",
    "--ssl-certfile {}/no.pem --ssl-keyfile {}/key.pem": "no.pem cannot be read: No such file",
    "--ssl-certfile {}/certificate.pem --ssl-keyfile {}": "cannot be read: Is a directory",
    "--ssl-certfile {}/certificate.pem --ssl-keyfile {}/other.key": "is not the key of the certificate in",
    "--ssl-certfile {}/certificate.pem --ssl-keyfile {}/file": "are no PEM pair",
    "--ssl-certfile {}/certificate.pem --ssl-keyfile {}/locked.key": "is encrypted",
    "--ssl-certfile {}/certificate.pem --ssl-keyfile {}/key.pem --ssl-ca-certs {}/file": "holds no certificates",
    "--ssl-certfile {}/certificate.pem --ssl-keyfile {}/key.pem --ssl-ciphers odd": "names no cipher",
    "--ssl-certfile {}/certificate.pem --ssl-keyfile {}/key.pem --ssl-cert-reqs 2": "needs ssl_ca_certs",
    "--ssl-cert-reqs 2": "ssl_cert_reqs needs ssl_certfile and ssl_keyfile",
    "--middleware no.such.Class": "middleware 'no.such.Class' cannot be imported: No module named 'no'",
    "--middleware json.Nothing": "cannot be imported: module 'json' has no attribute 'Nothing'",
    "--middleware asyncio.sleep": "is no ASGI class",
    "--uds {}/nowhere/socket": "there is no directory",
    "--uds {}": "is a directory; name a socket in it",
    "--uds /" + "long" * 30: "is longer than 107 bytes",
    "--served-model-name=": "served_model_name must not be empty",
    "--api-key=": "api_key must not be empty",
    "--root-path llm": "root_path must be paths that begin with a slash",
    "--open-paths /a,metrics": "open_paths must be paths that begin with a slash, like /health, got 'metrics'",
    "--response-role=": "response_role must not be empty",
    "--fingerprint-mode custom": "needs a fingerprint_value",
    '--default-chat-template-kwargs {"messages":1}': "default_chat_template_kwargs cannot set messages",
    '--reasoning-effort-map {"low":1}': "must map words to words",
}
# Of a model: what its small files tell.
MODELS = {
    "{}/nowhere": "is neither a directory, nor a .gguf file, nor a hub id",
    "{}/file": "is a file, but not a .gguf file",
    "{}/no_weights": "holds no .safetensors and no .gguf file",
    "{}/broken": "cannot be read as JSON",
    '{}/model --hf-overrides.architectures ["Odd"]': "The architecture in config.json (Odd) is not known",
    "{}/cut": "model.gguf",
    "{}/orbax": "orbax",
    "{}/tokenizer_broken": "tokenizer.json",
    "{}/model --max-model-len 100000": "is more than the model's own 512 positions; try --max-model-len 512",
    "{}/model --num-gpu-blocks-override 1": "1",
    "{}/model --max-num-batched-tokens 1": "max_num_batched_tokens=1 is less than a page of 16 tokens",
    "{}/model --block-size 3": "block_size must be a power of two",
    "{}/model --tokenizer {}/broken": "config.json in",
    "{}/model --tool-call-parser hf": "needs a checkpoint that has a response_template",
    "{}/model --reasoning-parser openai_gptoss": "by the token <|channel|>, which this model's vocabulary lacks",
    "{}/model --hf-overrides.hidden_act odd": "'hidden_act' is 'odd'",
    "{}/model --enable-return-routed-experts": "needs a model with experts, and LlamaForCausalLM has none",
    "{}/model --attention-backend tpu": "needs a TPU, and this is a cpu",
}


@pytest.mark.parametrize("words", SETTINGS)
def test_a_setting_that_cannot_work_is_found_before_a_model_is_fetched(start: Callable[..., str], words: str) -> None:
    assert SETTINGS[words] in start("org/model", *words.split())


@pytest.mark.parametrize("words", MODELS)
def test_what_does_not_fit_a_model_is_found_before_its_weights_are_read(start: Callable[..., str], words: str) -> None:
    assert MODELS[words] in start(*words.split())


@pytest.mark.parametrize("words", ["org/model", "{}/model"])
def test_a_start_that_is_sound_gets_as_far_as_the_slow_work(start: Callable[..., str], words: str) -> None:
    with pytest.raises(SlowWork):
        start(words)


def test_settings_are_checked_without_jax() -> None:
    program = "import sys; from jaxserve import EngineConfig, check_config; check_config(EngineConfig()); "
    subprocess.run([sys.executable, "-c", program + "assert 'jax' not in sys.modules"], check=True, timeout=120)
    assert set(ATTENTION_BACKENDS) == {"auto", *BACKENDS}


def test_an_override_that_is_not_read_is_said(start: Callable[..., str], caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(SlowWork):
        start("{}/model", "--override-generation-config.do_sample", "true")
    assert caplog.text.count("override_generation_config has do_sample, which is not read") == 1


def test_pages_that_a_backend_cannot_hold_are_found_before_weights_are_read(
    start: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_pages = ReferenceAttention.make_pages

    def limited(self: ReferenceAttention, num_pages: int, *shape: Any) -> Any:
        if num_pages > 7:
            raise BadConfig(f"{num_pages} pages are too many; take fewer.")
        return make_pages(self, num_pages, *shape)

    monkeypatch.setattr(ReferenceAttention, "make_pages", limited)
    words = ("--attention-backend", "reference", "--max-model-len", "64", "--num-gpu-blocks-override")
    assert "8 pages are too many" in start("{}/model", *words, "8")
    with pytest.raises(SlowWork):
        start("{}/model", *words, "7")


def test_a_socket_at_which_a_server_listens_is_left_alone(start: Callable[..., str], tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "socket"))
        other.listen()
        assert "is in use by another process" in start("org/model", "--uds", str(tmp_path / "socket"))
    assert (tmp_path / "socket").exists()


def test_what_argparse_reads_is_refused_with_2(start: Callable[..., str]) -> None:
    for words in ("--hf-overrides {", "--port x", "--fingerprint-mode odd", "--seed 1.5", "--config {}/nowhere"):
        assert start("org/model", *words.split(), code=cli.EX_USAGE)
