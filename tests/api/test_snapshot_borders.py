"""Requests of models with recurrent layers say where later prompts may part; those of other models look for nothing."""

from types import SimpleNamespace

import pytest

from jaxserve import EngineConfig, SamplingParams
from jaxserve.cache.groups import GroupSize
from jaxserve.generation_defaults import GenerationDefaults
from jaxserve.preparation import RequestPreparer
from jaxserve.prompt_input import ChatPrompt, TextPrompt
from jaxserve.request_limits import RequestLimits
from jaxserve.text.prompts import PromptRenderer
from tests.text.tiny_tokenizers import TEMPLATE, byte_level_backend, make

TALK = ChatPrompt(messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}])
NO_PLANS = SimpleNamespace(plan=lambda *_: None)
PAGES, STATES = GroupSize(num_pages=99), GroupSize(num_pages=9, num_rows=2)


@pytest.fixture(scope="module")
def prepare():
    config, tokenizer = (
        EngineConfig(max_model_len=512, max_num_seqs=2, chat_template=TEMPLATE),
        make(byte_level_backend(), "<|im_end|>"),
    )
    prompts, defaults = PromptRenderer(config, tokenizer), GenerationDefaults.from_configs(config, {}, {})

    def prepare(prompt, *groups, **params):
        limits = RequestLimits(config, defaults, tokenizer.vocab_size, groups)
        return RequestPreparer(tokenizer, prompts, NO_PLANS, limits).prepare(prompt, SamplingParams(**params))

    yield prepare
    prompts.close()


def test_a_conversation_has_two_borders(prepare):
    ready = prepare(TALK, PAGES, STATES)
    head, end = ready.snapshot_borders
    assert 0 < head < end < len(ready.prompt_ids)


@pytest.mark.parametrize("prompt", [TextPrompt("once upon a time"), (5, 6, 7)], ids=["text", "tokens"])
def test_another_prompt_has_its_end(prepare, prompt):
    ready = prepare(prompt, PAGES, STATES)
    assert ready.snapshot_borders == (len(ready.prompt_ids),)


def test_a_truncated_prompt_has_its_end(prepare):
    assert prepare(TALK, PAGES, STATES, truncate_prompt_tokens=9).snapshot_borders == (9,)


@pytest.mark.parametrize("prompt", [TALK, TextPrompt("once"), (5, 6, 7)], ids=["chat", "text", "tokens"])
def test_without_recurrent_layers_there_are_none(prepare, prompt):
    assert prepare(prompt, PAGES).snapshot_borders == ()
