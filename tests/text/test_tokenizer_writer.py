"""A tokenizer that was written into another directory is the one it was, from whatever files it came."""

import pytest

from jaxserve.text.tokenizer import Tokenizer
from jaxserve.text.tokenizer_writer import write_tokenizer
from tests.text.tokenizer_forms import FORMS

TEXT = "Hello, wörld!  <|end|> 12345\n"


@pytest.mark.parametrize("form", FORMS)
def test_a_written_tokenizer_is_the_same(form, tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    FORMS[form](source)
    write_tokenizer(source, target)
    if (config := source / "config.json").exists():  # convert_model writes it
        (target / config.name).write_text(config.read_text())
    first, second = Tokenizer.load(source), Tokenizer.load(target)
    assert second.encode(TEXT) == first.encode(TEXT)
    assert second.backend.get_vocab() == first.backend.get_vocab()
    for name in ("special_tokens", "eos_token_id", "bos_token_id", "chat_templates"):
        assert getattr(second, name) == getattr(first, name)
    # In a directory the tokens that have names are special, whatever a .gguf file says of their types.
    assert second.special_ids - first.special_ids <= {second.eos_token_id}
