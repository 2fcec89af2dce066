"""The token that ends assistant messages in a template is found if the files name another one."""

import pytest

from jaxserve.text.chat_template import ChatTemplates
from jaxserve.text.tokenizer import Tokenizer
from jaxserve.text.turn_ends import find_turn_end
from tests.text.families import FAMILIES, Family, templates_of, tokenizer_of
from tests.text.tiny_tokenizers import TEMPLATE

END = {"Gemma 3": "<end_of_turn>", "ERNIE 4.5": "<|im_end|>", "GLM-4.5": "<|user|>", "GLM-4.7": "<|user|>"}
BETWEEN = "{% for m in messages %}{{ '<|im_start|>' if m.role == 'user' else '' }}{{ m.content }}{% endfor %}"
PLAIN = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
REFUSES = "{{ raise_exception('no') }}"
ALWAYS_PROMPTS = TEMPLATE.replace("{% if add_generation_prompt %}", "{% if true %}")


def found(tokenizer: Tokenizer, source: str, known: set[int]) -> str | None:
    turn_end = find_turn_end(tokenizer, ChatTemplates({"default": source}, {}), known)
    return turn_end and turn_end.token


@pytest.mark.parametrize(
    ("source", "known", "end"),
    [
        (TEMPLATE, {0}, "<|im_end|>"),
        (TEMPLATE, set(), "<|im_end|>"),
        (TEMPLATE, {0, 2}, None),
        (ALWAYS_PROMPTS, {0}, "<|im_end|>"),
        (BETWEEN, {0}, "<|im_start|>"),
        (BETWEEN, {1}, None),
        (PLAIN, {0}, None),
        (REFUSES, {0}, None),
    ],
)
def test_it_is_the_token_after_an_assistant_message_unless_that_is_known(tokenizer, source, known, end):
    assert found(tokenizer, source, known) == end


def test_it_says_what_the_files_name(tokenizer):
    turn_end = find_turn_end(tokenizer, ChatTemplates({"default": TEMPLATE}, {}), {0})
    assert str(turn_end) == "<|im_end|> (the chat template ends answers with it; the files name <|endoftext|>)"


def test_without_a_template_there_is_none(tokenizer):
    assert find_turn_end(tokenizer, ChatTemplates({}, {}), {0}) is None


@pytest.mark.assets
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_family_s_own_end_token_is_enough_or_its_turn_end_is_found(family: Family):
    tokenizer, templates = tokenizer_of(family), templates_of(family)
    assert tokenizer.eos_token_id is not None
    known = find_turn_end(tokenizer, templates, {tokenizer.eos_token_id})
    assert (known and known.token) == END.get(family.name)
    ends = find_turn_end(tokenizer, templates, ())
    assert ends is not None and ends.token == END.get(family.name, tokenizer.special_tokens["eos_token"])
