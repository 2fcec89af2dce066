"""The description, range and default of each request field, as JSON Schema keywords.

Types come from the schemas, and whether a field is supported from support.py. The checks themselves are elsewhere, so
the tests try every bound and every default given here against the running app.
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
    """Make the keywords of all fields, by schema name and field name. names: served names of the model."""
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
    """Make the range of a number of alternatives; -1 is allowed if the whole vocabulary is within the limit."""
    limit = llm.config.max_logprobs
    if limit == -1:
        return {"minimum": -1}
    return {"minimum": -1 if limit >= llm.vocab_size else 0, "maximum": limit}


def _model(names: tuple[str, ...]) -> FieldKeywords:
    return {"model": _field("Name of the model.", names[0], enum=[*names, "", None])}


def _sampling(llm: AsyncLLM) -> FieldKeywords:
    def default(name: str) -> Any:
        """Return the model's own default, else the neutral value."""
        value = llm.sampling_defaults.get(name)
        return getattr(DEFAULT_PARAMS, name) if value is None else value

    return {
        "temperature": _field("Sampling temperature; 0 is greedy.", default("temperature"), minimum=0, maximum=2),
        "top_p": _field(
            "Samples from the fewest tokens that together have this probability.",
            default("top_p"),
            exclusiveMinimum=0,
            maximum=1,
        ),
        "top_k": _field(
            "Samples from the k most likely tokens, and those that tie with the last; 0 and -1: all.",
            default("top_k"),
            minimum=-1,
        ),
        "min_p": _field(
            "Least probability of a token, as a share of the best token's.", default("min_p"), minimum=0, maximum=1
        ),
        "seed": _field("Seed of the random numbers, for repeatable sampling; -1 is the same as none."),
        "frequency_penalty": _field(
            "Subtracted from a token's logit for each time that it has been generated.",
            default("frequency_penalty"),
            minimum=-2,
            maximum=2,
        ),
        "presence_penalty": _field(
            "Subtracted from the logit of every token that has been generated.",
            default("presence_penalty"),
            minimum=-2,
            maximum=2,
        ),
        "repetition_penalty": _field(
            "Divides positive logits of tokens in prompt and answer, multiplies negative ones; above 1 discourages.",
            default("repetition_penalty"),
            exclusiveMinimum=0,
        ),
        "logit_bias": _field("Token id → value that is added to its logit.", propertyNames={"pattern": "^[0-9]+$"}),
        "allowed_token_ids": _field("The only tokens that may be sampled.", minItems=1, items=_token_id_schema(llm)),
        "bad_words": _field("Words that are never generated.", items={"type": "string", "minLength": 1}),
        "use_beam_search": _field("Searches for the n most likely answers instead of sampling.", False),
        "length_penalty": _field("Exponent of the length in the score of a beam.", 1),
        "response_format": _field("Format that the answer must have."),
        "structured_outputs": _field(
            "JSON schema, regular expression, list of choices or grammar that the answer must match."
        ),
    }


def _stopping(llm: AsyncLLM, config: ServerConfig) -> FieldKeywords:
    stop = {"maxItems": config.max_stop_strings, "minLength": 1, "maxLength": checks.MAX_STOP_CHARS}
    items = {"type": "string", "minLength": 1, "maxLength": checks.MAX_STOP_CHARS}
    return {
        "max_tokens": _field(
            "Most tokens to generate; none: as many as fit.", minimum=1, maximum=get_max_model_len(llm)
        ),
        "min_tokens": _field("Least tokens to generate.", 0, minimum=0),
        "stop": _field("Strings that end the answer.", items=items, **stop),
        "stop_token_ids": _field(
            "Tokens that end the answer.", maxItems=MAX_STOP_TOKEN_IDS, items=_token_id_schema(llm)
        ),
        "include_stop_str_in_output": _field("Keeps the stop string in the text.", False),
        "ignore_eos": _field("Goes on after the model's own end token.", False),
        "thinking_token_budget": _field("Most tokens of reasoning, which is then ended; -1: no limit.", minimum=-1),
        "repetition_detection": _field("Ends an answer that repeats itself."),
    }


def _delivery(llm: AsyncLLM, config: ServerConfig) -> FieldKeywords:
    label = {"maxLength": checks.MAX_LABEL_CHARS}
    lowest = -(2**63) if llm.config.scheduling_policy == "priority" else 0
    return {
        "n": _field("Number of answers.", 1, minimum=1, maximum=config.max_n),
        "stream": _field("Sends the answer as server-sent events while it is generated.", False),
        "stream_options": _field("Further contents of a stream; only with stream."),
        "stream_interval": _field("Number of tokens that a chunk waits for.", config.stream_interval, minimum=1),
        "echo": _field(
            "Repeats the prompt (of a chat: the last message, if it has the answer's role) in front of the answer.",
            False,
        ),
        "prompt_logprobs": _field(
            "Returns logprobs of the prompt's tokens, with so many alternatives each; -1: all.", **_alternatives(llm)
        ),
        "logprob_token_ids": _field(
            "Tokens whose logprobs are returned at every token of the answer, beside the token's own; needs logprobs.",
            maxItems=MAX_LOGPROB_TOKEN_IDS,
            items=_token_id_schema(llm),
        ),
        "return_token_ids": _field("Returns the token ids of prompt and answer.", False),
        "return_tokens_as_token_ids": _field(
            "Writes tokens in logprobs as token_id:N.", config.return_tokens_as_token_ids
        ),
        "skip_special_tokens": _field(
            "Leaves special tokens out of the text.", llm.sampling_defaults.get("skip_special_tokens") is not False
        ),
        "spaces_between_special_tokens": _field("Puts spaces between special tokens.", True),
        "request_id": _field("Becomes part of the reply's id.", **label),
        "user": _field("Id of the end user.", **label),
        "session_id": _field("Id of the conversation that the request belongs to.", **label),
        "priority": _field(
            "Requests of a lower value are scheduled first.", 0, minimum=lowest, maximum=-lowest - 1 if lowest else 0
        ),
        "cache_salt": _field(
            "Prompts share cached prefixes only with prompts of the same salt.",
            minLength=1,
            maxLength=checks.MAX_SALT_CHARS,
            pattern=r"^[^@/\\\x00]*$",
        ),
        "kv_transfer_params": _field("Parameters of a connector that transfers keys and values between servers."),
        "vllm_xargs": _field("Arguments of extensions."),
    }


