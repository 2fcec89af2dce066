"""What each field of a request does, its range and its default, as JSON Schema keywords.

The types are the schemas' to say, and what becomes of a field support.py's. The checks themselves are elsewhere, so the
tests try every bound and every default given here against the running app.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jaxserve import MAX_LOGPROB_TOKEN_IDS, MAX_STOP_TOKEN_IDS, SamplingParams
from server.config import RESERVED_TEMPLATE_KWARGS, ServerConfig
from server.jobs import DEFAULT_MAX_TOKENS, TOKENIZE_LENGTH_FACTOR
from server.sampling import get_max_model_len
from server.schemas import checks

if TYPE_CHECKING:
    from jaxserve import AsyncLLM

FieldKeywords = dict[str, dict[str, Any]]
DEFAULT_PARAMS = SamplingParams()


def _field(description: str, default: Any = None, **keywords: Any) -> dict[str, Any]:
    return {"description": description, "default": default, **keywords}


def make_field_keywords(llm: AsyncLLM, config: ServerConfig, names: tuple[str, ...]) -> dict[str, FieldKeywords]:
    """By the schemas' names, then by the fields'."""
    shared = _model(names) | _sampling(llm) | _stopping(llm, config) | _delivery(llm, config) | _prompt(llm)
    return {
        "ChatRequest": shared | _chat(llm),
        "CompletionRequest": shared | _completions(llm),
        "TokenizeRequest": _model(names) | _tokenize(llm),
        "DetokenizeRequest": _model(names) | {"tokens": {"description": "Token ids.", "items": _token_id_schema(llm)}},
    }


def _token_id_schema(llm: AsyncLLM) -> dict[str, Any]:
    return {"type": "integer", "minimum": 0, "maximum": llm.vocab_size - 1}


def _alternatives(llm: AsyncLLM) -> dict[str, Any]:
    """-1, the whole vocabulary, is for models whose vocabulary is no larger than the limit, if there is one."""
    most = llm.config.max_logprobs
    if most == -1:
        return {"minimum": -1}
    return {"minimum": -1 if most >= llm.vocab_size else 0, "maximum": most}


def _model(names: tuple[str, ...]) -> FieldKeywords:
    return {"model": _field("The model that is asked.", names[0], enum=[*names, "", None])}


def _sampling(llm: AsyncLLM) -> FieldKeywords:
    def sampled(name: str) -> Any:
        """The model's own default, else the neutral value."""
        own = llm.sampling_defaults.get(name)
        return getattr(DEFAULT_PARAMS, name) if own is None else own

    return {
        "temperature": _field("How bold the draw is.", sampled("temperature"), minimum=0, maximum=2),
        "top_p": _field(
            "Draws from the fewest tokens that together have this probability.",
            sampled("top_p"),
            exclusiveMinimum=0,
            maximum=1,
        ),
        "top_k": _field("Draws from the k best tokens and those that tie with the last.", sampled("top_k"), minimum=-1),
        "min_p": _field(
            "Drops tokens below this share of the best one's probability.", sampled("min_p"), minimum=0, maximum=1
        ),
        "seed": _field("Makes the draw repeatable; -1 is the same as none."),
        "frequency_penalty": _field(
            "Taken from a token's logit each time it has been generated.",
            sampled("frequency_penalty"),
            minimum=-2,
            maximum=2,
        ),
        "presence_penalty": _field(
            "Taken once from the logit of a token in the answer.", sampled("presence_penalty"), minimum=-2, maximum=2
        ),
        "repetition_penalty": _field(
            "Divides the logits of tokens in prompt and answer; above 1 discourages.",
            sampled("repetition_penalty"),
            exclusiveMinimum=0,
        ),
        "logit_bias": _field("Token id → what is added to its logit.", propertyNames={"pattern": "^[0-9]+$"}),
        "allowed_token_ids": _field("No other token is drawn.", minItems=1, items=_token_id_schema(llm)),
        "bad_words": _field("Words that are never generated.", items={"type": "string", "minLength": 1}),
        "use_beam_search": _field("Searches for the n most likely answers instead of drawing.", False),
        "length_penalty": _field("Exponent of the length in a beam's score.", 1),
        "response_format": _field("The form that the answer must have."),
        "structured_outputs": _field("A schema, pattern, list or grammar that the answer must follow."),
    }


def _stopping(llm: AsyncLLM, config: ServerConfig) -> FieldKeywords:
    stop = {"maxItems": config.max_stop_strings, "minLength": 1, "maxLength": checks.MAX_STOP_CHARS}
    items = {"type": "string", "minLength": 1, "maxLength": checks.MAX_STOP_CHARS}
    return {
        "max_tokens": _field(
            "Most tokens to generate; none: as many as fit.", minimum=1, maximum=get_max_model_len(llm)
        ),
        "min_tokens": _field("No end before this many tokens.", 0, minimum=0),
        "stop": _field("Strings that end the answer.", items=items, **stop),
        "stop_token_ids": _field(
            "Tokens that end the answer.", maxItems=MAX_STOP_TOKEN_IDS, items=_token_id_schema(llm)
        ),
        "include_stop_str_in_output": _field("Keeps the stop string in the text.", False),
        "ignore_eos": _field("Goes on after the model's own end token.", False),
        "thinking_token_budget": _field("Most tokens of thought, which is then made to end; -1: no limit.", minimum=-1),
        "repetition_detection": _field("Ends an answer that goes round in circles."),
    }


