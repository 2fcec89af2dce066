"""A FakeLLM that reads for real: a tiny tokenizer, chat templates, helpers. What it says stays made up."""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

from jaxserve import RenderedPrompt
from jaxserve.text.prompts import Prompts
from tests.fakes_llm import FakeLLM
from tests.text.tiny_tokenizers import TEMPLATE, byte_level_backend, make


class ReadingLLM(FakeLLM):
    """templates: by name. Whoever makes one closes its prompts."""

    def __init__(self, templates: dict[str, str] | None = None, **config: Any) -> None:
        super().__init__(**{"max_model_len": 1000, **config})
        self.tokenizer = make(byte_level_backend(), "<|im_end|>")
        self.tokenizer.chat_templates = {"default": TEMPLATE} if templates is None else templates
        self.vocab_size = self.tokenizer.vocab_size
        self.prompts = Prompts(self.config, self.tokenizer)

    async def render_chat(self, messages: list[dict[str, Any]], **how: Any) -> RenderedPrompt:
        return await asyncio.to_thread(partial(self.prompts.render_chat, messages, **how))

    async def encode(self, text: str, *, add_special_tokens: bool = True, counting: bool = False) -> list[int]:
        return self.prompts.encode(text, add_special_tokens=add_special_tokens, counting=counting)

    def decode(self, token_ids: Sequence[int]) -> str:
        return self.tokenizer.decode(token_ids)
