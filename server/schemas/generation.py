"""The fields that chat and completion requests have in common."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from jaxserve import MAX_LOGPROB_TOKEN_IDS, MAX_STOP_TOKEN_IDS, InvalidParameter, RepetitionDetection
from server.errors import preview
from server.schemas.common import Int, Int64, Ints, NestedModel, NumberInt, Strings
from server.schemas.constraint_fields import ResponseFormat, StructuredOutputsJson
from server.schemas.fields import BECOMES_PARAMETER, Purpose, honoured, no_effect, parameter, refused
from server.schemas.limits import max_alternatives, max_model_len, min_alternatives, token_id

MAX_LABEL_CHARS = 256
MAX_SALT_CHARS = 128
MAX_STOP_CHARS = 4096
STOP_TEXT: dict[str, Any] = {"minLength": 1, "maxLength": MAX_STOP_CHARS}
NOT_ZERO: dict[str, Any] = {"not": {"const": 0}}
SHAPES_PROMPT = "test_message_fields.py::TestMessages::test_template_fields_reach_the_template"


class StreamOptions(NestedModel):
    """Further contents of a stream."""

    model_config = ConfigDict(extra="allow")

    include_usage: bool | None = honoured(test="test_chat_stream.py::test_include_usage_adds_one_last_chunk")
    continuous_usage_stats: bool | None = honoured(
        note="with include_usage", test="test_chat_stream.py::test_continuous_usage_counts_each_choice"
    )

    @property
    def is_empty(self) -> bool:
        """Whether nothing is asked for; null means absent."""
        return not self.model_dump(exclude_none=True)


class RepetitionDetectionJson(NestedModel):
    """The repetition that ends an answer: a pattern of so many tokens, so many times at its end."""

    max_pattern_size: Int | None = None
    min_pattern_size: Int | None = None
    min_count: Int | None = None

    def to_parameter(self) -> RepetitionDetection:
        """Return the library's value. Raises InvalidParameter if a number is out of its range."""
        return RepetitionDetection(**self.model_dump(exclude_none=True))


def parse_logit_bias(by_key: Mapping[str, float]) -> tuple[tuple[int, float], ...]:
    """Parse the keys of logit_bias as token ids.

    Raises InvalidParameter, which names all keys that are none, as far as a message may be long.
    """
    bias: dict[int, float] = {}
    invalid_keys: list[str] = []
    for key, value in by_key.items():
        try:
            bias[int(key)] = value
        except ValueError:
            invalid_keys.append(preview(key))
    if invalid_keys:
        raise InvalidParameter(f"logit_bias keys must be token ids, got {', '.join(invalid_keys)}.", "logit_bias")
    return tuple(bias.items())