def _delivery(llm: AsyncLLM, config: ServerConfig) -> FieldKeywords:
    label = {"maxLength": checks.MAX_LABEL_CHARS}
    lowest = -(2**63) if llm.config.scheduling_policy == "priority" else 0
    return {
        "n": _field("How many answers.", 1, minimum=1, maximum=config.max_n),
        "stream": _field("Sends the answer in events while it is made.", False),
        "stream_options": _field("What a stream tells beside the text; only with stream."),
        "stream_interval": _field("How many tokens a chunk waits for.", config.stream_interval, minimum=1),
        "echo": _field(
            "Repeats the prompt (of a chat: the last message, if it has the answer's role) in front.", False
        ),
        "prompt_logprobs": _field(
            "Scores every token of the prompt, with so many alternatives; -1: all.", **_alternatives(llm)
        ),
        "logprob_token_ids": _field(
            "Tokens whose scores are told at every token of the answer, beside the token's own; needs logprobs.",
            maxItems=MAX_LOGPROB_TOKEN_IDS,
            items=_token_id_schema(llm),
        ),
        "return_token_ids": _field("Tells the ids of prompt and answer.", False),
        "return_tokens_as_token_ids": _field(
            "Shows tokens in logprobs as token_id:N.", config.return_tokens_as_token_ids
        ),
        "skip_special_tokens": _field(
            "Leaves special tokens out of the text.", llm.sampling_defaults.get("skip_special_tokens") is not False
        ),
        "spaces_between_special_tokens": _field("Puts spaces between special tokens.", True),
        "request_id": _field("Becomes part of the answer's id.", **label),
        "user": _field("Who asks.", **label),
        "session_id": _field("Which conversation this belongs to.", **label),
        "priority": _field("Lower goes first.", 0, minimum=lowest, maximum=-lowest - 1 if lowest else 0),
        "cache_salt": _field(
            "Prompts share cached prefixes only under the same salt.",
            minLength=1,
            maxLength=checks.MAX_SALT_CHARS,
            pattern=r"^[^@/\\\x00]*$",
        ),
        "kv_transfer_params": _field("For a connector that moves keys and values between servers."),
        "vllm_xargs": _field("For extensions."),
    }


def _prompt(llm: AsyncLLM) -> FieldKeywords:
    return {
        "add_special_tokens": _field("Adds the tokenizer's own special tokens to the prompt.", False),
        "truncate_prompt_tokens": _field(
            "Keeps so many tokens of the prompt; -1: all but one of the context's.",
            maximum=get_max_model_len(llm),
            **{"not": {"const": 0}},
        ),
        "truncation_side": _field("Which side of the prompt is cut off.", "left", enum=["left", "right", None]),
    }


def _chat(llm: AsyncLLM) -> FieldKeywords:
    most = get_max_model_len(llm)
    choice = {"anyOf": [{"enum": ["none", "auto", "required", None]}, {"type": "object"}]}
    return {
        "messages": {"description": "The conversation so far."},
        "max_completion_tokens": _field("Most tokens to generate; none: as many as fit.", minimum=1, maximum=most),
        "logprobs": _field("Scores every token of the answer.", False),
        "top_logprobs": _field("Alternatives at each token; needs logprobs. -1: all.", **_alternatives(llm)),
        "tools": _field("Functions that the model may call.", minItems=1),
        "tool_choice": _field(
            "Whether a function may or must be called, or which; with tools auto, else none.", **choice
        ),
        "parallel_tool_calls": _field("Whether several functions may be called at once.", True),
        "reasoning_effort": _field(
            "How long the model thinks; none: not at all.", enum=[*checks.REASONING_EFFORTS, None]
        ),
        "include_reasoning": _field(
            "Tells the thoughts beside the answer; their tokens are told or kept back with them.", True
        ),
        "add_generation_prompt": _field("Ends the prompt with the start of an answer.", True),
        "continue_final_message": _field("Goes on with the last message instead of a new one.", False),
        "documents": _field("Texts for the template to include."),
        "chat_template": _field("A template in place of the model's own."),
        "chat_template_kwargs": _field(
            "More for the template.", propertyNames={"not": {"enum": sorted(RESERVED_TEMPLATE_KWARGS)}}
        ),
        "mm_processor_kwargs": _field("For models that see and hear."),
        "return_prompt_text": _field("Tells the prompt as text.", False),
    }


def _completions(llm: AsyncLLM) -> FieldKeywords:
    text, ids = {"type": "string", "minLength": 1}, {"type": "array", "minItems": 1, "items": _token_id_schema(llm)}
    lists = [{"type": "array", "minItems": 1, "items": items} for items in (text, ids)]
    most = get_max_model_len(llm)
    return {
        "prompt": {"description": "What the model goes on from.", "anyOf": [text, ids, *lists]},
        "prompt_embeds": _field("The prompt as vectors."),
        "suffix": _field("The text behind the gap to be filled."),
        "max_tokens": _field("Most tokens to generate; 0 only with echo.", DEFAULT_MAX_TOKENS, minimum=0, maximum=most),
        "logprobs": _field("Scores every token, with so many alternatives; -1: all.", **_alternatives(llm)),
        "add_special_tokens": _field("Adds the tokenizer's own special tokens to a text.", True),
    }


def _tokenize(llm: AsyncLLM) -> FieldKeywords:
    chat = _chat(llm)
    longest = TOKENIZE_LENGTH_FACTOR * get_max_model_len(llm) * llm.tokenizer.max_token_chars
    same = ("add_generation_prompt", "continue_final_message", "tools", "tool_choice", "documents")
    return {name: chat[name] for name in (*same, "chat_template", "chat_template_kwargs", "mm_processor_kwargs")} | {
        "prompt": _field("A text; either this or messages.", maxLength=longest),
        "messages": _field("A conversation; either this or a prompt."),
        "add_special_tokens": _field("Adds the tokenizer's special tokens; by default to a prompt, not to messages."),
        "reasoning_effort": _field("As for an answer; with messages."),
        "return_token_strs": _field("Tells the tokenizer's own piece for each id.", False),
    }
