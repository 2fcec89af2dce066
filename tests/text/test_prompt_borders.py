"""The borders of a conversation are where others go on: behind system text, and behind the last message."""

import pytest

from jaxserve.config import EngineConfig
from jaxserve.prompt_input import ChatPrompt
from jaxserve.text.prompts import PromptRenderer
from tests.text.tiny_tokenizers import TEMPLATE, byte_level_backend, make

SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "Hi"}
TALK = [SYSTEM, USER, {"role": "assistant", "content": "Yes?"}, {"role": "user", "content": "Hi again"}]
HEAD = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n"
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]
WITH_TOOLS = "{% if tools %}{{ tools | tojson }}{% endif %}" + TEMPLATE
THINKING = TEMPLATE.replace("assistant\n", "assistant\n{% if think %}<think>{% endif %}")
OTHERS = "{% for m in messages %}{% if m.role != 'system' %}[{{ m.content }}]{% endif %}{% endfor %}"
MERGES_SYSTEM = OTHERS + "{{ messages[0].content }}"
REFUSES_SHORT = "{% if messages | length < 3 %}{{ raise_exception('no') }}{% endif %}" + TEMPLATE


@pytest.fixture(scope="module")
def find():
    renderers: list[PromptRenderer] = []

    def find(template: str, messages=TALK, **options) -> list[str]:
        """Return the texts before the borders."""
        config = EngineConfig(max_model_len=1000, chat_template=template)
        renderers.append(PromptRenderer(config, make(byte_level_backend(), "<|im_end|>")))
        prompt = ChatPrompt(messages=messages, **options)
        rendered = renderers[-1].render_chat(prompt)
        borders = renderers[-1].find_borders(prompt, rendered)
        assert borders == renderers[-1].find_borders(prompt, rendered)
        return [renderers[-1]._tokenizer.decode(rendered.token_ids[:border]) for border in borders]

    yield find
    for renderer in renderers:
        renderer.close()


def test_they_are_the_words_of_the_first_message_and_the_generation_prompt(find):
    head, end = find(TEMPLATE)
    assert head == HEAD
    assert end.startswith(HEAD + "Hi<|im_end|>") and end.endswith("Hi again<|im_end|>\n")


def test_without_system_text_and_tools_only_the_end_is_one(find):
    assert find(TEMPLATE, [USER]) == ["<|im_start|>user\nHi<|im_end|>\n"]


def test_tools_are_part_of_the_head(find):
    head, _ = find(WITH_TOOLS, [USER], tools=TOOLS)
    assert "look" in head and head.endswith("<|im_start|>user\n")


def test_variables_that_change_the_generation_prompt_do_not_change_the_end(find):
    for think in (True, False):
        [*_, end] = find(THINKING, template_kwargs={"think": think})
        assert end.endswith("Hi again<|im_end|>\n")


@pytest.mark.parametrize("options", [{"add_generation_prompt": False}, {"continue_final_message": True}])
def test_without_a_generation_prompt_the_prompt_itself_ends_there(find, options):
    [*_, end] = find(TEMPLATE, **({"add_generation_prompt": False} | options))
    assert "Hi again" in end and "assistant" not in end.rpartition("Hi again")[2]


def test_a_template_that_puts_system_text_elsewhere_has_what_is_common_as_head(find):
    assert find(MERGES_SYSTEM) == ["[", "[Hi][Yes?][Hi again]Be brief."]


def test_a_template_that_refuses_parts_of_conversations_has_the_end_of_the_prompt(find):
    [end] = find(REFUSES_SHORT)
    assert end.endswith("<|im_start|>assistant\n")


def test_a_template_that_came_with_the_request_has_the_end_of_the_prompt(find):
    assert find("{{ 'x' }}", [USER], chat_template="{{ messages[0].content }}!") == ["Hi!"]
