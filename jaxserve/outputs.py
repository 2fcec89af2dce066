"""What comes back: numbers from the engine (TokenOutput), text from the doors (TextDelta)."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Never


class FinishReason(StrEnum):
    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"
    ERROR = "error"
    REPETITION = "repetition"
    TOOL_CALLS = "tool_calls"  # never the engine's: the text that ended with stop was a call


REPETITION_STOP_REASON = "repetition_detected"  # the stop_reason of an answer that repeated itself


@dataclass(frozen=True, slots=True)
class PositionLogprobs:
    """Raw log-probabilities at one position: the token that stands there, and the best ones.

    rank is 1-based over the whole vocabulary; None: not among the best. top holds (token id, logprob), best first;
    wanted the same for ids that were asked for.
    """

    token_id: int
    logprob: float
    rank: int | None
    top: tuple[tuple[int, float], ...] = ()
    wanted: tuple[tuple[int, float], ...] = ()


class TokenOutput(NamedTuple):
    """One request's news after one step, in token ids. The engine knows nothing else.

    One is made for every row of every step, and a frozen dataclass takes six times as long to make: 2.2 µs.

    token_ids            new since the last output; the ending token is included
    logprobs             one entry per new token, when asked for
    prompt_logprobs      once, with the first output: one entry per prompt token, the first is None
    num_cached_tokens    prompt tokens found in the prefix cache
    stop_reason          the stop token id when one other than the primary EOS ended the request, or
                         REPETITION_STOP_REASON; of a
                         beam search also the primary EOS, or what its cursor said
    error                set when finish_reason is ERROR
    """

    request_id: int
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[PositionLogprobs, ...] | None = None
    prompt_logprobs: tuple[PositionLogprobs | None, ...] | None = None
    num_cached_tokens: int = 0
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class Logprob:
    """One token with its log-probability, spelled out.

    token is the token's text where it stands ("" for a part of a character), bytes that text in UTF-8.
    """

    token_id: int
    token: str
    bytes: tuple[int, ...]
    logprob: float
    rank: int | None = None


@dataclass(frozen=True, slots=True)
class TokenLogprob(Logprob):
    """A token that stands in the text, with the best alternatives at its place.

    top starts with the standing token itself, then the best others, best first, without duplicates. wanted are those
    of logprob_token_ids, in their order, whether they stand in top or not.
    """

    top: tuple[Logprob, ...] = ()
    wanted: tuple[Logprob, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """News of one tool call: the first has its id and name, all have the next piece of its arguments (JSON text)."""

    index: int
    arguments: str
    id: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call, whole. arguments is JSON text, as the model wrote it where its format is JSON."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class TextDelta:
    """One choice's news: text that is certain by now, and the tokens behind it.

    text may be empty while half a character, the beginning of a stop string or of a marker waits.
    reasoning and tool_calls are what a reader of chat answers has taken out of it; text is then what is left, the
    content. num_reasoning_tokens counts those of token_ids that stand in the reasoning section.
    After a delta with a finish_reason nothing follows for that index.
    stop_reason is the stop string, or the stop token id, or REPETITION_STOP_REASON, or None for EOS and length.
    prompt_logprobs come once, with the first delta of index 0.
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


@dataclass(frozen=True, slots=True)
class RenderedPrompt:
    """What a chat template made of messages, and its tokens."""

    text: str
    token_ids: list[int]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens paid for: the prompt once, every choice's tokens, and how much of the prompt was cached."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Choice:
    """One finished answer, whole: its content, and what else its reader found."""

    index: int
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    stop_reason: int | str | None = None
    logprobs: tuple[TokenLogprob, ...] | None = None
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    num_reasoning_tokens: int = 0

    def _repr_markdown_(self) -> str:
        """Return what a notebook shows: reasoning as a quotation, the content, the calls, and why it ended."""
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
    """All that one prompt got back. `text` is the first choice's, which is usually the only one.

    `outputs` is vLLM's name for the choices.
    """

    prompt_token_ids: tuple[int, ...]
    choices: tuple[Choice, ...]
    usage: Usage
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None

    @property
    def text(self) -> str:
        return self.choices[0].text

    @property
    def outputs(self) -> tuple[Choice, ...]:
        return self.choices

    def __getitem__(self, index: object) -> Never:
        """Raises TypeError, which says what to write: vLLM gives a list even for one conversation."""
        raise TypeError(
            "this is the Completion of one conversation: write .text or .choices; chat([conversation]) gives a list"
        )

    def _repr_markdown_(self) -> str:
        """Return what a notebook shows: the answer, or all of several with their numbers."""
        if len(self.choices) == 1:
            return self.choices[0]._repr_markdown_()
        return "\n\n".join(f"**{choice.index}**\n\n{choice._repr_markdown_()}" for choice in self.choices)


@dataclass(frozen=True, slots=True)
class HistogramSnapshot:
    """Observations by bucket: counts[i] fell in (bounds[i-1], bounds[i]], the last one above every bound."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum: float


@dataclass(frozen=True, slots=True)
class StatsSnapshot:
    """The engine's numbers at one moment. Names are those of vLLM's metrics without their prefix.

    counters     only ever grow; keys listed in engine/stats.py
    finished     requests that ended, by finish reason
    """

    num_requests_running: int
    num_requests_waiting: int
    num_requests_preempted: int
    pages_total: int
    pages_free: int
    pages_active: int
    pages_cached: int
    counters: Mapping[str, float]
    finished: Mapping[str, int]
    rejected: Mapping[str, int]
    histograms: Mapping[str, HistogramSnapshot]
