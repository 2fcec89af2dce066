"""One table: what becomes of each request field. The README's table is made from it, the tests hold it to the schemas.

HONOURED   does what the contract says
REFUSED    400 "... is not supported yet" for any value but null and the neutral ones
NO_EFFECT  accepted and type-checked; documented to change nothing here
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import BaseModel

from jaxserve import Unsupported
from server.errors import shown


class Fate(StrEnum):
    HONOURED = "honoured"
    REFUSED = "not supported yet"
    NO_EFFECT = "no effect"


@dataclass(frozen=True, slots=True)
class Support:
    """fate, what to know about it, and the values beside null that a REFUSED field may have."""

    fate: Fate
    note: str = ""
    neutral: tuple[Any, ...] = ()


def _honoured(note: str = "") -> Support:
    return Support(Fate.HONOURED, note)


def _refused(*neutral: Any, note: str = "") -> Support:
    return Support(Fate.REFUSED, note, neutral)


def _no_effect(note: str) -> Support:
    return Support(Fate.NO_EFFECT, note)


SHARED: dict[str, Support] = {
    "model": _honoured("a served name; null or empty: the default"),
    "max_tokens": _honoured("beyond the context: clamped"),
    "n": _honoured("1 when greedy"),
    "seed": _honoured("choice j draws with seed + j"),
    "stop": _honoured("at most 4"),
    "stop_token_ids": _honoured(),
    "ignore_eos": _honoured(),
    "min_tokens": _honoured(),
    "include_stop_str_in_output": _honoured(),
    "skip_special_tokens": _honoured(),
    "stream": _honoured(),
    "stream_options": _honoured("include_usage, continuous_usage_stats"),
    "stream_interval": _honoured("tokens gathered per chunk"),
    "temperature": _honoured("below 1e-5: greedy"),
    "top_p": _honoured(),
    "top_k": _honoured("0 or -1: off"),
    "min_p": _honoured(),
    "repetition_penalty": _honoured(),
    "frequency_penalty": _honoured(),
    "presence_penalty": _honoured(),
    "logit_bias": _honoured("clamped to [-100, 100]"),
    "allowed_token_ids": _honoured(),
    "bad_words": _honoured(),
    "prompt_logprobs": _honoured("not with stream"),
    "echo": _honoured(),
    "add_special_tokens": _honoured(),
    "request_id": _honoured("the header X-Request-Id wins"),
    "return_token_ids": _honoured(),
    "return_tokens_as_token_ids": _honoured(),
    "cache_salt": _honoured(),
    "truncate_prompt_tokens": _honoured("-1: all but one of the context's"),
    "truncation_side": _honoured("left: the last tokens are kept"),
    "priority": _honoured("needs --scheduling-policy priority; the header X-Vllm-Priority wins"),
    "repetition_detection": _honoured(),
    "user": _no_effect(""),
    "session_id": _no_effect("no session routing here"),
    "length_penalty": _no_effect("without beam search"),
    "spaces_between_special_tokens": _no_effect("fast tokenizers put none there"),
    "kv_transfer_params": _no_effect("without a connector"),
    "vllm_xargs": _no_effect("without extensions"),
    "response_format": _refused({"type": "text"}, note="only type text"),
    "structured_outputs": _refused(),
    "use_beam_search": _refused(False),
}
CHAT: dict[str, Support] = SHARED | {
    "messages": _honoured("text only"),
    "max_completion_tokens": _honoured("wins over max_tokens"),
    "logprobs": _honoured(),
    "top_logprobs": _honoured("up to --max-logprobs"),
    "add_generation_prompt": _honoured(),
    "continue_final_message": _honoured("with add_generation_prompt false"),
    "documents": _honoured("if the template uses them"),
    "chat_template_kwargs": _honoured("if the template uses them"),
    "reasoning_effort": _honoured("if the template uses it"),
    "parallel_tool_calls": _no_effect("without tools"),
    "include_reasoning": _no_effect("without a reasoning parser"),
    "tools": _refused(),
    "tool_choice": _refused("none"),
    "chat_template": _refused(),
    "mm_processor_kwargs": _refused({}),
    "thinking_token_budget": _refused(note="needs a reasoning parser"),
    "logprob_token_ids": _refused(),
    "return_prompt_text": _refused(False),
}
COMPLETIONS: dict[str, Support] = SHARED | {
    "prompt": _honoured("text, token ids, or a list of either"),
    "logprobs": _honoured("up to --max-logprobs"),
    "suffix": _refused(note="needs a fill-in-the-middle model"),
    "prompt_embeds": _refused(),
}
TOKENIZE: dict[str, Support] = {
    "model": SHARED["model"],
    "prompt": _honoured("or messages"),
    "messages": CHAT["messages"],
    "add_special_tokens": _honoured(),
    "add_generation_prompt": CHAT["add_generation_prompt"],
    "continue_final_message": CHAT["continue_final_message"],
    "chat_template_kwargs": CHAT["chat_template_kwargs"],
    "return_token_strs": _honoured(),
    "tools": _refused([]),
    "chat_template": CHAT["chat_template"],
    "mm_processor_kwargs": CHAT["mm_processor_kwargs"],
}
DETOKENIZE: dict[str, Support] = {"model": SHARED["model"], "tokens": _honoured()}


def as_markdown(table: Mapping[str, Support]) -> str:
    """The table for people: the fields of each fate, and what to know about them."""
    lines = ["| Field | | |", "|---|---|---|"]
    for fate in Fate:
        rows = sorted((name, one) for name, one in table.items() if one.fate is fate)
        lines += [f"| `{name}` | {fate} | {one.note} |" for name, one in rows]
    return "\n".join(lines)


def refuse_unsupported(request: BaseModel, table: Mapping[str, Support]) -> None:
    """Raises Unsupported for the first field that asks for something this version does not do."""
    for name in sorted(request.model_fields_set & table.keys()):
        value = getattr(request, name)
        if isinstance(value, BaseModel):
            value = value.model_dump(exclude_none=True)
        support = table[name]
        if support.fate is Fate.REFUSED and value is not None and value not in support.neutral:
            raise Unsupported(f"{name} is not supported yet (got {shown(value)}); leave it out.", name)
