"""PromptRenderer: messages to prompts, by the model's templates or one that came with the request, and to token ids."""

from typing import Any

from jaxserve.config import EngineConfig
from jaxserve.errors import InvalidParameter, PromptTooLong
from jaxserve.faults import Faults
from jaxserve.outputs import RenderedPrompt
from jaxserve.prompt_input import ChatPrompt
from jaxserve.text.chat_template import ChatTemplate, ChatTemplates, read_template
from jaxserve.text.prompt_borders import PromptBorders
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
        self._borders = PromptBorders(tokenizer)
        self._workers = create_pool(Faults.from_config(config))

    @property
    def has_broken_workers(self) -> bool:
        """Whether no worker can be started any more."""
        return self._workers.is_broken

    @property
    def num_restarts(self) -> int:
        """The number of workers that were replaced because a template broke them."""
        return self._workers.num_restarts

    def render_chat(self, prompt: ChatPrompt, *, counting: bool = False) -> RenderedPrompt:
        """Return the prompt of a conversation. counting: as for `encode`.

        Raises InvalidParameter with the template's reason for what cannot be rendered, and PromptTooLong for a prompt
        that is too long whatever its tokens are.
        """
        options = _make_options(prompt)
        if prompt.chat_template is None:
            text = self._select_template(options).render(prompt.messages, **options)
        else:
            text = render_in_worker(
                self._workers,
                prompt.chat_template,
                self._tokenizer.special_tokens,
                prompt.messages,
                options,
                content_format=self._config.chat_template_content_format,
                max_chars=CLIENT_OUTPUT_FACTOR * self._max_chars(counting),
                timeout_s=self._config.request_template_timeout_s,
            )
        return RenderedPrompt(text, self.encode(text, add_special_tokens=prompt.add_special_tokens, counting=counting))

    def find_borders(self, prompt: ChatPrompt, rendered: RenderedPrompt) -> tuple[int, ...]:
        """Return the borders of a prompt that `render_chat` has returned (prompt_borders.py).

        Of one with a template of its own it is the end alone.
        """
        if prompt.chat_template is not None:
            return (len(rendered.token_ids),)
        options = _make_options(prompt)
        return self._borders.find(
            self._select_template(options),
            prompt.messages,
            options,
            rendered.text,
            rendered.token_ids,
            add_special_tokens=prompt.add_special_tokens,
        )

    def _select_template(self, options: dict[str, Any]) -> ChatTemplate:
        return self.templates.select(has_tools=bool(options["tools"] or options["kwargs"].get("tools")))

    def encode(self, text: str, *, add_special_tokens: bool = True, counting: bool = False) -> list[int]:
        """Return the token ids of a text.

        counting: only the number of tokens is needed, so the text may be COUNTING_FACTOR times as long.

        Raises PromptTooLong if the text is too long whatever its tokens are, which is checked first, and
        InvalidParameter if it holds a lone surrogate.
        """
        self.check_text(text, counting=counting)
        return self._tokenizer.encode(text, add_special_tokens=add_special_tokens)

    def check_text(self, text: str, *, counting: bool = False) -> None:
        """Check a text before it is tokenized; counting as for `encode`.

        Raises PromptTooLong if it is too long whatever its tokens are, and InvalidParameter if it holds a lone
        surrogate.
        """
        check_text_length(text, self._max_chars(counting), self._max_tokens)
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InvalidParameter("The prompt has half a character (a lone surrogate).") from None

    def close(self) -> None:
        """Stop the workers. Closing twice is allowed."""
        self._workers.close()

    def _max_chars(self, counting: bool) -> int:
        """Return how many characters the longest prompt has if all its tokens are the longest one."""
        return self._max_tokens * (COUNTING_FACTOR if counting else 1) * self._tokenizer.max_token_chars


def _make_options(prompt: ChatPrompt) -> dict[str, Any]:
    """Return the keyword arguments with which a template renders a conversation."""
    return {
        "tools": None if prompt.tools is None else drop_null_keywords(prompt.tools),
        "documents": prompt.documents,
        "add_generation_prompt": prompt.add_generation_prompt,
        "continue_final_message": prompt.continue_final_message,
        "kwargs": dict(prompt.template_kwargs or {}),
    }


def check_text_length(text: str, max_chars: int, max_tokens: int) -> None:
    """Check, before a text is tokenized, that it could fit whatever its tokens are.

    max_chars    the most characters that are taken
    max_tokens   the model's context, for the error

    Raises PromptTooLong if it could not.
    """
    if len(text) > max_chars:
        raise PromptTooLong(
            f"The prompt is too long: its text has {len(text)} characters, and no more than {max_chars} are taken here."
            f" This model's maximum context length is {max_tokens} tokens. Please reduce the length of the messages or"
            " the prompt."
        )
