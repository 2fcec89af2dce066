"""AsyncLLM: the API for servers. The only file of the library that uses asyncio."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from jaxserve.adapter_registry import LoadedAdapter
from jaxserve.admission import QueueSlot
from jaxserve.chat_output_spec import ChatOutputSpec
from jaxserve.config import EngineConfig
from jaxserve.engine.compile import ProgressCallback
from jaxserve.engine.thread import Order
from jaxserve.engine_client import EngineClient
from jaxserve.engine_snapshot import InspectedEngine, StatsSnapshot
from jaxserve.errors import Overloaded
from jaxserve.fair_threads import FairThreads
from jaxserve.layers.adapter import Adapter
from jaxserve.models.pooling_spec import PoolingTask, PoolingTaskName
from jaxserve.outputs import RenderedPrompt, TextDelta, TokenOutput
from jaxserve.parallel.placement import DeviceMemory
from jaxserve.pooling_params import PoolingParams
from jaxserve.preparation import Ready
from jaxserve.prompt_hasher import PromptHasher
from jaxserve.prompt_input import ChatPrompt, PoolingInput, PromptInput
from jaxserve.running_request import RunningRequest
from jaxserve.sampling_params import SamplingParams, check_token_ids
from jaxserve.text.tokenizer import Tokenizer

MAX_REQUEST_TEMPLATES = 64  # requests with templates of their own that are rendered or wait for it
T = TypeVar("T")


class AsyncLLM:
    """A language model for many concurrent requests on one event loop.

    Construct it before the loop runs, or in a thread. A request goes through three calls: `admit` (cheap, before the
    prompt is looked at), `prepare`, which checks everything that can be known before the model runs, and `generate`.
    Text work runs in threads of its own, so that a long prompt does not block the loop.
    """

    def __init__(self, config: EngineConfig, progress: ProgressCallback | None = None) -> None:
        """Load a model and compile its programs. Blocks until the first request can be served.

        progress   called with (phase, done, total) while the model loads

        Raises StartupError if the model cannot be served.
        """
        self._running: dict[int, RunningRequest] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client = EngineClient.load(config, self._on_outputs, progress)
        # Rendering and tokenizing a long prompt takes longer than the loop may be blocked.
        self._text_threads = FairThreads(2, "jaxserve-text")
        self._num_request_templates = 0
        # These wait for worker processes: a slow template of a request does not delay the model's own template.
        self._worker_threads = FairThreads(2, "jaxserve-worker")
        self._grammar_threads = FairThreads(2, "jaxserve-grammar")

    @classmethod
    def load(cls, config: EngineConfig, progress: ProgressCallback | None = None) -> "AsyncLLM":
        """Return a loaded model; the same as the constructor."""
        return cls(config, progress)

    @property
    def config(self) -> EngineConfig:
        """The configuration as resolved: every limit is a number."""
        return self._client.config

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        return self._client.text.tokenizer

    @property
    def sampling_defaults(self) -> Mapping[str, Any]:
        """The model's sampling defaults under the names of a generation_config.json; only those that are set."""
        return self._client.text.defaults.values

    @property
    def vocab_size(self) -> int:
        """The number of logits, and so the bound of token ids."""
        return self._client.limits.vocab_size

    @property
    def expert_bytes(self) -> int:
        """The bytes of the experts of one token, as outputs return them; 0: they return none."""
        return self._client.expert_bytes

    @property
    def num_pages(self) -> int:
        """The number of pages of the key-value cache."""
        return self._client.limits.num_pages

    @property
    def description(self) -> dict[str, str]:
        """Facts about the loaded model for people, in the order to print them."""
        return self._client.description

    @property
    def is_healthy(self) -> bool:
        """Whether all replicas run, none of them in a step that takes longer than expected, and workers can start."""
        return self._client.is_healthy

    @property
    def is_dead(self) -> bool:
        """Whether a replica's engine has died, a step exceeds the step timeout, or no worker can be started again."""
        return self._client.is_dead

    @property
    def tool_parser(self) -> str | None:
        """The dialect by which tool calls are parsed; None if the model's is not known, or it has none."""
        return self._client.text.output_planner.tool_parser.name

    @property
    def reasoning_parser(self) -> str | None:
        """The dialect by which reasoning is separated from content; None if there is none."""
        return self._client.text.output_planner.reasoning_parser.name

    @property
    def reasoning_efforts(self) -> tuple[str, ...] | None:
        """The reasoning efforts that the model knows; None: its chat template decides."""
        return self._client.text.output_planner.reasoning_efforts

    @property
    def num_unfinished(self) -> int:
        """The number of sequences (choices of requests) that have not ended."""
        return self._client.num_unfinished

    async def render_chat(self, prompt: ChatPrompt, *, counting: bool = False, caller: str = "") -> RenderedPrompt:
        """Render a conversation, for callers that do not generate. Runs in a thread.

        counting   only the number of tokens is wanted: the prompt may be longer than the model's length
        caller     who asks: callers are served in turn

        Raises RequestError for messages that cannot be rendered, Overloaded if too many requests of the caller wait,
        or too many with templates of their own.
        """
        render = partial(self._client.text.prompts.render_chat, prompt, counting=counting)
        return await self._run_for(prompt.chat_template is not None, render, self._text_threads, caller)

    async def encode(
        self, text: str, *, add_special_tokens: bool = True, counting: bool = False, caller: str = ""
    ) -> list[int]:
        """Return the token ids of a text. Runs in a thread.

        counting   only the number of tokens is wanted: the text may be longer than the model's length
        caller     who asks: callers are served in turn

        Raises RequestError if the text is too long or no valid Unicode, Overloaded if too many requests of the caller
        wait.
        """
        encode = partial(
            self._client.text.prompts.encode, text, add_special_tokens=add_special_tokens, counting=counting
        )
        return await self._run_in(self._text_threads, encode, caller)

    async def find_token_offsets(
        self, text: str, *, add_special_tokens: bool = True, caller: str = ""
    ) -> list[tuple[int, int]]:
        """Return of each token of a text where it stands there, as Tokenizer.find_offsets. Runs in a thread.

        Raises Overloaded if too many requests of the caller wait.
        """
        find = partial(self.tokenizer.find_offsets, text, add_special_tokens)
        return await self._run_in(self._text_threads, find, caller)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of token ids."""
        return self._client.text.tokenizer.decode(token_ids)

    def check_token_ids(self, token_ids: Sequence[int], param: str) -> None:
        """Check that the model has a logit for every id.

        Raises InvalidParameter about the field `param` if it has not.
        """
        check_token_ids(param, token_ids, self.vocab_size)

    def check_data_parallel_rank(self, rank: int, name: str = "data_parallel_rank") -> None:
        """Check the number of a replica. name: what the caller has called it.

        Raises InvalidParameter if there is no such replica.
        """
        self._client.check_data_parallel_rank(rank, name)

    def admit(self, num_choices: int = 1, caller: str = "") -> QueueSlot:
        """Admit a request to the queue, before its prompt is looked at. Its slot must be released at last.

        num_choices   the choices of all its prompts together
        caller        who sends it: prompts of callers are prepared in turn, and nobody can fill the queue for all

        Raises Overloaded if the queue is full, EngineStopped if no request can be served, InvalidParameter if the queue
        could never hold so many choices.
        """
        return self._client.admit(num_choices, caller)

    async def prepare(
        self,
        prompt: PromptInput,
        params: SamplingParams,
        output: ChatOutputSpec | None = None,
        slot: QueueSlot | None = None,
        *,
        cache_salt: str | None = None,
        adapter: Adapter | None = None,
        data_parallel_rank: int | None = None,
    ) -> Ready:
        """Render, tokenize, truncate and check a request, and compile its grammar. Runs in a thread.

        output               how a chat output is parsed; its prompt_text is filled in. None for text that continues the
                             prompt
        slot                 what `admit` returned; None: `generate` admits the request
        cache_salt           cached prefixes are shared only among requests with the same salt
        adapter              what `find_adapter` returned: it changes the weights for this request
        data_parallel_rank   the replica that must serve it; None: any

        Raises RequestError, which names the field, for a request that cannot be served, Overloaded if too many requests
        with templates of their own wait, EngineStopped after `close`.
        """
        options: dict[str, Any] = {"cache_salt": cache_salt, "adapter": adapter}
        options["data_parallel_rank"] = data_parallel_rank
        return (await self.prepare_all([prompt], params, output, slot, **options))[0]

    async def prepare_all(
        self,
        prompts: Sequence[PromptInput],
        params: SamplingParams,
        output: ChatOutputSpec | None = None,
        slot: QueueSlot | None = None,
        *,
        cache_salt: str | None = None,
        adapter: Adapter | None = None,
        data_parallel_rank: int | None = None,
    ) -> list[Ready]:
        """Prepare a request of several prompts in one thread; what they have in common is done once.

        Raises as `prepare`.
        """
        if data_parallel_rank is not None:
            self.check_data_parallel_rank(data_parallel_rank)
        prepare = partial(
            self._client.preparer.prepare_all,
            prompts,
            params,
            output,
            slot,
            cache_salt=cache_salt,
            adapter=adapter,
            data_parallel_rank=data_parallel_rank,
        )
        may_compile = params.structured_outputs is not None or (output is not None and output.tools)
        threads = self._grammar_threads if may_compile else self._text_threads
        has_template = any(isinstance(prompt, ChatPrompt) and prompt.chat_template is not None for prompt in prompts)
        return await self._run_for(has_template, prepare, threads, "" if slot is None else slot.caller)

    @property
    def task(self) -> PoolingTask | None:
        """The task that the model pools for; None: it generates."""
        return self._client.limits.task

    def get_pooling_task(self, *names: PoolingTaskName) -> PoolingTask:
        """Return what the model pools for, which must be one of these tasks.

        Raises InvalidParameter if it is none of them, or the model generates.
        """
        return self._client.limits.get_task(*names)

    @property
    def embedding_width(self) -> int:
        """The length of a whole embedding."""
        return self._client.width

    async def prepare_pooling(
        self,
        inputs: Sequence[PoolingInput],
        params: PoolingParams,
        slot: QueueSlot | None = None,
        *,
        cache_salt: str | None = None,
        data_parallel_rank: int | None = None,
    ) -> list[Ready]:
        """Tokenize, truncate and check texts that are embedded, scored or classified. Runs in a thread.

        `start` returns one delta for each of them, with what is pooled.

        Raises RequestError, which names the field, for a request that cannot be served.
        """
        prepare = partial(
            self._client.pooling_preparer.prepare_all,
            inputs,
            params,
            slot,
            cache_salt=cache_salt,
            data_parallel_rank=data_parallel_rank,
        )
        return await self._run_in(self._text_threads, prepare, "" if slot is None else slot.caller)

    def make_prompt_hasher(self) -> PromptHasher:
        """Make what hashes prompts as this model's prefix cache does, for a process in front of several such models."""
        keys = {loaded.module.name: loaded.adapter.key for loaded in self.adapters}
        return PromptHasher(self.config, self.tokenizer, keys)

    @property
    def adapters(self) -> tuple[LoadedAdapter, ...]:
        """The adapters that requests may have, in the order in which they were loaded."""
        return self._client.adapters.list_loaded()

    def find_adapter(self, name: str) -> Adapter | None:
        """Return the adapter of this name, for `prepare`; None: there is none."""
        return self._client.adapters.find(name)

    async def load_adapter(self, name: str, path: str, *, replace: bool = False) -> None:
        """Read an adapter of PEFT, which requests may have from then on. Runs in a thread; nothing is compiled.

        path      the directory of its files
        replace   one of the same name is replaced; requests that run keep it

        Raises InvalidParameter about lora_name if the name is taken, about lora_path if the files cannot be served,
        AdapterNotFound if there are none, Unsupported if adapters are not enabled.
        """
        load = partial(self._client.adapters.load, name, path, replace=replace)
        await self._run_in(self._worker_threads, load, "")

    def unload_adapter(self, name: str) -> bool:
        """Remove an adapter; return whether there was one. Requests that run keep it."""
        return self._client.adapters.unload(name)

    async def generate(self, ready: Ready) -> AsyncGenerator[TextDelta, None]:
        """Generate and yield text deltas of all choices, interleaved; the last of each has a finish_reason.

        ready   what `prepare` returned

        Closing the generator, or cancelling the task that reads it, aborts the request.

        Raises Overloaded before the first delta if the request was not admitted and the queue is full,
        GenerationFailed or EngineStopped if the engine could not finish.
        """
        slot = self.admit(ready.params.n) if ready.slot is None else None
        deltas: asyncio.Queue[TextDelta | Exception] = asyncio.Queue()
        num_unfinished = ready.params.n
        try:
            request = self.start(ready, deltas.put_nowait, deltas.put_nowait)
            try:
                while num_unfinished:
                    delta = await deltas.get()
                    if isinstance(delta, Exception):
                        raise delta
                    num_unfinished -= delta.finish_reason is not None
                    yield delta
            finally:
                request.cancel()
        finally:
            if slot is not None:
                slot.release()

    def start(
        self, ready: Ready, on_delta: Callable[[TextDelta], None], on_error: Callable[[Exception], None]
    ) -> RunningRequest:
        """Start an admitted request, for callers that buffer its deltas themselves.

        ready      what `prepare` returned
        on_delta   called on the event loop with each delta; it must not block
        on_error   called at most once, with the error that ended the request
        """
        self._loop = asyncio.get_running_loop()
        stream, replica = self._client.create_stream(ready), self._client.choose_replica(ready)
        request = RunningRequest(stream, replica, on_delta, on_error, self._register, self._forget)
        request.start()
        return request

    def stats(self) -> StatsSnapshot:
        """Return the metrics of all replicas together."""
        return self._client.stats()

    def replica_stats(self) -> tuple[StatsSnapshot, ...]:
        """Return the metrics of each replica; what is counted for the whole process is among the first's."""
        return self._client.replica_stats()

    async def read_device_memory(self) -> tuple[tuple[DeviceMemory, ...], ...]:
        """Return for each replica the memory of its devices, read in a thread; nothing of CPUs."""
        replicas = self._client.replicas
        return await asyncio.to_thread(lambda: tuple(replica.read_memory() for replica in replicas))

    async def inspect(self) -> list[InspectedEngine]:
        """Return a view of each replica's engine between two of its steps.

        Raises EngineStopped if one does not run.
        """
        return await self._ask(Order.INSPECT)

    async def pause(self) -> None:
        """Let the engines plan no step until `resume`; requests wait where they are, new ones behind them.

        Raises EngineStopped if one does not run.
        """
        await self._ask(Order.PAUSE)

    async def resume(self) -> None:
        """Let the engines go on. Raises EngineStopped if one does not run."""
        await self._ask(Order.RESUME)

    async def reset_prefix_cache(self, *, reset_running_requests: bool = False) -> bool:
        """Forget the cached prefixes of all replicas; return whether no replica has kept them.

        One in which requests run keeps them.

        reset_running_requests   compute these again from the beginning, so that no replica keeps them

        Raises EngineStopped if one does not run.
        """
        return all(await self._ask(Order.RECOMPUTE_ALL if reset_running_requests else Order.RESET_PREFIX_CACHE))

    async def _ask(self, order: Order) -> list[Any]:
        """Return the answers of all replicas; they are asked at once."""
        answers = [asyncio.wrap_future(replica.ask(order)) for replica in self._client.replicas]
        return list(await asyncio.gather(*answers))

    async def close(self) -> None:
        """End the engine and free the device memory. Requests that still run get EngineStopped."""
        await asyncio.to_thread(self._client.close)
        for threads in (self._text_threads, self._worker_threads, self._grammar_threads):
            threads.shutdown()

    def _register(self, request: RunningRequest, choice_ids: Collection[int]) -> None:
        self._running.update(dict.fromkeys(choice_ids, request))

    def _forget(self, choice_ids: Collection[int]) -> None:
        for choice_id in choice_ids:
            self._running.pop(choice_id, None)

    def _on_outputs(self, outputs: list[TokenOutput]) -> None:
        """Hand a step's outputs to the event loop with one call. Runs on an engine's thread."""
        loop = self._loop
        if outputs and loop is not None:
            with suppress(RuntimeError):  # it is closed, perhaps since a moment: nobody reads any more
                loop.call_soon_threadsafe(self._dispatch, outputs)

    def _dispatch(self, outputs: list[TokenOutput]) -> None:
        for output in outputs:
            request = self._running.get(output.request_id)
            if request is not None:
                request.push(output)

    async def _run_for(self, has_template: bool, function: Callable[[], T], threads: FairThreads, caller: str) -> T:
        """Run a function in one of these threads; where a client's template is rendered, beside the other templates."""
        if not has_template:
            return await self._run_in(threads, function, caller)
        if self._num_request_templates >= MAX_REQUEST_TEMPLATES:
            raise Overloaded(f"{MAX_REQUEST_TEMPLATES} requests wait for their chat templates; please try again later.")
        self._num_request_templates += 1
        try:
            return await self._run_in(self._worker_threads, function, caller)
        finally:
            self._num_request_templates -= 1

    async def _run_in(self, threads: FairThreads, function: Callable[[], T], caller: str) -> T:
        return await asyncio.wrap_future(threads.submit(function, caller))
