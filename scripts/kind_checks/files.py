"""Cases of scripts/check_kinds that need no server: files of models, and reasoning that speaks of calls."""

import json
import logging
import runpy
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

from jaxserve.chat_output_spec import ChatOutputSpec
from jaxserve.models import registry
from jaxserve.models.config_values import list_ropes
from jaxserve.text.chat_template import ChatTemplates
from jaxserve.text.dialects import REASONING_PARSERS, TOOL_PARSERS
from jaxserve.text.output_dialect import OutputDialect
from jaxserve.text.tokenizer import Tokenizer
from jaxserve.text.turn_ends import find_turn_end
from jaxserve.weights.checkpoint import open_checkpoint
from scripts.kind_checks.cases import WATER
from scripts.kind_checks.client import Outcome

UNKNOWN, CONTROL, NORMAL = 2, 3, 1
PIECES = [("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL), ("▁", NORMAL), ("o", NORMAL), ("ak", NORMAL)]


def tiny_model(directory: Path) -> Path:
    """A model of random weights; returns its directory."""
    return runpy.run_path(str(Path(__file__).parents[1] / "make_tiny_model"))["write"](directory)


def edit(file: Path, **keys: object) -> dict:
    """Write these keys into a JSON file; returns all that it holds."""
    value = json.loads(file.read_text()) | keys
    file.write_text(json.dumps(value))
    return value


def sentencepiece_alone(directory: Path) -> Outcome:
    """A unigram model in SentencePiece's own format, read where its libraries cannot be imported."""
    pieces = b""
    for text, kind in PIECES:
        piece = (
            bytes([0x0A, len(text.encode())]) + text.encode() + b"\x15" + struct.pack("<f", -1) + bytes([0x18, kind])
        )
        pieces += bytes([0x0A, len(piece)]) + piece
    (directory / "tokenizer.model").write_bytes(pieces)
    (directory / "config.json").write_text('{"model_type": "llama"}')
    with patch.dict(sys.modules, {"sentencepiece": None, "tiktoken": None}):
        tokenizer = Tokenizer.load(directory)
    ids = tokenizer.encode("oak o", add_special_tokens=False)
    return ids == [3, 4, 5, 3, 4], ids


def extra_special_tokens(directory: Path) -> Outcome:
    tiny_model(directory)
    token = {"id": 259, "content": "<|leaf|>", "special": False, "normalized": False}
    token |= {"single_word": False, "lstrip": False, "rstrip": False}
    added = json.loads((directory / "tokenizer.json").read_text())["added_tokens"]
    edit(directory / "tokenizer.json", added_tokens=[*added, token])
    edit(directory / "tokenizer_config.json", extra_special_tokens={"leaf_token": "<|leaf|>"})
    tokenizer = Tokenizer.load(directory)
    text = tokenizer.decode(tokenizer.encode("o<|leaf|>ak"), skip_special_tokens=True)
    return text == "oak", text


def two_rope_spellings(directory: Path) -> Outcome:
    config = json.loads((tiny_model(directory) / "config.json").read_text())
    rope = config["rope_parameters"]
    both = config | {"rope_theta": rope["rope_theta"], "rope_scaling": {"type": rope["rope_type"], **rope}}
    specs = [registry.find_architecture(each).spec(each) for each in (config, both)]
    ropes = [list_ropes(spec)[0] for spec in specs]
    return ropes[0] == ropes[1], ropes


def stale_index(directory: Path) -> Outcome:
    whole = open_checkpoint(tiny_model(directory)).tensors.keys()
    stale = {"weight_map": {name: "model-00001-of-00007.safetensors" for name in [*whole, "lm_head.old"]}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(stale))
    logging.disable(logging.WARNING)
    try:
        names = open_checkpoint(directory).tensors.keys()
    finally:
        logging.disable(logging.NOTSET)
    return names == whole, f"{len(names)} of {len(whole)} tensors"


def turn_end(directory: Path) -> Outcome:
    """The template ends answers with <|im_end|>, the files name <|endoftext|>."""
    edit(tiny_model(directory) / "tokenizer_config.json", eos_token="<|endoftext|>")
    tokenizer = Tokenizer.load(directory)
    assert tokenizer.eos_token_id is not None
    templates = ChatTemplates(tokenizer.chat_templates, tokenizer.special_tokens)
    found = find_turn_end(tokenizer, templates, {tokenizer.eos_token_id})
    return found is not None and found.token == "<|im_end|>", found


def call_in_reasoning(_: Path) -> Outcome:
    thought = "I may write <tool_call> later. "
    call = '<tool_call>\n{"name": "water", "arguments": {"bed": "roses"}}\n</tool_call>'
    dialect = OutputDialect.from_dialects(TOOL_PARSERS["hermes"], REASONING_PARSERS["qwen3"], {})
    reader = dialect.create_parser(ChatOutputSpec(tools=(WATER,), tool_choice="auto"))
    deltas = [*map(reader.feed, f"<think>{thought}</think>{call}"), reader.close(is_cut=False)]
    reasoning, content = ("".join(getattr(delta, part) for delta in deltas) for part in ("reasoning", "content"))
    arguments = "".join(piece.arguments for delta in deltas for piece in delta.tool_calls)
    return (reasoning, content, arguments) == (thought, "", '{"bed": "roses"}'), (reasoning, content, arguments)


CASES: tuple[tuple[str, str, Callable[[Path], Outcome]], ...] = (
    ("08 tokenizer.model", "a SentencePiece model, its libraries missing", sentencepiece_alone),
    ("10 special tokens", "extra_special_tokens as an object", extra_special_tokens),
    ("16 rope", "both spellings of one rope", two_rope_spellings),
    ("16 stale index", "a safetensors index that names missing files", stale_index),
    ("16 end token", "a template that ends turns with another token", turn_end),
    ("16 reasoning", "<tool_call> spoken of within <think>", call_in_reasoning),
)
