"""A FakeLLM with a real tiny tokenizer, chat templates and worker processes. Its answers are still made up."""

import asyncio
import json
import re
from collections.abc import Sequence
from functools import partial
from typing import Any

from jaxserve import ChatPrompt, RenderedPrompt
from jaxserve.text.prompts import PromptRenderer
from tests.fake_llm import FakeLLM
from tests.server.api import Api
from tests.text.tiny_tokenizers import TEMPLATE, byte_level_backend, make

ECHO_TEMPLATE = (  # everything a template can see, as JSON
    "{{ {'messages': messages, 'tools': tools, 'documents': documents, 'prompt': add_generation_prompt,"
    " 'continue': continue_final_message, 'effort': reasoning_effort|default('unset'),"
    " 'thinking': enable_thinking|default('unset'), 'mood': mood|default('unset')}|tojson }}"
)
PARTS_TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{% for p in m.content %}{{ p.text or p.name }};{% endfor %}{% endfor %}"
)
LEAKS = re.compile(r'0x[0-9a-f]{4}|File "|Traceback|/(home|tmp|root|usr|var|opt)/|site-packages|jaxserve\.|\.py\b')
TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
EXTRA = {"function": {"strict": True, "name": "g", "x": None}, "type": "function", "cache": 1}
USER = {"role": "user", "content": "Hi"}
LAST = {"role": "assistant", "content": ["So", {"type": "refusal", "refusal": "it "}]}
OPEN = {"add_generation_prompt": False, "continue_final_message": True}
ECHO = {"echo": True, **OPEN, "n": 2, "temperature": 1}


class TemplateLLM(FakeLLM):
    """A FakeLLM that renders prompts. templates: by name. Its `prompts` must be closed."""

    def __init__(self, templates: dict[str, str] | None = None, **config: Any) -> None:
        super().__init__(**{"max_model_len": 1000, **config})
        self.tokenizer = make(byte_level_backend(), "<|im_end|>")
        self.tokenizer.chat_templates = {"default": TEMPLATE} if templates is None else templates
        self.vocab_size = self.tokenizer.vocab_size
        self.prompts = PromptRenderer(self.config, self.tokenizer)

    async def render_chat(self, prompt: ChatPrompt, *, counting: bool = False, caller: str = "") -> RenderedPrompt:
        return await asyncio.to_thread(partial(self.prompts.render_chat, prompt, counting=counting))

    async def encode(
        self, text: str, *, add_special_tokens: bool = True, counting: bool = False, caller: str = ""
    ) -> list[int]:
        return self.prompts.encode(text, add_special_tokens=add_special_tokens, counting=counting)

    async def find_token_offsets(
        self, text: str, *, add_special_tokens: bool = True, caller: str = ""
    ) -> list[tuple[int, int]]:
        return self.tokenizer.find_offsets(text, add_special_tokens)

    def decode(self, token_ids: Sequence[int]) -> str:
        return self.tokenizer.decode(token_ids)


async def render(api: Api, *messages, **fields) -> str:
    answer = await api.chat(messages=list(messages or (USER,)), return_prompt_text=True, **fields)
    assert answer.status == 200, answer.text
    return answer.json["prompt_text"]


async def template_variables(api: Api, *messages, **fields):
    return json.loads(await render(api, *messages, **fields))


async def expect_refusal(api: Api, *messages, **fields):
    answer = await api.chat(messages=list(messages or (USER,)), **fields)
    assert (answer.status, answer.error["type"], answer.error["code"]) == (400, "BadRequestError", 400)
    assert list(answer.error) == ["message", "type", "param", "code"]
    assert not LEAKS.search(answer.text), answer.text
    return answer.error