class GenerationRequest(BaseModel):
    """The fields that chat and completion requests have in common."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    model: str | None = honoured(
        "Name of the model, or of an adapter.",
        Purpose.PROMPT,
        lambda limits: limits.names[0],
        note="a served name, or an adapter's; null or empty: the default",
        test="test_chat_fields.py::test_null_and_empty_models_mean_the_default_and_aliases_are_answered_with_the_first",
        enum=lambda limits: None if limits.has_adapters else [*limits.names, "", None],
    )
    frequency_penalty: float | None = parameter(
        "Subtracted from a token's logit for each time that it has been generated.", Purpose.RESTRICTIONS
    )
    presence_penalty: float | None = parameter(
        "Subtracted from the logit of every token that has been generated.", Purpose.RESTRICTIONS
    )
    repetition_penalty: float | None = parameter(
        "Divides positive logits of tokens in prompt and answer, multiplies negative ones; above 1 discourages.",
        Purpose.RESTRICTIONS,
    )
    logit_bias: dict[str, float] | None = parameter(
        "Token id → value that is added to its logit.",
        Purpose.RESTRICTIONS,
        note="clamped to [-100, 100]",
        convert=parse_logit_bias,
        propertyNames={"pattern": "^[0-9]+$"},
    )
    max_tokens: Int | None = honoured(
        "Most tokens to generate; none: as many as fit.",
        Purpose.LENGTH,
        note="clamped to the room behind the prompt; more than the context: 400",
        test=BECOMES_PARAMETER,
        minimum=1,
        maximum=max_model_len,
    )
    n: Int | None = parameter(
        "Number of answers.", Purpose.SAMPLING, note="1 when greedy", maximum=lambda limits: limits.max_n
    )
    seed: Int64 | None = parameter(
        "Seed of the random numbers, for repeatable sampling; -1 is the same as none.",
        Purpose.SAMPLING,
        note="choice j samples with seed + j",
    )
    stop: str | Strings | None = parameter(
        "Strings that end the answer.",
        Purpose.LENGTH,
        note="at most 4",
        items={"type": "string", **STOP_TEXT},
        maxItems=lambda limits: limits.max_stop_strings,
        **STOP_TEXT,
    )
    stream: bool | None = honoured(
        "Sends the answer as server-sent events while it is generated.",
        Purpose.REPLY,
        False,
        test="test_chat_stream.py::test_role_then_text_then_end",
    )
    stream_options: StreamOptions | None = honoured(
        "Further contents of a stream; only with stream.",
        Purpose.REPLY,
        note="include_usage, continuous_usage_stats",
        test="test_chat_stream.py::test_include_usage_adds_one_last_chunk",
    )
    temperature: float | None = parameter(
        "Sampling temperature; 0 is greedy.", Purpose.SAMPLING, note="below 1e-5: greedy"
    )
    top_p: float | None = parameter(
        "Samples from the fewest tokens that together have this probability.", Purpose.SAMPLING
    )
    top_k: Int | None = parameter(
        "Samples from the k most likely tokens, and those that tie with the last; 0 and -1: all.",
        Purpose.SAMPLING,
        note="0 or -1: off",
    )
    min_p: float | None = parameter("Least probability of a token, as a share of the best token's.", Purpose.SAMPLING)
    user: str | None = no_effect("Id of the end user.", note="", maxLength=MAX_LABEL_CHARS)
    use_beam_search: bool | None = parameter(
        "Searches for the n most likely answers instead of sampling.", Purpose.SAMPLING, note="n is the width"
    )
    length_penalty: float | None = parameter(
        "Exponent of the length in the score of a beam.", Purpose.SAMPLING, 1, note="with use_beam_search"
    )
    stop_token_ids: Ints | None = parameter(
        "Tokens that end the answer.", Purpose.LENGTH, maxItems=MAX_STOP_TOKEN_IDS, items=token_id
    )
    include_stop_str_in_output: bool | None = parameter("Keeps the stop string in the text.", Purpose.LENGTH)
    ignore_eos: bool | None = parameter("Goes on after the model's own end token.", Purpose.LENGTH)
    min_tokens: Int | None = parameter("Least tokens to generate.", Purpose.LENGTH)
    skip_special_tokens: bool | None = parameter("Leaves special tokens out of the text.", Purpose.FORM)
    spaces_between_special_tokens: bool | None = no_effect(
        "Puts spaces between special tokens.", True, note="fast tokenizers put none there"
    )
    truncate_prompt_tokens: Annotated[Int, Field(ge=-1, le=2**63 - 1)] | None = parameter(
        "Number of tokens to which the prompt is truncated; -1: the context's length less one.",
        Purpose.PROMPT,
        note="-1: all but one of the context's",
        maximum=max_model_len,
        **NOT_ZERO,
    )
    truncation_side: str | None = parameter(
        "Side of the prompt that is truncated.",
        Purpose.PROMPT,
        note="left: the last tokens are kept",
        enum=["left", "right", None],
    )
    allowed_token_ids: Ints | None = parameter(
        "The only tokens that may be sampled.", Purpose.RESTRICTIONS, minItems=1, items=token_id
    )
    bad_words: Strings | None = parameter(
        "Words that are never generated.", Purpose.RESTRICTIONS, items={"type": "string", "minLength": 1}
    )
    prompt_logprobs: NumberInt | None = honoured(
        "Returns logprobs of the prompt's tokens, with so many alternatives each; -1: all.",
        Purpose.LOGPROBS,
        note="not with stream",
        test="test_chat_reply.py::TestPromptLogprobs::test_a_table_for_each_token_but_the_first",
        minimum=min_alternatives,
        maximum=max_alternatives,
    )
    echo: bool | None = honoured(
        "Repeats the prompt (of a chat: the last message, if it has the answer's role) in front of the answer.",
        Purpose.PROMPT,
        False,
        test="test_chat_reply.py::TestEcho::test_the_last_message_is_repeated",
    )
    add_special_tokens: bool | None = honoured(
        "Adds the tokenizer's special tokens to the prompt.", Purpose.PROMPT, False, test=SHAPES_PROMPT
    )
    response_format: ResponseFormat | None = honoured(
        "Format that the answer must have.",
        Purpose.FORM,
        note="text, json_object, json_schema, structural_tag; nothing to hold where a call is forced",
        test="test_constraints.py::TestResponseFormat::test_each_type_becomes_its_constraint",
    )
    structured_outputs: StructuredOutputsJson | None = honoured(
        "JSON schema, regular expression, list of choices or grammar that the answer must match.",
        Purpose.FORM,
        note="exactly one of json, regex, choice, grammar, json_object, structural_tag",
        test="test_constraints.py::TestStructuredOutputs::test_each_key_becomes_the_constraint",
    )
    priority: Int64 | None = parameter(
        "Requests of a lower value are scheduled first.",
        Purpose.SCHEDULING,
        note="needs --scheduling-policy priority; the header X-Vllm-Priority wins",
        test="test_chat_fields.py::test_priorities_count_where_they_are_scheduled_by",
        minimum=lambda limits: -(2**63) if limits.is_priority_used else 0,
        maximum=lambda limits: 2**63 - 1 if limits.is_priority_used else 0,
    )
    request_id: str | None = honoured(
        "Becomes part of the reply's id.",
        Purpose.REPLY,
        note="the header X-Request-Id wins",
        test="test_chat_reply.py::TestId::test_the_bodys_id_is_taken",
        maxLength=MAX_LABEL_CHARS,
    )
    return_tokens_as_token_ids: bool | None = honoured(
        "Writes tokens in logprobs as token_id:N.",
        Purpose.REPLY,
        lambda limits: limits.tokens_as_ids,
        test="test_chat_reply.py::TestLogprobs::test_tokens_as_ids_keep_their_bytes",
    )
    return_token_ids: bool | None = honoured(
        "Returns the token ids of prompt and answer.",
        Purpose.REPLY,
        False,
        test="test_chat_reply.py::test_token_ids_on_demand",
    )
    return_token_offsets: bool | None = honoured(
        "With /render: returns for each token of the prompt where it stands in the text.",
        Purpose.REPLY,
        False,
        note="with /render; elsewhere it has no effect",
        test="test_tokens.py::TestRender::test_offsets_say_where_each_token_stands",
    )
    mm_payload: Literal["tensors", "none"] | None = no_effect(
        "With /render: what it returns of images, sounds and videos.", "tensors", note="on models of text"
    )
    return_mm_kwargs: bool | None = no_effect(
        "The old name of mm_payload: false for none.", True, note="on models of text"
    )
    return_weight_versions: bool | None = refused(
        "Returns by which version of the weights each token was computed.",
        False,
        note="weights are loaded once and have no versions",
    )
    routed_experts_prompt_start: Int | None = parameter(
        "Number of tokens at the beginning of the prompt of which no routed experts are returned.",
        Purpose.REPLY,
        note="needs --enable-return-routed-experts; not with stream",
        test="test_routed_experts.py::test_a_start_needs_the_flag_and_a_whole_reply",
        maximum=lambda limits: limits.max_model_len if limits.has_routed_experts else 0,
    )
    cache_salt: str | None = honoured(
        "Prompts share cached prefixes only with prompts of the same salt.",
        Purpose.SCHEDULING,
        test="test_chat_fields.py::test_the_salt_reaches_the_engine",
        minLength=1,
        maxLength=MAX_SALT_CHARS,
        pattern=r"^[^@/\\\x00]*$",
    )
    kv_transfer_params: dict[str, Any] | None = refused(
        "Parameters of a connector that transfers keys and values between servers.",
        {},
        note="needs a transfer connector, which this server has not",
    )
    ec_transfer_params: dict[str, Any] | None = refused(
        "Parameters of a connector that transfers what an encoder has computed between servers.",
        {},
        note="needs a transfer connector, which this server has not",
    )
    watermarking: bool | None = refused(
        "Marks the answer so that a detector can tell who generated it.", False, note="answers carry no watermark"
    )
    vllm_xargs: dict[str, Any] | None = no_effect("Arguments of extensions.", note="without extensions")
    repetition_detection: RepetitionDetectionJson | None = parameter(
        "Ends an answer that repeats itself.", Purpose.LENGTH, convert=RepetitionDetectionJson.to_parameter
    )
    stream_interval: Int | None = honoured(
        "Number of tokens that a chunk waits for.",
        Purpose.REPLY,
        lambda limits: limits.stream_interval,
        note="tokens gathered per chunk",
        test="test_chat_stream.py::test_an_interval_gathers_tokens_but_not_the_first",
        minimum=1,
    )
    session_id: str | None = no_effect(
        "Id of the conversation that the request belongs to.",
        note="no session routing here",
        maxLength=MAX_LABEL_CHARS,
    )
    logprob_token_ids: Ints | None = parameter(
        "Tokens whose logprobs are returned at every token of the answer, beside the token's own; needs logprobs.",
        Purpose.LOGPROBS,
        note="needs logprobs; at most 128, beside the token itself and the best",
        test="test_chat_reply.py::TestLogprobs::test_ids_that_are_asked_for_stand_behind_the_best",
        maxItems=MAX_LOGPROB_TOKEN_IDS,
        items=token_id,
    )
    thinking_token_budget: Int | None = parameter(
        "Most tokens of reasoning, which is then ended; -1: no limit.",
        Purpose.TOOLS,
        note="needs a reasoning parser",
        test="test_reasoning_fields.py::test_a_thinking_token_budget_needs_a_parser",
    )

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """The field stop as a tuple."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def includes_usage(self) -> bool:
        """Whether a stream ends with a chunk that has the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)
