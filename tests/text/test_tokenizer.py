"""Tokenizers from directories: the files that make one, and which file overrides which."""

import subprocess
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxserve.errors import BadCheckpoint
from jaxserve.text.tokenizer import Tokenizer
from tests.text.tiny_tokenizers import (
    TEMPLATE,
    byte_fallback_backend,
    byte_level_backend,
    make,
    words_backend,
    write_json,
)

BYTE_LEVEL = make(byte_level_backend())


@given(st.text())
def test_any_text_survives_the_round_trip(text):
    assert BYTE_LEVEL.decode(BYTE_LEVEL.encode(text)) == text


@given(st.text())
def test_each_id_has_a_part_of_the_text_and_all_of_them_are_all_of_it(text):
    offsets = BYTE_LEVEL.find_offsets(text)
    assert len(offsets) == len(BYTE_LEVEL.encode(text))
    covered = {position for start, end in offsets for position in range(start, end)}
    assert offsets == sorted(offsets) and covered == set(range(len(text)))


@pytest.mark.parametrize("backend", [byte_level_backend, byte_fallback_backend])
def test_the_bytes_of_every_token_are_its_text(backend):
    tokenizer = make(backend())
    for id in range(tokenizer.vocab_size):
        text = tokenizer.token_bytes(id).decode("utf-8", "replace")
        assert tokenizer.decode([0, id]) == tokenizer.decode([0]) + text


def test_tokens_without_bytes_of_their_own_say_so():
    assert make(words_backend()).token_bytes(1) is None


def test_a_directory_gives_everything_its_files_say(directory):
    tokenizer = Tokenizer.load(directory)
    assert tokenizer.special_tokens == {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    assert tokenizer.eos_token_id == 2 and tokenizer.bos_token_id is None
    assert tokenizer.special_ids == {0, 1, 2}
    assert tokenizer.chat_templates == {"default": TEMPLATE}
    assert tokenizer.encode("<|im_end|>the") == [2, *tokenizer.encode("the")]


def test_pieces_are_raw_and_ids_outside_have_none(tokenizer):
    assert tokenizer.pieces(tokenizer.encode(" the")) == ["Ġthe"]
    assert tokenizer.piece(tokenizer.vocab_size) == tokenizer.piece(-1) == ""
    assert tokenizer.decode([10**12, *tokenizer.encode("a"), -1]) == "a"


def test_no_token_is_longer_than_max_token_chars(tokenizer):
    longest = max(len(tokenizer.decode([id])) for id in range(tokenizer.vocab_size))
    assert longest <= tokenizer.max_token_chars == len("<|endoftext|>")


def test_special_tokens_are_skipped_only_if_asked(tokenizer):
    ids = tokenizer.encode("<|im_start|>a<tool_call>")
    assert tokenizer.decode(ids) == "<|im_start|>a<tool_call>"
    assert tokenizer.decode(ids, skip_special_tokens=True) == "a<tool_call>"


def test_a_template_file_overrides_the_configuration(directory):
    (directory / "chat_template.jinja").write_text("from the file")
    (directory / "additional_chat_templates").mkdir()
    (directory / "additional_chat_templates" / "tool_use.jinja").write_text("with tools")
    assert Tokenizer.load(directory).chat_templates == {"default": "from the file", "tool_use": "with tools"}


@pytest.mark.parametrize(
    "given", [{"default": "a", "rag": "b"}, [{"name": "default", "template": "a"}, {"name": "rag", "template": "b"}]]
)
def test_named_templates_come_as_a_list_or_an_object(directory, given):
    write_json(directory, "tokenizer_config.json", {"chat_template": given})
    assert Tokenizer.load(directory).chat_templates == {"default": "a", "rag": "b"}


def test_the_tokens_map_helps_where_the_configuration_is_silent(directory):
    write_json(directory, "tokenizer_config.json", {"eos_token": None})
    write_json(directory, "special_tokens_map.json", {"eos_token": {"content": "<|im_end|>"}})
    assert Tokenizer.load(directory).eos_token_id == 2


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_the_end_token_comes_from_the_model_s_files_in_the_end(directory, name):
    write_json(directory, "tokenizer_config.json", {})
    write_json(directory, name, {"eos_token_id": [7, 8]})
    assert Tokenizer.load(directory).eos_token_id == 7


def test_tokens_that_only_the_configuration_knows_are_added(directory):
    token = {"content": "<|new|>", "special": True, "normalized": False}
    write_json(directory, "tokenizer_config.json", {"added_tokens_decoder": {"400": token}, "eos_token": "the"})
    tokenizer = Tokenizer.load(directory)
    assert len(tokenizer.encode("<|new|>")) == 1
    assert tokenizer.eos_token_id in tokenizer.special_ids


def test_padding_and_truncation_in_the_file_are_without_effect(directory):
    backend = byte_level_backend()
    backend.enable_truncation(2)
    backend.enable_padding(length=50)
    backend.save(str(directory / "tokenizer.json"))
    assert len(Tokenizer.load(directory).encode("the quick brown fox")) > 2


def test_threads_share_a_tokenizer(tokenizer):
    texts = [f"the quick {number} fox" * 20 for number in range(8)]
    expected, found = [tokenizer.encode(text) for text in texts], {}
    threads = [
        threading.Thread(
            target=lambda n=n, text=text: found.__setitem__(n, [tokenizer.encode(text) for _ in range(20)])
        )
        for n, text in enumerate(texts)
    ]
    for thread in threads:
        thread.start()
    tokenizer.decode(expected[0])
    for thread in threads:
        thread.join()
    assert all(ids == expected[n] for n, all_ids in found.items() for ids in all_ids)


def test_broken_files_are_named(directory):
    (directory / "tokenizer_config.json").write_text("{")
    with pytest.raises(BadCheckpoint, match=r"tokenizer_config\.json"):
        Tokenizer.load(directory)
    (directory / "tokenizer_config.json").unlink()
    (directory / "tokenizer.json").write_text("{}")
    with pytest.raises(BadCheckpoint, match=r"tokenizer\.json"):
        Tokenizer.load(directory)


def test_a_missing_tokenizer_is_refused(tmp_path):
    with pytest.raises(BadCheckpoint, match="neither a directory nor a file"):
        Tokenizer.load(tmp_path / "nowhere")


def test_a_tokenizer_made_without_its_vocabulary_is_refused(tmp_path):
    """transformers makes a Qwen tokenizer of a few dozen tokens from a configuration alone, and calls it a success."""
    write_json(tmp_path, "config.json", {"model_type": "qwen2", "vocab_size": 151936})
    write_json(tmp_path, "tokenizer_config.json", {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>"})
    with pytest.raises(BadCheckpoint, match=r"has no tokenizer; these are read: tokenizer\.json, tekken\.json"):
        Tokenizer.load(tmp_path)
    write_json(tmp_path, "vocab.json", {"a": 0, "b": 1})
    (tmp_path / "merges.txt").write_text("")
    with pytest.raises(BadCheckpoint, match=r"knows \d+ tokens where config\.json says 151936"):
        Tokenizer.load(tmp_path)


def test_transformers_is_not_imported_for_an_ordinary_directory(directory):
    code = f"import sys; from jaxserve.text.tokenizer import Tokenizer; Tokenizer.load({str(directory)!r}); "
    code += "assert not {'transformers', 'jax', 'numpy', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
