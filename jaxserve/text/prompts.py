"""Messages → prompts, by the model's own templates or by one that came with the request, and texts → token ids."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxserve.config import EngineConfig
from jaxserve.errors import InvalidParameter, PromptTooLong
from jaxserve.outputs import RenderedPrompt
from jaxserve.text.chat_template import ChatTemplates, read_template
from jaxserve.text.request_template import create_pool, render_in_worker
from jaxserve.text.tokenizer import Tokenizer
from jaxserve.text.tool_schemas import drop_null_keywords

COUNTING_FACTOR = 16  # how much longer than the model's length a text to be counted may be
CLIENT_OUTPUT_FACTOR = 4  # how much longer than a prompt what a client's template writes may be


class PromptRenderer:
    """Owns the templates, and the helpers for those that clients send. Several threads may use it.

    templates      the model's own, or the one that was given instead
    num_restarts   helpers that were replaced because a template broke them
    """

    def __init__(self, config: EngineConfig, tokenizer: Tokenizer) -> None:
        assert config.max_model_len
        self._config, self._tokenizer = config, tokenizer
        self._max_tokens = config.max_model_len
        sources = tokenizer.chat_templates
        if config.chat_template is not None:
            sources = {"default": read_template(config.chat_template)}
        self.templates = ChatTemplates(
            sources,
            tokenizer.special_tokens,
            content_format=config.chat_template_content_format,
            timeout_s=config.template_timeout_s,
        )
        self._workers = create_pool()

    @property
    def num_restarts(self) -> int:
        return self._workers.num_restarts

    def render_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        add_special_tokens: bool = False,
        chat_template: str | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
        counting: bool = False,
    ) -> RenderedPrompt:
        """The prompt that these messages come to.

        chat_template    a template that came with the request, and is not trusted; default: the model's own
        template_kwargs  further variables for it
        counting         as for `encode`

        Raises a RequestError for what cannot be rendered, with the template's own reason.
        """
        how = {
            "tools": None if tools is None else drop_null_keywords(tools),
            "documents": documents,
            "add_generation_prompt": add_generation_prompt,
            "continue_final_message": continue_final_message,
            "kwargs": dict(template_kwargs or {}),
        }
        if chat_template is None:
            has_tools = bool(tools or how["kwargs"].get("tools"))
            text = self.templates.select(has_tools=has_tools).render(messages, **how)
        else:
            text = render_in_worker(
                self._workers,
                chat_template,
                self._tokenizer.special_tokens,
                messages,
                how,
                content_format=self._config.chat_template_content_format,
                max_chars=CLIENT_OUTPUT_FACTOR * self._max_chars(counting),
                timeout_s=self._config.request_template_timeout_s,
            )
        return RenderedPrompt(text, self.encode(text, add_special_tokens=add_special_tokens, counting=counting))

    def encode(self, text: str, *, add_special_tokens: bool = True, counting: bool = False) -> list[int]:
        """Text → ids. A text that is too long whatever its tokens are is refused without looking at it.

        counting: only the number is wanted, so more than the model's length is fine, though not without end.
        """
        most = self._max_chars(counting)
        if len(text) > most:
            raise PromptTooLong(
                f"The prompt has {len(text)} characters, and no more than {most} are taken here; this model's maximum"
                f" context length is {self._max_tokens} tokens. Please reduce the length of the messages."
            )
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InvalidParameter("The prompt has half a character (a lone surrogate).") from None
        return self._tokenizer.encode(text, add_special_tokens=add_special_tokens)

    def close(self) -> None:
        """Ends the helpers. Idempotent."""
        self._workers.close()

    def _max_chars(self, counting: bool) -> int:
        """Characters that the longest prompt can have, if all its tokens are the longest."""
        return self._max_tokens * (COUNTING_FACTOR if counting else 1) * self._tokenizer.max_token_chars
