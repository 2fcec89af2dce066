"""PromptRenderer: messages to prompts, by the model's templates or one that came with the request, and to token ids."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxserve.config import EngineConfig
from jaxserve.errors import InvalidParameter, PromptTooLong
from jaxserve.outputs import RenderedPrompt
from jaxserve.text.chat_template import ChatTemplates, read_template
from jaxserve.text.request_template import create_pool, render_in_worker
from jaxserve.text.tokenizer import Tokenizer
from jaxserve.text.tool_schemas import drop_null_keywords

COUNTING_FACTOR = 16  # a text that is only counted may be so many times as long as the model's context
CLIENT_OUTPUT_FACTOR = 4  # a client's template may write so many times the longest prompt


class PromptRenderer:
    """Renderer and tokenizer of prompts. It is safe for several threads.

    templates   The model's templates, or the one that replaces them.
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
        """The number of workers that were replaced because a template broke them."""
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
        """Return the prompt for these messages.

        tools, documents         Variables of the template.
        add_generation_prompt    The prompt ends with the beginning of an assistant message.
        continue_final_message   The prompt ends within the last message.
        add_special_tokens       The tokenizer adds its own special tokens to the rendered text.
        chat_template            A template that came with the request, and is not trusted; None: the model's own.
        template_kwargs          Further variables of the template.
        counting                 As for `encode`.

        Raises InvalidParameter with the template's reason for what cannot be rendered, and PromptTooLong for a prompt
        that is too long whatever its tokens are.
        """
        options = {
            "tools": None if tools is None else drop_null_keywords(tools),
            "documents": documents,
            "add_generation_prompt": add_generation_prompt,
            "continue_final_message": continue_final_message,
            "kwargs": dict(template_kwargs or {}),
        }
        if chat_template is None:
            has_tools = bool(tools or options["kwargs"].get("tools"))
            text = self.templates.select(has_tools=has_tools).render(messages, **options)
        else:
            text = render_in_worker(
                self._workers,
                chat_template,
                self._tokenizer.special_tokens,
                messages,
                options,
                content_format=self._config.chat_template_content_format,
                max_chars=CLIENT_OUTPUT_FACTOR * self._max_chars(counting),
                timeout_s=self._config.request_template_timeout_s,
            )
        return RenderedPrompt(text, self.encode(text, add_special_tokens=add_special_tokens, counting=counting))

    def encode(self, text: str, *, add_special_tokens: bool = True, counting: bool = False) -> list[int]:
        """Return the token ids of a text.

        counting: only the number of tokens is needed, so the text may be COUNTING_FACTOR times as long.

        Raises PromptTooLong if the text is too long whatever its tokens are, which is checked first, and
        InvalidParameter if it holds a lone surrogate.
        """
        max_chars = self._max_chars(counting)
        if len(text) > max_chars:
            raise PromptTooLong(
                f"The prompt has {len(text)} characters, and no more than {max_chars} are taken here; this model's"
                f" maximum context length is {self._max_tokens} tokens. Please reduce the length of the messages."
            )
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InvalidParameter("The prompt has half a character (a lone surrogate).") from None
        return self._tokenizer.encode(text, add_special_tokens=add_special_tokens)

    def close(self) -> None:
        """Stop the workers. Closing twice is allowed."""
        self._workers.close()

    def _max_chars(self, counting: bool) -> int:
        """Return how many characters the longest prompt has if all its tokens are the longest one."""
        return self._max_tokens * (COUNTING_FACTOR if counting else 1) * self._tokenizer.max_token_chars
