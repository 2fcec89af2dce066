"""One model for everybody: the float32 weights that jaxserve dequantises, as others can read them.

A directory in Hugging Face layout from our own reader; GGUF files through llama.cpp's own llama-quantize, which unpacks
the same blocks by the same arithmetic.
"""

import json
import shutil
import subprocess
from hashlib import sha256
from pathlib import Path
from typing import Any

GGUF_KINDS = ("f32", "q8_0")
NUM_THREADS = "2"


def gguf_path(cache: Path, source: Path, kind: str) -> Path:
    """Return where the file of this kind stands that is made from a model."""
    return cache / f"{_name(source)}.{kind}.gguf"


def hf_path(cache: Path, source: Path) -> Path:
    """Return the directory in Hugging Face layout that is made from a model."""
    return cache / f"{_name(source)}.hf"


def _name(source: Path) -> str:
    """Return a name that no other model has: names of models may differ behind a dot, and those of files in folders."""
    return f"{source.name}-{sha256(str(source.resolve()).encode()).hexdigest()[:8]}"


def write_hf(source: Path, cache: Path) -> Path:
    """Write config.json, model.safetensors (float32) and the tokenizer's files, if they are not there.

    Returns their directory.
    """
    import numpy as np
    from safetensors.numpy import save_file

    from jaxserve.text.tokenizer import Tokenizer
    from jaxserve.weights.checkpoint import open_checkpoint

    done = hf_path(cache, source)
    unfinished = done.with_suffix(".part")
    if done.exists():
        return done
    checkpoint, tokenizer = open_checkpoint(source), Tokenizer.load(source)
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    tensors = {name: np.array(checkpoint.read(name), np.float32) for name in checkpoint.tensors}
    save_file(tensors, unfinished / "model.safetensors", metadata={"format": "pt"})
    tokenizer.backend.save(str(unfinished / "tokenizer.json"))
    _write(unfinished / "config.json", {**checkpoint.config, "dtype": "float32"})
    _write(
        unfinished / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": checkpoint.config["max_position_embeddings"],
            **({"chat_template": template} if (template := tokenizer.chat_templates.get("default")) else {}),
            **tokenizer.special_tokens,
        },
    )
    return unfinished.rename(done)


def write_gguf(model: Path, cache: Path, quantize: Path) -> None:
    """Write one GGUF file of each kind with llama-quantize (`quantize`), if it is not there.

    Raises ValueError if the model is no GGUF file.
    """
    source = model
    if source.suffix != ".gguf":
        raise ValueError(f"the GGUF files are made from a GGUF file, and {source} is none; leave out --model.")
    for kind in GGUF_KINDS:
        done = gguf_path(cache, model, kind)
        unfinished = done.with_suffix(".part")
        if not done.exists():
            command = [quantize, "--allow-requantize", source, unfinished, kind.upper(), NUM_THREADS]
            subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True)
            unfinished.rename(done)
        source = done


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
