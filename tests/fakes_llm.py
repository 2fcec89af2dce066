"""A FakeLLM with AsyncLLM's surface: it says what it was told, when it was told, and remembers what became of it.

One token is one character, its id the character's code point. The model's width is 1000.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from jaxserve import (
    AnswerFormat,
    EngineConfig,
    EngineStopped,
    FinishReason,
    InvalidParameter,
    Logprob,
    NamedTool,
    PromptTooLong,
    RenderedPrompt,
    SamplingParams,
    StatsSnapshot,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
)

VOCAB_SIZE = 1000
CONTEXT = 64
BOS = 1


class FakeTokenizer:
    vocab_size = VOCAB_SIZE
    max_token_chars = 1
    eos_token_id = 2
    bos_token_id = BOS
    chat_templates: ClassVar[dict[str, str]] = {"default": "{{ messages }}"}
    config: ClassVar[dict[str, Any]] = {"tokenizer_class": "Fake", "name_or_path": "/home/somebody/fake"}

    def piece(self, token_id: int) -> str:
        return f"<{token_id}>" if token_id < 32 else chr(token_id)

    def pieces(self, token_ids: Sequence[int]) -> list[str]:
        return [self.piece(one) for one in token_ids]


@dataclass(frozen=True)
class Said:
    """A piece of an answer that is more than content. A token is a character of its reasoning, its text, its calls'
    arguments."""

    text: str = ""
    reasoning: str = ""
    calls: tuple[ToolCallDelta, ...] = ()

    @property
    def spoken(self) -> str:
        return self.reasoning + self.text + "".join(call.arguments for call in self.calls)

    def cut(self, room: int) -> "Said":
        """Its first `room` tokens."""
        reasoning = self.reasoning[:room]
        text = self.text[: room - len(reasoning)]
        room -= len(reasoning) + len(text)
        calls = []
        for call in self.calls:
            if room > 0:
                calls.append(replace(call, arguments=call.arguments[:room]))
                room -= len(call.arguments)
        return Said(text, reasoning, tuple(calls))


@dataclass(frozen=True)
class Prepared:
    params: SamplingParams
    format: AnswerFormat | None
    unenforced: tuple[str, ...] = ()


@dataclass(frozen=True)
class Call:
    prompt_ids: tuple[int, ...]
    params: SamplingParams
    cache_salt: str | None
    prepared: Prepared | None = field(compare=False)

    @property
    def format(self) -> AnswerFormat:
        assert self.prepared is not None and self.prepared.format is not None, "nobody said how to read the answer"
        return self.prepared.format


class FakeLLM:
    """Choice j of every prompt says `pieces[j]`, one delta for each piece, and then stops.

    hold_at     no delta from this number on comes before `release` is set
    fail_at     the delta of this number is `failure` instead
    refusal     raised by check
    impossible  raised by prepare
    unenforced  formats of schemas that what was prepared names
    """

    def __init__(
        self,
        *pieces: Sequence[str | Said],
        tool_parser: str | None = None,
        reasoning_parser: str | None = None,
        **config: Any,
    ) -> None:
        self.pieces = pieces or (("Hel", "lo", " world"),)
        self.tool_parser, self.reasoning_parser = tool_parser, reasoning_parser
        settings: dict[str, Any] = {"model": "fake/model", "max_model_len": CONTEXT, "max_num_seqs": 8}
        self.config = EngineConfig(**{**settings, "max_num_queued_reqs": 64, **config})
        self.tokenizer = FakeTokenizer()
        self.sampling_defaults: dict[str, Any] = {}
        self.vocab_size = VOCAB_SIZE
        self.num_pages = 100
        self.description = {"dtype": "float32"}
        self.is_healthy = True
        self.is_closed = False
        self.calls: list[Call] = []
        self.rendered: list[dict[str, Any]] = []
        self.ends: Counter[str] = Counter()
        self.hold_at: int | None = None
        self.release = asyncio.Event()
        self.fail_at: int | None = None
        self.failure: Exception = EngineStopped("gone")
        self.refusal: Exception | None = None
        self.impossible: Exception | None = None
        self.unenforced: tuple[str, ...] = ()
        self.cached_tokens = 0
        self.stop_reason: int | str | None = None
        self.snapshot = empty_stats()
        self._changed = asyncio.Event()

    async def until(self, holds: Callable[["FakeLLM"], bool]) -> None:
        """Waits until `holds` is true of this fake."""
        while not holds(self):
            self._changed.clear()
            await self._changed.wait()

    async def render_chat(self, messages: list[dict[str, Any]], **how: Any) -> RenderedPrompt:
        self.rendered.append({"messages": messages, **how})
        text = "".join(f"{turn['role'][:1]}:{text_of(turn.get('content'))}|" for turn in messages)
        return RenderedPrompt(text, await self.encode(text, add_special_tokens=how["add_special_tokens"]))

    async def encode(self, text: str, *, add_special_tokens: bool = True, counting: bool = False) -> list[int]:
        return [BOS] * add_special_tokens + [ord(one) % VOCAB_SIZE for one in text]

    def decode(self, token_ids: Sequence[int]) -> str:
        return "".join(self.tokenizer.piece(one) for one in token_ids)

    def admit(self, num_choices: int = 1) -> None:
        if not self.is_healthy:
            raise EngineStopped("The engine is not running; no request can be served.")

    def check(self, prompt_ids: Sequence[int], params: SamplingParams) -> SamplingParams:
        if self.refusal is not None:
            raise self.refusal
        limit = self.config.max_model_len or CONTEXT
        room = limit - len(prompt_ids)
        if room < 1:
            raise PromptTooLong(
                f"The prompt is too long: maximum context length is {limit} tokens, it has {len(prompt_ids)} tokens"
            )
        effective = 0 if params.echo_only else min(room, params.max_tokens or room)
        if params.min_tokens > effective:
            raise InvalidParameter(f"min_tokens must be at most {effective}", "min_tokens")
        return replace(params, max_tokens=effective)

    async def prepare(
        self, params: SamplingParams, format: AnswerFormat | None = None, prompt_ids: Sequence[int] = ()
    ) -> Prepared:
        if self.impossible is not None:
            raise self.impossible
        return Prepared(params, format, self.unenforced)

    async def generate(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        *,
        cache_salt: str | None = None,
        prepared: Prepared | None = None,
    ) -> AsyncGenerator[TextDelta, None]:
        call = Call(tuple(prompt_ids), params, cache_salt, prepared)
        self._note(self.calls.append, call)
        end = "aborted"
        try:
            for number, delta in enumerate(self._deltas(call)):
                if self.hold_at is not None and number >= self.hold_at:
                    await self.release.wait()
                if number == self.fail_at:
                    raise self.failure
                yield delta
            end = "finished"
        finally:
            self._note(self.ends.update, [end])

    def stats(self) -> StatsSnapshot:
        return self.snapshot

    async def close(self) -> None:
        self._note(lambda closed: setattr(self, "is_closed", closed), True)

    def _note(self, change: Callable[[Any], Any], value: Any) -> None:
        change(value)
        self._changed.set()

    def _deltas(self, call: Call) -> list[TextDelta]:
        """All choices' deltas, by turns."""
        by_choice = [self._choice(index, call) for index in range(call.params.n)]
        longest = max(len(deltas) for deltas in by_choice)
        return [deltas[step] for step in range(longest) for deltas in by_choice if step < len(deltas)]

    def _choice(self, index: int, call: Call) -> list[TextDelta]:
        params = call.params
        room, deltas, is_cut = params.max_tokens or 0, [], False
        for piece in self.pieces[index % len(self.pieces)]:
            said = Said(piece) if isinstance(piece, str) else piece
            is_cut = len(said.spoken) >= room
            deltas.append(self._delta(index, said.cut(room) if is_cut else said, params))
            room -= len(said.spoken)
            if is_cut:
                break
        reason = FinishReason.LENGTH if is_cut else FinishReason.STOP
        if not is_cut and any(delta.tool_calls for delta in deltas):
            reason = FinishReason.STOP if isinstance(call.format.tool_choice, NamedTool) else FinishReason.TOOL_CALLS
        deltas[-1] = replace(deltas[-1], finish_reason=reason, stop_reason=None if is_cut else self.stop_reason)
        scored = self._prompt_logprobs(call.prompt_ids, params) if index == 0 else None
        deltas[0] = replace(deltas[0], prompt_logprobs=scored, num_cached_tokens=self.cached_tokens)
        return deltas

    def _delta(self, index: int, said: Said, params: SamplingParams) -> TextDelta:
        ids = tuple(ord(one) for one in said.spoken)
        logprobs = None
        if params.logprobs is not None:
            wanted = tuple(spelled(one, -5.0) for one in params.logprob_token_ids)
            logprobs = tuple(replace(entry(one, params.logprobs), wanted=wanted) for one in ids)
        return TextDelta(
            index,
            said.text,
            ids,
            logprobs,
            reasoning=said.reasoning,
            tool_calls=said.calls,
            num_reasoning_tokens=len(said.reasoning),
        )

    def _prompt_logprobs(
        self, prompt_ids: Sequence[int], params: SamplingParams
    ) -> tuple[TokenLogprob | None, ...] | None:
        count = params.prompt_logprobs
        return None if count is None else (None, *(entry(one, count) for one in prompt_ids[1:]))


