"""FakeLLM: the interface of AsyncLLM without a model. It generates given texts and records the calls.

One token is one character, its id the character's code point. The vocabulary has 1000 ids.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from jaxserve import (
    Adapter,
    ChatOutputSpec,
    ChatPrompt,
    DeviceMemory,
    EngineConfig,
    EngineStopped,
    FinishReason,
    InspectedEngine,
    LoadedAdapter,
    Logprob,
    NamedTool,
    OutputTimes,
    QueueSlot,
    RenderedPrompt,
    SamplingParams,
    StatsSnapshot,
    TextDelta,
    TextPrompt,
    TokenLogprob,
    ToolCallDelta,
)
from jaxserve.adapter_registry import AdapterRegistry
from jaxserve.admission import AdmissionQueue
from jaxserve.cache.groups import GroupSize
from jaxserve.engine.stats import Stats
from jaxserve.engine_snapshot import CacheGroupStats
from jaxserve.generation_defaults import GenerationDefaults
from jaxserve.layers.param_spec import ParamPath, ParamSpec
from jaxserve.models.pooling_spec import PoolingTask, PoolingTaskName
from jaxserve.output_plan import check_thinking_budget, check_tool_choice
from jaxserve.replica import sum_stats
from jaxserve.request_limits import RequestLimits, check_rank
from jaxserve.sampling_params import check_token_ids
from jaxserve.text.dialects import REASONING_PARSERS
from jaxserve.text.prompts import COUNTING_FACTOR, check_text_length

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
class Piece:
    """A piece of an output with reasoning or tool calls. Each character of reasoning, text and arguments is a token."""

    text: str = ""
    reasoning: str = ""
    calls: tuple[ToolCallDelta, ...] = ()

    @property
    def all_text(self) -> str:
        return self.reasoning + self.text + "".join(call.arguments for call in self.calls)

    def truncate(self, num_tokens: int) -> "Piece":
        """Return the first tokens."""
        reasoning = self.reasoning[:num_tokens]
        text = self.text[: num_tokens - len(reasoning)]
        num_tokens -= len(reasoning) + len(text)
        calls = []
        for call in self.calls:
            if num_tokens > 0:
                calls.append(replace(call, arguments=call.arguments[:num_tokens]))
                num_tokens -= len(call.arguments)
        return Piece(text, reasoning, tuple(calls))


@dataclass(frozen=True)
class FakeReady:
    """What `prepare` returns. It is equal to another for the same tokens and parameters."""

    prompt_ids: tuple[int, ...]
    params: SamplingParams
    cache_salt: str | None
    output: ChatOutputSpec | None = field(compare=False)
    unenforced_formats: tuple[str, ...] = field(default=(), compare=False)
    is_truncated: bool = field(default=False, compare=False)
    prompt_text: str | None = field(default=None, compare=False)
    data_parallel_rank: int | None = field(default=None, compare=False)
    adapter: Adapter | None = None
    slot: QueueSlot | None = field(default=None, compare=False)

    @property
    def spec(self) -> ChatOutputSpec:
        assert self.output is not None, "nobody said how to read the answer"
        return self.output


class FakeRunning:
    """A request whose deltas a task makes."""

    def __init__(self, task: "asyncio.Task[None]") -> None:
        self._task = task

    def cancel(self) -> None:
        self._task.cancel()


class FakeLLM:
    """Generates `pieces[j]` for choice j of every prompt, one delta for each piece.

    hold_at            deltas from this number on wait until `release` is set
    pause_turns        turns of the event loop before each delta; with 10 a stream has taken the one before
    fail_at            instead of the delta of this number `generate_error` is raised
    validate_error     raised by prepare when it checks the prompt
    plan_error         raised by prepare when it compiles the grammar
    times              the times that timed requests tell with their last delta
    unenforced_formats formats that prepared requests name as not enforced
    snapshots          the metrics of each replica
    device_memory      that of the devices of each replica
    engines            what `inspect` returns
    orders             what it was told to do: pause, resume, reset, recompute
    registry           its adapters, of a model with the weights `params`
    """

    def __init__(
        self,
        *pieces: Sequence[str | Piece],
        tool_parser: str | None = None,
        reasoning_parser: str | None = None,
        params: Mapping[ParamPath, ParamSpec] | None = None,
        **config: Any,
    ) -> None:
        self.pieces = pieces or (("Hel", "lo", " world"),)
        self.tool_parser, self.reasoning_parser = tool_parser, reasoning_parser
        dialect = REASONING_PARSERS.get(reasoning_parser or "")
        self.reasoning_efforts = None if dialect is None else dialect.efforts
        settings: dict[str, Any] = {"model": "fake/model", "max_model_len": CONTEXT, "max_num_seqs": 8}
        self.config = EngineConfig(**{**settings, "block_size": 16, "max_num_queued_reqs": 64, **config})
        self.tokenizer = FakeTokenizer()
        self.sampling_defaults: dict[str, Any] = {}
        self.vocab_size = VOCAB_SIZE
        self.task: PoolingTask | None = None
        self.num_pages = 100
        self.description = {"dtype": "float32"}
        self.is_healthy = True
        self.is_dead = False
        self.is_closed = False
        self.calls: list[FakeReady] = []
        self.rendered: list[dict[str, Any]] = []
        self.ends: Counter[str] = Counter()
        self.hold_at: int | None = None
        self.release = asyncio.Event()
        self.pause_turns = 0
        self.fail_at: int | None = None
        self.generate_error: Exception = EngineStopped("gone")
        self.validate_error: Exception | None = None
        self.plan_error: Exception | None = None
        self.unenforced_formats: tuple[str, ...] = ()
        self.cached_tokens = 0
        self.expert_bytes = 0
        self.times: OutputTimes | None = None
        self.stop_reason: int | str | None = None
        self.snapshots = [empty_stats() for _ in range(self.config.data_parallel_size)]
        self.device_memory: list[tuple[DeviceMemory, ...]] = [() for _ in self.snapshots]
        self.orders: list[str] = []
        self.engines = [idle_engine()]
        self.registry = AdapterRegistry(self.config, params or {})
        self._queue = AdmissionQueue(self.config.max_num_queued_reqs or 64, 10**9)
        self._changed = asyncio.Event()

    async def wait_until(self, holds: Callable[["FakeLLM"], bool]) -> None:
        """Wait until `holds` is true of this fake."""
        while not holds(self):
            self._changed.clear()
            await self._changed.wait()

    async def render_chat(self, prompt: ChatPrompt, *, counting: bool = False, caller: str = "") -> RenderedPrompt:
        fields = {name: getattr(prompt, name) for name in ChatPrompt.__dataclass_fields__}
        self.rendered.append(fields | {"counting": counting})
        text = "".join(f"{turn['role'][:1]}:{text_of(turn.get('content'))}|" for turn in prompt.messages)
        return RenderedPrompt(text, self._encode(text, prompt.add_special_tokens))

    async def encode(
        self, text: str, *, add_special_tokens: bool = True, counting: bool = False, caller: str = ""
    ) -> list[int]:
        limit = self.config.max_model_len or CONTEXT
        check_text_length(text, limit * (COUNTING_FACTOR if counting else 1), limit)
        return self._encode(text, add_special_tokens)

    async def find_token_offsets(
        self, text: str, *, add_special_tokens: bool = True, caller: str = ""
    ) -> list[tuple[int, int]]:
        return [(0, 0)] * add_special_tokens + [(index, index + 1) for index in range(len(text))]

    def _encode(self, text: str, add_special_tokens: bool) -> list[int]:
        return [BOS] * add_special_tokens + [ord(one) % VOCAB_SIZE for one in text]

    def decode(self, token_ids: Sequence[int]) -> str:
        return "".join(self.tokenizer.piece(one) for one in token_ids)

    def check_token_ids(self, token_ids: Sequence[int], param: str) -> None:
        check_token_ids(param, token_ids, self.vocab_size)

    def check_data_parallel_rank(self, rank: int, name: str = "data_parallel_rank") -> None:
        check_rank(rank, len(self.snapshots), name)

    def admit(self, num_choices: int = 1, caller: str = "") -> QueueSlot:
        if not self.is_healthy:
            raise EngineStopped("The engine is not running; no request can be served.")
        return self._queue.admit(num_choices, 0, caller)

    def get_pooling_task(self, *names: PoolingTaskName) -> PoolingTask:
        return self.limits.get_task(*names)

    @property
    def limits(self) -> RequestLimits:
        defaults, pages = GenerationDefaults.from_configs(self.config, {}, {}), (GroupSize(num_pages=self.num_pages),)
        return RequestLimits(self.config, defaults, self.vocab_size, pages, self.task)

    async def prepare_all(
        self, prompts: Sequence[TextPrompt | Sequence[int]], *args: Any, **options: Any
    ) -> list[FakeReady]:
        return [await self.prepare(prompt, *args, **options) for prompt in prompts]

    async def prepare(
        self,
        prompt: ChatPrompt | TextPrompt | Sequence[int],
        params: SamplingParams,
        output: ChatOutputSpec | None = None,
        slot: QueueSlot | None = None,
        *,
        cache_salt: str | None = None,
        adapter: Adapter | None = None,
        data_parallel_rank: int | None = None,
    ) -> FakeReady:
        limits = self.limits
        params = limits.check_params(params)
        check_thinking_budget(params, has_reasoning=self.reasoning_parser is not None)
        if output is not None and output.tools:
            check_tool_choice(output, self.tool_parser, is_auto_allowed=self.config.enable_auto_tool_choice)
        token_ids, text = await self._tokenize(prompt, params)
        prompt_ids = tuple(params.truncate(token_ids, limits.max_model_len))
        if self.validate_error is not None:
            raise self.validate_error
        params = limits.check_length(prompt_ids, params)
        if self.plan_error is not None:
            raise self.plan_error
        return FakeReady(
            prompt_ids,
            params,
            cache_salt,
            output and replace(output, prompt_text=text or ""),
            self.unenforced_formats,
            len(prompt_ids) < len(token_ids),
            text,
            data_parallel_rank,
            adapter,
            slot,
        )

    @property
    def adapters(self) -> tuple[LoadedAdapter, ...]:
        return self.registry.list_loaded()

    def find_adapter(self, name: str) -> Adapter | None:
        return self.registry.find(name)

    async def load_adapter(self, name: str, path: str, *, replace: bool = False) -> None:
        self.registry.load(name, path, replace=replace)

    def unload_adapter(self, name: str) -> bool:
        return self.registry.unload(name)

    async def _tokenize(
        self, prompt: ChatPrompt | TextPrompt | Sequence[int], params: SamplingParams
    ) -> tuple[Sequence[int], str | None]:
        counting = params.truncate_prompt_tokens is not None
        if isinstance(prompt, ChatPrompt):
            rendered = await self.render_chat(prompt, counting=counting)
            return rendered.token_ids, rendered.text
        if isinstance(prompt, TextPrompt):
            return await self.encode(prompt.text, add_special_tokens=prompt.add_special_tokens, counting=counting), None
        self.check_token_ids(prompt, "prompt")
        return prompt, None

    def start(
        self, ready: FakeReady, on_delta: Callable[[TextDelta], None], on_error: Callable[[Exception], None]
    ) -> FakeRunning:
        return FakeRunning(asyncio.create_task(self._generate(ready, on_delta, on_error)))

    async def _generate(
        self, ready: FakeReady, on_delta: Callable[[TextDelta], None], on_error: Callable[[Exception], None]
    ) -> None:
        self._record(self.calls.append, ready)
        end = "aborted"
        try:
            for number, delta in enumerate(self._deltas(ready)):
                await self.hold(number, ready)
                if number == self.fail_at:
                    raise self.generate_error
                on_delta(delta)
            end = "finished"
        except Exception as error:
            on_error(error)
        finally:
            self._record(self.ends.update, [end])

    async def hold(self, number: int, call: FakeReady) -> None:
        """Wait before the delta of that number."""
        if self.hold_at is not None and number >= self.hold_at:
            await self.release.wait()
        for _ in range(self.pause_turns):
            await asyncio.sleep(0)

    def get_pieces(self, index: int, call: FakeReady) -> Sequence[str | Piece]:
        """Return the pieces of a choice."""
        return self.pieces[index % len(self.pieces)]

    def count_cached_tokens(self, call: FakeReady) -> int:
        """Return how many of its prompt's tokens are found in the prefix cache."""
        return self.cached_tokens

    def stats(self) -> StatsSnapshot:
        return sum_stats(self.snapshots)

    def replica_stats(self) -> tuple[StatsSnapshot, ...]:
        return (replace(self.snapshots[0], rejected=self._queue.rejected()), *self.snapshots[1:])

    async def read_device_memory(self) -> list[tuple[DeviceMemory, ...]]:
        return self.device_memory

    async def inspect(self) -> list[InspectedEngine]:
        return list(self.engines)

    async def pause(self) -> None:
        self._record(self.orders.append, "pause")

    async def resume(self) -> None:
        self._record(self.orders.append, "resume")

    async def reset_prefix_cache(self, *, reset_running_requests: bool = False) -> bool:
        self._record(self.orders.append, "recompute" if reset_running_requests else "reset")
        return reset_running_requests or not self._queue.num_taken

    async def close(self) -> None:
        self._record(lambda closed: setattr(self, "is_closed", closed), True)

    def _record(self, change: Callable[[Any], Any], value: Any) -> None:
        change(value)
        self._changed.set()

    def _deltas(self, call: FakeReady) -> list[TextDelta]:
        """Return the deltas of all choices, interleaved."""
        by_choice = [self._choice(index, call) for index in range(call.params.n)]
        longest = max(len(deltas) for deltas in by_choice)
        return [deltas[step] for step in range(longest) for deltas in by_choice if step < len(deltas)]

    def _choice(self, index: int, call: FakeReady) -> list[TextDelta]:
        params = call.params
        room, deltas, is_cut = params.max_tokens or 0, [], False
        for piece in self.get_pieces(index, call):
            said = Piece(piece) if isinstance(piece, str) else piece
            is_cut = len(said.all_text) >= room
            deltas.append(self._delta(index, said.truncate(room) if is_cut else said, params, deltas))
            room -= len(said.all_text)
            if is_cut:
                break
        reason = FinishReason.LENGTH if is_cut else FinishReason.STOP
        if not is_cut and any(delta.tool_calls for delta in deltas):
            reason = FinishReason.STOP if isinstance(call.spec.tool_choice, NamedTool) else FinishReason.TOOL_CALLS
        deltas[-1] = replace(deltas[-1], finish_reason=reason, stop_reason=None if is_cut else self.stop_reason)
        if call.slot is not None and call.slot.is_timed:
            deltas[-1] = replace(deltas[-1], times=self.times)
        scored = self._prompt_logprobs(call.prompt_ids, params) if index == 0 else None
        deltas[0] = replace(deltas[0], prompt_logprobs=scored, num_cached_tokens=self.count_cached_tokens(call))
        return deltas

    def _delta(self, index: int, said: Piece, params: SamplingParams, before: Sequence[TextDelta]) -> TextDelta:
        ids = tuple(ord(one) for one in said.all_text)
        start = sum(len(delta.token_ids) for delta in before) + len(said.reasoning)
        logprobs, is_parsed = None, (self.reasoning_parser or self.tool_parser) is not None
        if params.logprobs is not None:
            wanted = tuple(make_logprob(one, -5.0) for one in params.logprob_token_ids)
            logprobs = tuple(replace(make_token_logprob(one, params.logprobs), requested=wanted) for one in ids)
        return TextDelta(
            index,
            said.text,
            ids,
            logprobs,
            reasoning=said.reasoning,
            tool_calls=said.calls,
            num_reasoning_tokens=len(said.reasoning),
            content_tokens=tuple(range(start, start + len(said.text))) if is_parsed else None,
        )

    def _prompt_logprobs(
        self, prompt_ids: Sequence[int], params: SamplingParams
    ) -> tuple[TokenLogprob | None, ...] | None:
        count = params.prompt_logprobs
        return None if count is None else (None, *(make_token_logprob(one, count) for one in prompt_ids[1:]))


