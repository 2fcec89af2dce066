"""PromptRenderer: messages become text and ids, by the model's template or that of the request."""

import pytest

from jaxserve.config import EngineConfig
from jaxserve.errors import BadConfig, EngineStopped, InvalidParameter, PromptTooLong
from jaxserve.prompt_input import ChatPrompt
from jaxserve.text.prompts import CLIENT_OUTPUT_FACTOR, COUNTING_FACTOR, PromptRenderer
from tests.text.tiny_tokenizers import byte_level_backend, make

MESSAGES = [{"role": "user", "content": "Hi"}]
LENGTH = 20


@pytest.fixture(scope="module")
def prompts():
    config = EngineConfig(
        max_model_len=LENGTH, chat_template="{{ messages[0].content }}!", request_template_timeout_s=9
    )
    prompts = PromptRenderer(config, make(byte_level_backend(), "<|im_end|>"))
    yield prompts
    prompts.close()


@pytest.fixture(scope="module")
def max_chars(prompts):
    return LENGTH * prompts._tokenizer.max_token_chars


def test_a_prompt_has_its_text_and_its_ids(prompts):
    for template, text in [(None, "Hi!"), ("{{ messages[0].content }}?", "Hi?")]:
        prompt = prompts.render_chat(ChatPrompt(messages=MESSAGES, chat_template=template))
        assert (prompt.text, prompts._tokenizer.decode(prompt.token_ids)) == (text, text)


def test_what_no_tokens_could_hold_is_refused_unread(prompts, max_chars):
    for factor, counting in ((1, False), (COUNTING_FACTOR, True)):
        assert prompts.encode("x" * factor * max_chars, counting=counting)
        with pytest.raises(PromptTooLong, match="maximum context length is 20 tokens"):
            prompts.encode("x" * (factor * max_chars + 1), counting=counting)


def test_a_client_s_template_may_write_a_little_more_than_that(prompts, max_chars):
    most = CLIENT_OUTPUT_FACTOR * max_chars
    with pytest.raises(PromptTooLong):
        prompts.render_chat(ChatPrompt(messages=MESSAGES, chat_template=f"{{{{ 'x' * {most} }}}}"))
    with pytest.raises(InvalidParameter, match="too large"):
        prompts.render_chat(ChatPrompt(messages=MESSAGES, chat_template=f"{{{{ 'x' * {most + 1} }}}}"))


def test_a_client_s_template_gets_no_more_memory_than_a_helper_has():
    prompts = PromptRenderer(EngineConfig(max_model_len=1_000_000), make(byte_level_backend()))
    grows = "{% set n = namespace(x=[]) %}{% for i in range(99) %}{% set n.x = n.x + ['x' * 9000000] %}{% endfor %}"
    try:
        with pytest.raises(InvalidParameter, match="memory"):
            prompts.render_chat(ChatPrompt(messages=MESSAGES, chat_template=grows))
        assert prompts.render_chat(ChatPrompt(messages=MESSAGES, chat_template="x")).text == "x"
    finally:
        prompts.close()


def test_half_a_character_has_no_tokens(prompts):
    with pytest.raises(InvalidParameter, match="lone surrogate"):
        prompts.encode("\ud800")
    with pytest.raises(InvalidParameter, match="lone surrogate"):
        prompts.render_chat(ChatPrompt(messages=[{"role": "user", "content": "\udfff"}]))


def test_the_last_of_several_parts_is_continued(prompts):
    template = "{% for m in messages %}{% for p in m.content %}[{{ p.text or p.name }}]{% endfor %}{% endfor %}"
    for last, text in [("b ", "[a][b "), ({"type": "tool_reference", "name": "b"}, "[a][b][")]:
        messages = [{"role": "assistant", "content": ["a", last]}]
        how = {"chat_template": template, "add_generation_prompt": False, "continue_final_message": True}
        assert prompts.render_chat(ChatPrompt(messages=messages, **how)).text == text


def test_closed_it_still_reads_with_its_own_template():
    prompts = PromptRenderer(EngineConfig(max_model_len=LENGTH, chat_template="{{ 'x' }}"), make(byte_level_backend()))
    prompts.close()
    assert prompts.render_chat(ChatPrompt(messages=MESSAGES)).text == "x"
    with pytest.raises(EngineStopped):
        prompts.render_chat(ChatPrompt(messages=MESSAGES, chat_template="x"))


@pytest.mark.parametrize("name", ["template_timeout_s", "request_template_timeout_s"])
def test_a_time_limit_must_leave_some_time(name):
    with pytest.raises(BadConfig, match=name):
        EngineConfig(**{name: 0})
