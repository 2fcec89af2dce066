"""Borders of prompts: the numbers of tokens up to which later prompts will probably begin with the same ones.

They are advice: at a border a model with recurrent layers keeps its state, and a wrong one costs a state that nobody
asks for. So they must be cheap. A conversation has two:

* the end of tools and system text, up to the words of the first other message. They are rendered once more with a mark
  in place of that message; their tokens are kept for the next conversation that begins with them.
* the end of the last message. Behind it is the generation prompt, the same for all conversations, which is rendered
  once for each template and its variables. Templates that drop the reasoning of earlier turns write something else
  there in the next turn.

Any other prompt has its end.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import takewhile
from typing import Any

from jaxserve.errors import InvalidParameter
from jaxserve.text.chat_template import ChatTemplate
from jaxserve.text.tokenizer import Tokenizer

_HEAD_ROLES = frozenset({"system", "developer"})
_MARK = "XYZZYPLUGH"
_QUESTION = {"role": "user", "content": _MARK}
MAX_HEADS = 16  # whose tokens are kept
MAX_GENERATION_PROMPTS = 64


class PromptBorders:
    """The finder of borders. It is safe for several threads."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._encode_head = lru_cache(MAX_HEADS)(self._encode)
        self._generation_prompts: dict[tuple[str, str], str] = {}

    def find(
        self,
        template: ChatTemplate,
        messages: Sequence[Mapping[str, Any]],
        options: Mapping[str, Any],
        text: str,
        token_ids: Sequence[int],
        *,
        add_special_tokens: bool = False,
    ) -> tuple[int, ...]:
        """Return the borders of a conversation, ascending.

        options              the keyword arguments of `template.render` with which its text was rendered
        text                 this text
        token_ids            its tokens
        add_special_tokens   the tokenizer has added its special tokens
        """
        # The last token of the head alone may be another one than in the prompt.
        head = self._encode_head(self._find_head(template, messages, options, text), add_special_tokens)
        num_head = _count_common(head, tuple(token_ids[: len(head)]))
        return tuple(sorted({num_head, self._find_end(template, options, text, token_ids)} - {0}))

    def _find_head(
        self,
        template: ChatTemplate,
        messages: Sequence[Mapping[str, Any]],
        options: Mapping[str, Any],
        text: str,
    ) -> str:
        """Return the text before the words of the first message that is not system text; "" if there is none."""
        head = list(takewhile(lambda message: message.get("role") in _HEAD_ROLES, messages))
        if not (head or options.get("tools") or options.get("documents")):
            return ""
        with suppress(InvalidParameter):  # a template may refuse what is no whole conversation
            closed = {**options, "add_generation_prompt": False, "continue_final_message": False}
            rendered, mark, _ = template.render([*head, _QUESTION], **closed).partition(_MARK)
            return text[: _count_common(rendered, text)] if mark else ""
        return ""

    def _find_end(self, template: ChatTemplate, options: Mapping[str, Any], text: str, token_ids: Sequence[int]) -> int:
        """Return the number of tokens before the generation prompt; all, if there is none."""
        if not options["add_generation_prompt"]:
            return len(token_ids)
        generation_prompt = self._get_generation_prompt(template, options["kwargs"])
        tail = self._encode(generation_prompt, False)
        end = len(token_ids) - len(tail)
        is_tail = text.endswith(generation_prompt) and tuple(token_ids[end:]) == tail
        return end if is_tail else len(token_ids)

    def _get_generation_prompt(self, template: ChatTemplate, kwargs: Mapping[str, Any]) -> str:
        key = (template.source, json.dumps(kwargs, sort_keys=True, default=repr))
        known = self._generation_prompts.get(key)
        if known is None:
            if len(self._generation_prompts) >= MAX_GENERATION_PROMPTS:
                self._generation_prompts.clear()
            known = self._generation_prompts[key] = _render_generation_prompt(template, kwargs)
        return known

    def _encode(self, text: str, add_special_tokens: bool) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text, add_special_tokens=add_special_tokens)) if text else ()


def _render_generation_prompt(template: ChatTemplate, kwargs: Mapping[str, Any]) -> str:
    """Return what the template writes behind a question for the model to go on; "" if it refuses the question."""
    with suppress(InvalidParameter):
        opened, closed = (
            template.render([_QUESTION], add_generation_prompt=is_open, kwargs=kwargs) for is_open in (True, False)
        )
        return opened[len(closed) :] if opened.startswith(closed) else ""
    return ""


def _count_common(first: Sequence[Any], second: Sequence[Any]) -> int:
    """Return how many items two texts or tuples have in common at their beginnings, by few comparisons of parts."""
    low, high = 0, min(len(first), len(second))
    middle = high  # mostly all are equal
    while low < high:
        low, high = (middle, high) if first[low:middle] == second[low:middle] else (low, middle - 1)
        middle = (low + high + 1) // 2
    return low
