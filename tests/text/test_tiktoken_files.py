"""Ids from ranked byte strings equal those of the plain rule: join the pair whose joint token ranks lowest."""

import json
from itertools import pairwise

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from jaxserve.errors import BadCheckpoint
from jaxserve.text.tiktoken_files import LLAMA3_SPECIALS, TEKKEN_SPECIALS, read_tekken, read_tiktoken
from tests.text.tiny_tokenizers import write_json
from tests.text.tokenizer_forms import WORDS, ranks, write_tekken, write_tiktoken


def plain_rule(text: str, pattern: str, ranks: dict[bytes, int]) -> list[int]:
    ids: list[int] = []
    for word in regex.findall(pattern, text):
        parts = [bytes([byte]) for byte in word.encode()]
        while joint := [(ranks[a + b], i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in ranks]:
            _, at = min(joint)
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        ids += [ranks[part] for part in parts]
    return ids


@pytest.fixture(scope="module")
def tekken(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tekken")
    write_tekken(directory)
    return read_tekken(directory / "tekken.json")[0]


@given(text=st.text() | st.text("the quick€ "))
def test_tekken_ids_follow_the_ranks(tekken, text):
    expected = plain_rule(text, WORDS, dict(list(ranks(len(TEKKEN_SPECIALS) + 4).items())[:-1]))
    ids = tekken.encode(text, add_special_tokens=False).ids
    assert ids == expected
    assert tekken.decode(ids) == text


def test_tekken_specials_come_first_and_unused_ones_are_filled(tekken):
    pieces = [tekken.id_to_token(id) for id in range(len(TEKKEN_SPECIALS) + 4)]
    assert pieces == [*TEKKEN_SPECIALS, "<SPECIAL_20>", "<SPECIAL_21>", "<SPECIAL_22>", "<SPECIAL_23>"]
    assert tekken.encode("[INST]the").ids[0] == 3


def test_tekken_takes_the_special_tokens_that_a_file_lists(tmp_path):
    write_tekken(tmp_path)
    file = tmp_path / "tekken.json"
    content = json.loads(file.read_text())
    listed = [{"rank": 1, "token_str": "</s>"}, {"rank": 0, "token_str": "<s>"}]
    write_json(tmp_path, file.name, content | {"special_tokens": listed})
    backend, roles = read_tekken(file)
    assert roles == {"bos_token": "<s>", "eos_token": "</s>"}
    assert (backend.token_to_id("</s>"), backend.token_to_id("<SPECIAL_2>")) == (1, 2)
    content["config"]["default_vocab_size"] += 1000
    write_json(tmp_path, file.name, content)
    with pytest.raises(BadCheckpoint, match="announces 24 special tokens"):
        read_tekken(file)


def test_llama_3_s_own_file_gets_llama_3_s_special_tokens(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxserve.text.tiktoken_files.LLAMA3_RANKS", len(ranks()))
    write_tiktoken(tmp_path)
    backend, roles = read_tiktoken(tmp_path / "tokenizer.model", "llama", {})
    assert roles == {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}
    assert backend.token_to_id("<|eot_id|>") - len(ranks()) == 9
    assert len(LLAMA3_SPECIALS) == len(set(LLAMA3_SPECIALS)) == 256
