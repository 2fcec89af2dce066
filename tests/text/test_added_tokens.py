"""Which tokens exist, are special and have a name equals transformers, for every odd configuration."""

import pytest

from jaxserve.errors import BadCheckpoint
from jaxserve.text.tokenizer import Tokenizer
from tests.text.odd_tokenizers import CASES, write
from tests.text.tiny_tokenizers import write_json

TEXT = "a<|tag|> <|two|> <|new|> the <|im_end|>  <|endoftext|><|im_start|>b<tool_call>!"


@pytest.mark.parametrize("case", CASES)
def test_tokens_are_as_transformers_has_them(tmp_path, case):
    from transformers import AutoTokenizer

    write(tmp_path, CASES[case])
    theirs, ours = AutoTokenizer.from_pretrained(str(tmp_path)), Tokenizer.load(tmp_path)
    ids = theirs.encode(TEXT, add_special_tokens=False)
    assert ours.encode(TEXT, add_special_tokens=False) == ids
    assert ours.decode(ids) == theirs.decode(ids)
    assert ours.decode(ids, skip_special_tokens=True) == theirs.decode(ids, skip_special_tokens=True)
    assert ours.special_tokens == {name: str(token) for name, token in theirs.special_tokens_map.items()}
    assert ours.eos_token_id == theirs.eos_token_id


@pytest.mark.parametrize("case", CASES)
def test_special_ids_are_those_that_are_hidden(tmp_path, case):
    write(tmp_path, CASES[case])
    tokenizer = Tokenizer.load(tmp_path)
    shown = {id for id in range(tokenizer.vocab_size) if tokenizer.decode([id])}
    assert tokenizer.special_ids == {id for id in shown if not tokenizer.decode([id], skip_special_tokens=True)}


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"extra_special_tokens": {"tag_token": {"text": "x"}}}, "neither a text nor an object with a content"),
        ({"extra_special_tokens": {"tag_token": 7}}, "'7' is neither"),
        ({"eos_token": 7}, "'7' is neither"),
        ({"added_tokens_decoder": {"x": "y"}}, "added tokens .* not readable"),
        ({"added_tokens_decoder": ["y"]}, "added tokens .* not readable"),
    ],
)
def test_a_token_that_is_none_is_refused(directory, config, reason):
    write_json(directory, "tokenizer_config.json", config)
    with pytest.raises(BadCheckpoint, match=reason):
        Tokenizer.load(directory)
