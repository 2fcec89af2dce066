"""Models whose files are damaged: heads that lie, values that cannot be, odd files, and random bytes.

Damage k of a seed is always the same: `damage_model(sound, folder, seed, k)` makes a failing one again.
"""

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from scripts.reliability_checks.damaged_weights import GGUF, SAFETENSORS, damage_gguf, damage_safetensors
from scripts.reliability_checks.odd_files import damage_any_file
from tests.weights import tiny

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
INDEX = "model.safetensors.index.json"
ODD_VALUES = (None, True, -1, 0, 1, 2**31, 10**9, 10**30, 1.5, -0.5, "", "x", [], [1], ["x"], {}, {"x": 1}, "\ud800")
DEEP_JSON = b'{"a":' * 100_000
TEMPLATES = (
    "{{ 9**9999999 }}",
    "{% for i in range(10**9) %}{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}",
    "{{ 'x' * 10**10 }}",
    "{{ " + "(" * 30_000 + " }}",
    "{{ ''.__class__.__mro__ }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{{ messages | no_such_filter }}",
    "{% for %}",
    "{{ raise_exception('x\ny') }}",
    "{% include '/etc/passwd' %}",
    "\0",
    "",
    "a" * (5 << 20),
)


@dataclass(frozen=True, slots=True)
class Damage:
    """A damaged model.

    model      what is served
    file       name of the file that was damaged
    words      what was done to it
    is_fatal   no start may succeed
    """

    model: Path
    file: str
    words: str
    is_fatal: bool


def write_sound(model: Path, folder: Path) -> tuple[Path, ...]:
    """Write the models that are damaged later: that of one file, one of two with an index, and one in GGUF.

    model   a directory in Hugging Face layout with one file
    """
    whole, sharded = Path(shutil.copytree(model, folder / "whole")), Path(shutil.copytree(model, folder / "sharded"))
    template = json.loads((whole / "tokenizer_config.json").read_text())["chat_template"]
    (whole / "chat_template.jinja").write_text(template)
    tensors = load_file(sharded / "model.safetensors")
    (sharded / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = dict(zip(SHARDS, (names[: len(names) // 2], names[len(names) // 2 :]), strict=True))
    for file, members in parts.items():
        save_file({name: tensors[name] for name in members}, sharded / file)
    weight_map = {name: file for file, members in parts.items() for name in members}
    (sharded / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    (folder / "gguf").mkdir()
    return whole, sharded, _write_gguf(folder / "gguf" / "model.gguf", model, template)


def _write_gguf(path: Path, model: Path, template: str) -> Path:
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    pieces = [piece for piece, _ in sorted(tokenizer["model"]["vocab"].items(), key=lambda item: item[1])]
    added = [token["content"] for token in tokenizer["added_tokens"]]
    tokens = [*pieces, *added, "ab"]
    tensors = tiny.weights(layers=2)
    rng = np.random.default_rng(0)
    tensors["model.embed_tokens.weight"] = rng.standard_normal((len(tokens), tiny.WIDTH), np.float32)
    fields = {
        "ggml.model": "gpt2",
        "ggml.pre": "default",
        "ggml.tokens": tokens,
        "ggml.token_type": [*([1] * len(pieces)), *([3] * len(added)), 1],
        "ggml.merges": ["a b"],
        "chat_template": template,
    }
    metadata: dict[str, Any] = {f"tokenizer.{name}": value for name, value in fields.items()}
    return tiny.write_gguf(path, tensors, layers=2, metadata=metadata)


def damage_model(sound: tuple[Path, ...], folder: Path, seed: int, number: int) -> Damage:
    """Copy one of the sound models to the folder, which is emptied, and damage a file of it."""
    rng = random.Random(f"{seed}:{number}")
    shutil.rmtree(folder, ignore_errors=True)
    base = rng.choice(sound)
    if base.is_dir():
        model = Path(shutil.copytree(base, folder))
        file = rng.choice(sorted(model.iterdir()))
    else:
        folder.mkdir()
        file = model = Path(shutil.copy(base, folder))
    words, is_fatal = rng.choices((_damage_content, damage_any_file), (70, 30))[0](rng, file)
    return Damage(model, file.name, f"{file.name}: {words}", is_fatal)


def _damage_content(rng: random.Random, file: Path) -> tuple[str, bool]:
    """Damage a file in a way of its format; return what was done, and whether no start may succeed."""
    kinds: dict[str, Callable[[random.Random, Path], tuple[str, bool]]] = {
        SAFETENSORS: damage_safetensors,
        GGUF: damage_gguf,
        ".jinja": _damage_template,
    }
    if file.name == INDEX and rng.random() < 0.8:
        return _damage_index(rng, file)
    return kinds.get(file.suffix, _damage_json)(rng, file)


def _damage_template(rng: random.Random, file: Path) -> tuple[str, bool]:
    template = rng.choice(TEMPLATES)
    file.write_text(template)
    return f"the template {template[:60]!r}", False


def _damage_json(rng: random.Random, file: Path) -> tuple[str, bool]:
    if rng.random() < 0.1:
        content = rng.choice((DEEP_JSON, b"[]", b"null", b"1e999", b'{"a": NaN}', b"9" * 5000, b"\xff\xfe{}"))
        file.write_bytes(content)
        return f"its content is {content[:20]!r}", False
    content = json.loads(file.read_text())
    if file.name == "tokenizer_config.json" and rng.random() < 0.5:
        content["chat_template"] = rng.choice(TEMPLATES)
        words = f"the template {content['chat_template'][:60]!r}"
    else:
        words = _replace_value(rng, content)
    file.write_text(json.dumps(content))
    return words, False


def _replace_value(rng: random.Random, content: Any) -> str:
    """Replace or remove a value somewhere in a JSON value, and return what was done."""
    node, path = content, []
    while True:
        key = rng.choice(sorted(node) if isinstance(node, dict) else range(min(len(node), 20)))
        path.append(str(key))
        if isinstance(node[key], dict | list) and node[key] and rng.random() < 0.6:
            node = node[key]
            continue
        if rng.random() < 0.15:
            del node[key]
            return f"{'.'.join(path)} is not there"
        node[key] = rng.choice(ODD_VALUES)
        return f"{'.'.join(path)} is {node[key]!r}"


def _damage_index(rng: random.Random, file: Path) -> tuple[str, bool]:
    content = json.loads(file.read_text())
    weight_map = content["weight_map"]
    name = rng.choice(sorted(weight_map))
    target: Any = rng.choice(
        ("../model.safetensors", "/etc/passwd", "no.safetensors", "a/b.safetensors", "x.bin", "", None, 3, [], *SHARDS)
    )
    match rng.randrange(4):
        case 0:
            content["weight_map"] = target = rng.choice((None, [], {}, "x", 1, {"x": SHARDS[0]}))
            is_fatal = True
        case 1:
            weight_map["model.ghost.weight"] = target
            is_fatal = True
        case 2:
            del weight_map[name]
            is_fatal = False
        case _:
            is_fatal, weight_map[name] = weight_map[name] != target, target
    file.write_text(json.dumps(content))
    return f"its map is changed ({name}, {target!r})", is_fatal
