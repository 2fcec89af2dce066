"""Directories whose tokenizer files name, list and flag tokens in all known ways; each is one case.

A case is tokenizer_config.json, the tokens added in tokenizer.json, and further files by name.
"""

import json
from pathlib import Path
from typing import Any

from tests.text.tiny_tokenizers import byte_level_backend, write_json

BASE = json.loads(byte_level_backend().to_str())
SIZE = 1 + max(token["id"] for token in BASE["added_tokens"])
FLAGS = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False}


def token(content: str, **flags: bool) -> dict[str, Any]:
    """A token as special_tokens_map.json and added_tokens_decoder write it."""
    return {"content": content, **FLAGS, "special": True, **flags}


def typed(content: str, **flags: bool) -> dict[str, Any]:
    """A token as tokenizer_config.json writes it."""
    return {"__type": "AddedToken", **token(content, **flags)}


def added(*tokens: tuple[str, bool]) -> list[dict[str, Any]]:
    """Tokens of tokenizer.json, each with whether it is special there."""
    return [{"id": SIZE + i, **token(content, special=special)} for i, (content, special) in enumerate(tokens)]


TAG = added(("<|tag|>", False))
TAGS = added(("<|tag|>", False), ("<|two|>", False))
Case = tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]]
CASES: dict[str, Case] = {
    "nothing": ({}, [], {}),
    "extra object": ({"extra_special_tokens": {"tag_token": "<|tag|>"}}, TAG, {}),
    "extra object of AddedToken": ({"extra_special_tokens": {"tag_token": typed("<|tag|>")}}, TAG, {}),
    "extra object of AddedToken not special": (
        {"extra_special_tokens": {"tag_token": typed("<|tag|>", special=False)}},
        TAG,
        {},
    ),
    "extra object, not in vocab": ({"extra_special_tokens": {"tag_token": "<|new|>"}}, [], {}),
    "extra object, name without _token": ({"extra_special_tokens": {"tag": "<|tag|>"}}, TAG, {}),
    "extra object two": ({"extra_special_tokens": {"a_token": "<|tag|>", "b_token": "<|two|>"}}, TAGS, {}),
    "extra list": ({"extra_special_tokens": ["<|tag|>"]}, TAG, {}),
    "extra list AddedToken": ({"extra_special_tokens": [typed("<|tag|>")]}, TAG, {}),
    "extra list, not in vocab": ({"extra_special_tokens": ["<|new|>"]}, [], {}),
    "additional list": ({"additional_special_tokens": ["<|tag|>"]}, TAG, {}),
    "additional list, not in vocab": ({"additional_special_tokens": ["<|new|>"]}, [], {}),
    "additional AddedToken list": ({"additional_special_tokens": [typed("<|new|>")]}, [], {}),
    "additional and extra": (
        {"additional_special_tokens": ["<|tag|>"], "extra_special_tokens": {"x_token": "<|two|>"}},
        TAGS,
        {},
    ),
    "own named": ({"sys_start_token": "<|tag|>"}, TAG, {}),
    "own named AddedToken": ({"sys_start_token": typed("<|tag|>")}, TAG, {}),
    "own named new": ({"sys_start_token": "<|new|>"}, [], {}),
    "eos a normal piece": ({"eos_token": "the"}, [], {}),
    "eos non-special added": ({"eos_token": "<|tag|>"}, TAG, {}),
    "eos AddedToken non-special": ({"eos_token": typed("<|tag|>", special=False)}, TAG, {}),
    "eos new": ({"eos_token": "<|new|>"}, [], {}),
    "decoder marks special": ({"added_tokens_decoder": {str(SIZE): token("<|tag|>")}}, TAG, {}),
    "decoder marks not special": (
        {"added_tokens_decoder": {str(SIZE): token("<|tag|>", special=False)}},
        added(("<|tag|>", True)),
        {},
    ),
    "decoder new special": ({"added_tokens_decoder": {str(SIZE): token("<|new|>")}}, [], {}),
    "decoder new not special": ({"added_tokens_decoder": {str(SIZE): token("<|new|>", special=False)}}, [], {}),
    "decoder not special, named": (
        {"added_tokens_decoder": {str(SIZE): token("<|tag|>", special=False)}, "eos_token": "<|tag|>"},
        TAG,
        {},
    ),
    "decoder not special, extra object": (
        {
            "added_tokens_decoder": {str(SIZE): token("<|tag|>", special=False)},
            "extra_special_tokens": {"t_token": "<|tag|>"},
        },
        TAG,
        {},
    ),
    "decoder not special, extra list": (
        {"added_tokens_decoder": {str(SIZE): token("<|tag|>", special=False)}, "extra_special_tokens": ["<|tag|>"]},
        TAG,
        {},
    ),
    "decoder of an ordinary piece": ({"added_tokens_decoder": {"5": token("!", special=True)}}, [], {}),
    "map over config": (
        {"eos_token": "<|im_end|>"},
        TAG,
        {"special_tokens_map.json": {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}},
    ),
    "map with decoder": (
        {"eos_token": "<|im_end|>", "added_tokens_decoder": {"2": token("<|im_end|>")}},
        TAG,
        {"special_tokens_map.json": {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}},
    ),
    "map additional list": ({}, TAG, {"special_tokens_map.json": {"additional_special_tokens": ["<|tag|>"]}}),
    "map extra object": ({}, TAG, {"special_tokens_map.json": {"extra_special_tokens": {"t_token": "<|tag|>"}}}),
    "map dict token": ({}, TAG, {"special_tokens_map.json": {"eos_token": token("<|tag|>")}}),
    "map own named": ({}, TAG, {"special_tokens_map.json": {"img_token": "<|tag|>"}}),
    "added_tokens.json": ({}, [], {"added_tokens.json": {"<|new|>": SIZE}}),
    "added_tokens.json named": ({"eos_token": "<|new|>"}, [], {"added_tokens.json": {"<|new|>": SIZE}}),
    "config null eos": ({"eos_token": None}, TAG, {"special_tokens_map.json": {"eos_token": "<|im_end|>"}}),
    "rstrip special": ({"eos_token": typed("<|im_end|>", rstrip=True)}, [], {}),
    "model_specific": ({"model_specific_special_tokens": {"t_token": "<|tag|>"}}, TAG, {}),
    "empty extra": ({"extra_special_tokens": {}}, TAG, {}),
    "another class": ({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|tag|>"}, TAG, {}),
}


def write(path: Path, case: Case) -> None:
    config, tokens, files = case
    contents = {"tokenizer_config.json": config, **files}
    contents["tokenizer.json"] = BASE | {"added_tokens": BASE["added_tokens"] + tokens}
    for name, content in contents.items():
        write_json(path, name, content)
