"""PromptHasher: the page hashes of prompts in a process that does not hold the model."""

from collections.abc import Mapping

from jaxserve.cache.prefix import CacheContext
from jaxserve.config import EngineConfig
from jaxserve.prompt_input import ChatPrompt, PromptInput, TextPrompt
from jaxserve.router import PromptPages, hash_prompt
from jaxserve.text.prompts import PromptRenderer
from jaxserve.text.tokenizer import Tokenizer


class PromptHasher:
    """Renders and tokenizes prompts as a loaded model does, and hashes their pages as its prefix cache does.

    It pickles, with the tokenizer in it, so that another process needs none of the model's files. Threads may share it.
    """

    def __init__(self, config: EngineConfig, tokenizer: Tokenizer, adapter_keys: Mapping[str, str]) -> None:
        """config: as resolved by the loaded model. adapter_keys: of its adapters, by their names."""
        self._config, self._tokenizer, self._adapter_keys = config, tokenizer, dict(adapter_keys)
        self._prompts = PromptRenderer(config, tokenizer)

    def __reduce__(self) -> tuple[type["PromptHasher"], tuple[object, ...]]:
        return PromptHasher, (self._config, self._tokenizer, self._adapter_keys)

    def hash(self, prompt: PromptInput, *, cache_salt: str | None = None, adapter: str | None = None) -> PromptPages:
        """Return the pages of a prompt. adapter: the name of the request's; other names stand for none.

        Parameters that truncate a prompt are not looked at: its pages are then those of the whole one.

        Raises RequestError if it cannot be rendered, or is too long whatever its tokens are.
        """
        context = CacheContext(salt=cache_salt, adapter=self._adapter_keys.get(adapter or ""))
        return hash_prompt(self._tokenize(prompt), self._config.page_size, context)

    def _tokenize(self, prompt: PromptInput) -> "list[int]":
        match prompt:
            case ChatPrompt():
                return self._prompts.render_chat(prompt).token_ids
            case TextPrompt():
                return self._prompts.encode(prompt.text, add_special_tokens=prompt.add_special_tokens)
        return list(prompt)

    def close(self) -> None:
        """End the processes that render templates of clients. Idempotent."""
        self._prompts.close()