def text_of(content: str | list[Any] | None) -> str:
    parts = [content] if isinstance(content, str) else content or []
    return "".join(part if isinstance(part, str) else str(part.get("text")) for part in parts)


def make_token_logprob(token_id: int, count: int, rank: int = 2) -> TokenLogprob:
    """The token stands in second place; the best is the character before it, third the one after it. Round the edge of
    the vocabulary it goes on."""
    own = make_logprob(token_id, -1.0, rank)
    others = [
        make_logprob((token_id - 1) % VOCAB_SIZE, -0.5, 1),
        *(make_logprob((token_id + place) % VOCAB_SIZE, -1.0 - place) for place in range(1, count)),
    ]
    return TokenLogprob(own.token_id, own.token, own.bytes, own.logprob, rank, (own, *others[:count]))


def make_logprob(token_id: int, logprob: float, rank: int | None = None) -> Logprob:
    return Logprob(token_id, chr(token_id), tuple(chr(token_id).encode()), logprob, rank)


def idle_engine(**changes: Any) -> InspectedEngine:
    """Return the view of an engine before its first request."""
    groups = (CacheGroupStats("full attention", 100, 100, 0, 0),)
    state = {"invariants": {"I1": True}, "cache_groups": groups, "requests": (), "num_requests": 0, "num_rows": 8}
    return InspectedEngine(**{**state, "num_free_rows": 8, "is_paused": False, **changes})


def empty_stats(**changes: Any) -> StatsSnapshot:
    """Return what an engine says before its first request; histograms in `changes` replace those of the same name."""
    nothing = Stats(CONTEXT).snapshot(num_running=0, num_waiting=0)
    histograms = {**nothing.histograms, **changes.pop("histograms", {})}
    groups = (CacheGroupStats("full attention", 100, 100, 0, 0),)
    return replace(nothing, **{"cache_groups": groups, "histograms": histograms, **changes})
