"""What a request returns: token ids from the engine (TokenOutput), and text (TextDelta, Completion)."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple, Never


class FinishReason(StrEnum):
    """The reason why an output ended."""

    STOP = "stop"  # a stop token, a stop string or the end of a grammar
    LENGTH = "length"  # max_tokens or the model's length
    ABORT = "abort"  # the caller
    ERROR = "error"  # a failure of this request
    REPETITION = "repetition"  # repetition_detection
    TOOL_CALLS = "tool_calls"  # of chat outputs that ended with STOP and made tool calls; the engine never gives it


REPETITION_STOP_REASON = "repetition_detected"  # the stop_reason of an output that repeated itself


@dataclass(frozen=True, slots=True)
class PositionLogprobs:
    """Log-probabilities at one position, in token ids: of the token that stands there, and of alternatives.

    token_id    The token that stands there.
    logprob     Its log-probability.
    rank        Its rank in the whole vocabulary, from 1; None if it is not known.
    top         Pairs (token id, log-probability) of the most likely tokens, best first.
    requested   The same of the ids that the request asked for (logprob_token_ids), in its order.
    """

    token_id: int
    logprob: float
    rank: int | None
    top: tuple[tuple[int, float], ...] = ()
    requested: tuple[tuple[int, float], ...] = ()


class OutputTimes(NamedTuple):
    """The phases of an output so far, in seconds. A NamedTuple for the same reason as TokenOutput.

    queue_s     From its arrival at the engine until it first began to run.
    prefill_s   From then until its first token was on the host.
    decode_s    From then until its newest token was on the host.
    """

    queue_s: float
    prefill_s: float
    decode_s: float


class TokenOutput(NamedTuple):
    """Tokens that one engine step added to one request.

    A NamedTuple, because one is made for every row of every step, and a frozen dataclass takes six times as long to
    make: 2.2 µs.

    request_id           The request, or the choice of a beam search.
    token_ids            The new tokens; a token that ended the output is included.
    logprobs             One entry for each new token if the request asked for them.
    prompt_logprobs      With the first output only: one entry for each prompt token, None for the first token.
    num_cached_tokens    The number of prompt tokens found in the prefix cache.
    finish_reason        Set with the last output.
    stop_reason          The id of the stop token that ended the output unless it is the primary end-of-sequence token,
                         or REPETITION_STOP_REASON; of a beam search also the primary token or the stop string.
    error                Set if finish_reason is ERROR.
    times                Its times so far, of a request that is timed and has tokens.
    pooled               With the only output of a request that pools: float32 [X], or [n, X].
    routed_experts       The experts of the tokens before the newest one that no earlier output has, [n, L, K], if the
                         engine returns them (EngineConfig.enable_return_routed_experts).
    """

    request_id: int
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[PositionLogprobs, ...] | None = None
    prompt_logprobs: tuple[PositionLogprobs | None, ...] | None = None
    num_cached_tokens: int = 0
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    error: Exception | None = None
    times: OutputTimes | None = None
    pooled: Any = None
    routed_experts: Any = None


@dataclass(frozen=True, slots=True)
class Logprob:
    """A token with its log-probability.

    token_id   The token's id.
    token      Its text at this place; "" for a part of a character.
    bytes      Its bytes, of which `token` is the text.
    logprob    The log-probability (or logit, as EngineConfig.logprobs_mode says).
    rank       Its rank in the whole vocabulary, from 1; None if it is not known.
    """

    token_id: int
    token: str
    bytes: tuple[int, ...]
    logprob: float
    rank: int | None = None


@dataclass(frozen=True, slots=True)
class TokenLogprob(Logprob):
    """A token of the output or prompt, with alternatives at its place.

    top         The token itself, then the most likely others, best first, without duplicates.
    requested   The tokens of logprob_token_ids, in their order, whether they are in `top` or not.
    """

    top: tuple[Logprob, ...] = ()
    requested: tuple[Logprob, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """The next piece of one tool call.

    index       The number of the call in this output, from 0.
    arguments   The next piece of its arguments, which are JSON text.
    id, name    Set in the first piece of a call only.
    """

    index: int
    arguments: str
    id: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A whole tool call.

    id          The call's id, to which the tool's result refers.
    name        The function to call.
    arguments   Its arguments as JSON text, exactly as the model wrote them if its format is JSON.
    """

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class TextDelta:
    """The next piece of one choice: text that cannot change any more, and the tokens behind it.

    index                  The number of the choice, from 0.
    text                   The next text, of chat outputs the next content. Empty while a part of a character or of a
                           possible stop string or marker waits for its end.
    token_ids              The tokens since the last delta.
    logprobs               One entry for each of these tokens if the request asked for them.
    prompt_logprobs        With the first delta of choice 0 only: one entry for each prompt token, None for the first.
    finish_reason          Set with the last delta of a choice.
    stop_reason            The stop string or stop token id that ended the output, or REPETITION_STOP_REASON; None for
                           the end-of-sequence token and the length.
    num_cached_tokens      The number of prompt tokens found in the prefix cache.
    reasoning              The next reasoning of a chat output.
    tool_calls             The next pieces of its tool calls.
    num_reasoning_tokens   How many of token_ids are reasoning.
    content_tokens         The numbers, from 0 for the choice's first token, of the tokens that are now known to be
                           content, and no reasoning, marker or call; None: the output is not parsed, and all are.
    times                  The times so far of a choice whose request is timed.
    pooled                 With the only delta of a request that pools: float32 [X], or [n, X].
    routed_experts         The next rows of Choice.routed_experts. Not compared.
    """

    index: int
    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] | None = None
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    num_cached_tokens: int = 0
    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    num_reasoning_tokens: int = 0
    content_tokens: tuple[int, ...] | None = None
    times: OutputTimes | None = None
    pooled: Any = None
    routed_experts: Any = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class RenderedPrompt:
    """A chat prompt as the template rendered it: its text and its token ids."""

    text: str
    token_ids: list[int]


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one request.

    prompt_tokens       Tokens of the prompt, counted once for all choices.
    completion_tokens   Tokens of all choices.
    cached_tokens       Tokens of the prompt that were found in the prefix cache.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class EmbeddingOutput:
    """A text's embedding.

    embedding           Its numbers.
    prompt_token_ids    The tokens of the text.
    num_cached_tokens   The number of these found in the prefix cache.
    """

    embedding: list[float]
    prompt_token_ids: tuple[int, ...]
    num_cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class ClassificationOutput:
    """A text's probability of each label.

    probs              The probabilities, by label.
    label              The name of the most probable one.
    prompt_token_ids   The tokens of the text.
    """

    probs: list[float]
    label: str
    prompt_token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ScoreOutput:
    """The score of a pair of texts.

    score              How well they fit together: more is better.
    prompt_token_ids   The tokens of the pair, of an embedding model those of both texts.
    """

    score: float
    prompt_token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """One whole output of a request.

    index                  The number of the choice, from 0.
    text                   The text, of chat outputs the content.
    token_ids              All its tokens, those of reasoning and tool calls included.
    finish_reason          Why it ended.
    stop_reason            The stop string or stop token id that ended it, or REPETITION_STOP_REASON; None for the
                           end-of-sequence token and the length.
    logprobs               One entry for each token if the request asked for them.
    reasoning              The reasoning of a chat output.
    tool_calls             Its tool calls.
    num_reasoning_tokens   How many of token_ids are reasoning.
    routed_experts         The ids of the experts that the model chose for each token of prompt and output but the last,
                           in each of its L layers, best first: [tokens, L, K], uint8 or uint16. Layers without experts
                           have zeros; the first routed_experts_prompt_start tokens are left out. None without
                           enable_return_routed_experts, and of a beam search. Not compared.
    """

    index: int
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    stop_reason: int | str | None = None
    logprobs: tuple[TokenLogprob, ...] | None = None
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    num_reasoning_tokens: int = 0
    routed_experts: Any = field(default=None, compare=False)

    def _repr_markdown_(self) -> str:
        """Return what a notebook shows: reasoning as a quotation, the content, the tool calls, and why it ended."""
        parts = ["> " + self.reasoning.strip().replace("\n", "\n> ")] if self.reasoning.strip() else []
        parts += [self.text] if self.text else []
        parts += [f"```json\n{call.name}({call.arguments})\n```" for call in self.tool_calls]
        return "\n\n".join([*parts, f"<sub>{self._ending}</sub>"])

    @property
    def _ending(self) -> str:
        ends = {
            FinishReason.LENGTH: "cut at the longest answer; max_tokens= allows more",
            FinishReason.REPETITION: "stopped, because it repeated itself; repetition_detection=None lets it go on",
            FinishReason.ABORT: "aborted",
        }
        count = f"{len(self.token_ids)} token{'' if len(self.token_ids) == 1 else 's'}"
        return f"{count}, {ends[self.finish_reason]}" if self.finish_reason in ends else count