def _prompt(llm: AsyncLLM) -> FieldKeywords:
    return {
        "add_special_tokens": _field("Adds the tokenizer's special tokens to the prompt.", False),
        "truncate_prompt_tokens": _field(
            "Number of tokens to which the prompt is truncated; -1: the context's length less one.",
            maximum=get_max_model_len(llm),
            **{"not": {"const": 0}},
        ),
        "truncation_side": _field("Side of the prompt that is truncated.", "left", enum=["left", "right", None]),
    }


def _chat(llm: AsyncLLM) -> FieldKeywords:
    max_len = get_max_model_len(llm)
    choice = {"anyOf": [{"enum": ["none", "auto", "required", None]}, {"type": "object"}]}
    return {
        "messages": {"description": "Messages of the conversation."},
        "max_completion_tokens": _field("Most tokens to generate; none: as many as fit.", minimum=1, maximum=max_len),
        "logprobs": _field("Returns logprobs of the answer's tokens.", False),
        "top_logprobs": _field("Number of alternatives at each token; needs logprobs. -1: all.", **_alternatives(llm)),
        "tools": _field("Functions that the model may call.", minItems=1),
        "tool_choice": _field(
            "Whether a function may or must be called, or which one; by default auto if there are tools, else none.",
            **choice,
        ),
        "parallel_tool_calls": _field("Whether several functions may be called at once.", True),
        "reasoning_effort": _field("Amount of reasoning; none: no reasoning.", enum=[*checks.REASONING_EFFORTS, None]),
        "include_reasoning": _field(
            "Returns the reasoning beside the answer; if false, its token ids and logprobs are left out, too.", True
        ),
        "add_generation_prompt": _field("Ends the prompt with the beginning of an assistant message.", True),
        "continue_final_message": _field("Continues the last message instead of beginning a new one.", False),
        "documents": _field("Documents for the chat template."),
        "chat_template": _field("Chat template that replaces the model's own."),
        "chat_template_kwargs": _field(
            "Further variables of the chat template.", propertyNames={"not": {"enum": sorted(RESERVED_TEMPLATE_KWARGS)}}
        ),
        "mm_processor_kwargs": _field("Arguments of the processor of multimodal models."),
        "return_prompt_text": _field("Returns the rendered prompt as text.", False),
    }


def _completions(llm: AsyncLLM) -> FieldKeywords:
    text, ids = {"type": "string", "minLength": 1}, {"type": "array", "minItems": 1, "items": _token_id_schema(llm)}
    lists = [{"type": "array", "minItems": 1, "items": items} for items in (text, ids)]
    max_len = get_max_model_len(llm)
    return {
        "prompt": {"description": "Text or token ids to complete, or a list of either.", "anyOf": [text, ids, *lists]},
        "prompt_embeds": _field("Embeddings in place of a prompt."),
        "suffix": _field("Text behind the completion."),
        "max_tokens": _field(
            "Most tokens to generate; 0 only with echo.", DEFAULT_MAX_TOKENS, minimum=0, maximum=max_len
        ),
        "logprobs": _field(
            "Returns logprobs of every token, with so many alternatives each; -1: all.", **_alternatives(llm)
        ),
        "add_special_tokens": _field("Adds the tokenizer's special tokens to a text.", True),
    }


def _tokenize(llm: AsyncLLM) -> FieldKeywords:
    chat = _chat(llm)
    longest = TOKENIZE_LENGTH_FACTOR * get_max_model_len(llm) * llm.tokenizer.max_token_chars
    same = ("add_generation_prompt", "continue_final_message", "tools", "tool_choice", "documents")
    return {name: chat[name] for name in (*same, "chat_template", "chat_template_kwargs", "mm_processor_kwargs")} | {
        "prompt": _field("Text to tokenize; either this or messages.", maxLength=longest),
        "messages": _field("Messages to render and tokenize; either these or a prompt."),
        "add_special_tokens": _field("Adds the tokenizer's special tokens; by default to a prompt, not to messages."),
        "reasoning_effort": _field("As for an answer; only with messages."),
        "return_token_strs": _field("Returns the tokenizer's own piece for each id.", False),
    }
