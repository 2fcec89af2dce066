"""Writing of a model's tokenizer and chat templates into another directory."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from jaxserve.model_files import MAX_TOKENIZER_BYTES, check_ordinary
from jaxserve.text.tokenizer import Tokenizer, find_only_gguf

# Whatever tokenizers and templates are read from, and what people want to know of a model.
COPIED = (
    *("tokenizer*", "tekken.json", "tiktoken.model", "*.tiktoken", "spiece.model", "vocab.json", "merges.txt"),
    *("special_tokens_map.json", "added_tokens.json", "chat_template.*", "additional_chat_templates/*.jinja"),
    *("LICENSE*", "README.md"),
)


def write_tokenizer(model: Path, directory: Path) -> None:
    """Copy the files of a model's tokenizer and templates into a directory; those of a .gguf file are made from it.

    The tokens that a .gguf file names, such as its end token, become special tokens, as they are in every directory.

    Raises BadCheckpoint if the tokenizer of a .gguf file cannot be read.
    """
    if model.is_dir() and find_only_gguf(model) is None:
        for file in _list_files(model):
            target = directory / file.relative_to(model)
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, target)
        return
    tokenizer = Tokenizer.load(model)
    tokenizer.backend.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps(tokenizer.special_tokens, indent=2))
    others = directory / "additional_chat_templates"
    for name, text in tokenizer.chat_templates.items():
        if name != "default":
            others.mkdir(exist_ok=True)
        file = directory / "chat_template.jinja" if name == "default" else others / f"{name}.jinja"
        file.write_text(text, encoding="utf-8")


def _list_files(model: Path) -> Iterator[Path]:
    """Yield the files to copy; the model's own links into a cache are followed."""
    for pattern in COPIED:
        for file in sorted(model.glob(pattern)):
            if file.is_file() and check_ordinary(file) <= MAX_TOKENIZER_BYTES:
                yield file