@dataclass(frozen=True, slots=True)
class Completion:
    """The outputs of a request, with its prompt and usage.

    prompt_token_ids   The tokens of the prompt as they were read.
    choices            The outputs, in order; best first for a beam search.
    usage              Token counts.
    prompt_logprobs    One entry for each prompt token, None for the first, if the request asked for them.
    """

    prompt_token_ids: tuple[int, ...]
    choices: tuple[Choice, ...]
    usage: Usage
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None

    @property
    def text(self) -> str:
        """The text of the first choice, which is usually the only one."""
        return self.choices[0].text

    @property
    def outputs(self) -> tuple[Choice, ...]:
        """The choices, under vLLM's name."""
        return self.choices

    def __getitem__(self, index: object) -> Never:
        """Refuse an index with a helpful message: vLLM's chat returns a list even for one conversation.

        Raises TypeError always.
        """
        raise TypeError(
            "this is the Completion of one conversation: write .text or .choices; chat([conversation]) gives a list"
        )

    def _repr_markdown_(self) -> str:
        """Return what a notebook shows: the only choice, or several with their numbers."""
        if len(self.choices) == 1:
            return self.choices[0]._repr_markdown_()
        return "\n\n".join(f"**{choice.index}**\n\n{choice._repr_markdown_()}" for choice in self.choices)