def text_of(content: str | list[Any] | None) -> str:
    parts = [content] if isinstance(content, str) else content or []
    return "".join(part if isinstance(part, str) else str(part.get("text")) for part in parts)


def entry(token_id: int, count: int, rank: int = 2) -> TokenLogprob:
    """The token stands in second place; the best is the character before it, third the one after it. Round the edge of
    the vocabulary it goes on."""
    own = spelled(token_id, -1.0, rank)
    others = [
        spelled((token_id - 1) % VOCAB_SIZE, -0.5, 1),
        *(spelled((token_id + place) % VOCAB_SIZE, -1.0 - place) for place in range(1, count)),
    ]
    return TokenLogprob(own.token_id, own.token, own.bytes, own.logprob, rank, (own, *others[:count]))


def spelled(token_id: int, logprob: float, rank: int | None = None) -> Logprob:
    return Logprob(token_id, chr(token_id), tuple(chr(token_id).encode()), logprob, rank)


def empty_stats(**changes: Any) -> StatsSnapshot:
    nothing: dict[str, Any] = {
        "num_requests_running": 0,
        "num_requests_waiting": 0,
        "num_requests_preempted": 0,
        "pages_total": 100,
        "pages_free": 100,
        "pages_active": 0,
        "pages_cached": 0,
        "counters": {},
        "finished": {},
        "rejected": {},
        "histograms": {},
    }
    return StatsSnapshot(**{**nothing, **changes})
