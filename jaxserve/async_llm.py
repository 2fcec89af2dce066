"""The server's door: async iteration, abort on close. The only file that knows event loops exist."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from jaxserve.chat_output_spec import ChatOutputSpec
from jaxserve.config import EngineConfig
from jaxserve.engine.build import Progress
from jaxserve.engine_client import EngineClient
from jaxserve.errors import Overloaded
from jaxserve.output_plan import OutputPlan
from jaxserve.output_stream import OutputStream
from jaxserve.outputs import FinishReason, RenderedPrompt, StatsSnapshot, TextDelta, TokenOutput
from jaxserve.sampling_params import SamplingParams
from jaxserve.text.tokenizer import Tokenizer

MAX_REQUEST_TEMPLATES = 64  # requests whose own templates are rendered or wait for it


class _OutputQueue:
    """Where one answer's outputs wait for its reader. Used on the event loop alone."""

    def __init__(self) -> None:
        self._outputs: deque[TokenOutput] = deque()
        self._arrived = asyncio.Event()

    def put(self, output: TokenOutput) -> None:
        self._outputs.append(output)
        self._arrived.set()

    async def get_all(self) -> list[TokenOutput]:
        """Everything that has arrived, at least one."""
        await self._arrived.wait()
        self._arrived.clear()
        outputs = list(self._outputs)
        self._outputs.clear()
        return outputs


class AsyncLLM:
    """One model, many concurrent readers on one event loop."""

    def __init__(self, config: EngineConfig, progress: Progress | None = None) -> None:
        """Blocks until the model is ready: load it before the loop runs, or in a thread. Raises StartupError."""
        self._queues: dict[int, _OutputQueue] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client = EngineClient.load(config, self._on_outputs, progress)
        # Rendering and tokenizing a long prompt takes longer than the loop may stand still.
        self._text_threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="jaxserve-text")
        self._num_request_templates = 0
        # These wait for helpers, so that nobody's strange template delays the model's own.
        self._worker_threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="jaxserve-helper")
        self._grammar_threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="jaxserve-grammar")

    @classmethod
    def load(cls, config: EngineConfig, progress: Progress | None = None) -> "AsyncLLM":
        return cls(config, progress)

    @property
    def config(self) -> EngineConfig:
        """As resolved: every limit is a number."""
        return self._client.config

    @property
    def tokenizer(self) -> Tokenizer:
        return self._client.tokenizer

    @property
    def sampling_defaults(self) -> Mapping[str, Any]:
        """What a request that names no value gets, under the generation config's names; only what is set."""
        return self._client.defaults.values

    @property
    def vocab_size(self) -> int:
        return self._client.vocab_size

    @property
    def num_pages(self) -> int:
        return self._client.num_pages

    @property
    def description(self) -> dict[str, str]:
        return self._client.description

    @property
    def is_healthy(self) -> bool:
        return self._client.is_healthy

    @property
    def tool_parser(self) -> str | None:
        """By which dialect tool calls are read; None: the model's is not known, or it has none."""
        return self._client.output_planner.tool_parser.name

    @property
    def reasoning_parser(self) -> str | None:
        """By which dialect reasoning is told from content, likewise."""
        return self._client.output_planner.reasoning_parser.name

    @property
    def num_unfinished(self) -> int:
        """Requests (choices counted one by one) that have not ended."""
        return self._client.num_unfinished

    async def render_chat(self, messages: list[dict[str, Any]], **how: Any) -> RenderedPrompt:
        """The messages' prompt; `how` as Prompts.render_chat takes it. Runs beside the loop."""
        work = partial(self._client.prompts.render_chat, messages, **how)
        if how.get("chat_template") is None:
            return await self._run_in(work, self._text_threads)
        if self._num_request_templates >= MAX_REQUEST_TEMPLATES:
            raise Overloaded(f"{MAX_REQUEST_TEMPLATES} requests wait for their chat templates; please try again later.")
        self._num_request_templates += 1
        try:
            return await self._run_in(work, self._worker_threads)
        finally:
            self._num_request_templates -= 1

    async def encode(self, text: str, **how: bool) -> list[int]:
        """Text → ids; `how` as Prompts.encode takes it. Runs beside the loop."""
        return await self._run_in(partial(self._client.prompts.encode, text, **how), self._text_threads)

    def decode(self, token_ids: Sequence[int]) -> str:
        return self._client.tokenizer.decode(token_ids)

    def admit(self, num_choices: int = 1) -> None:
        """Raises Overloaded or EngineStopped, cheaply, before a prompt is looked at."""
        self._client.admit(num_choices)

    def validate(self, prompt_ids: Sequence[int], params: SamplingParams) -> SamplingParams:
        """Raises RequestError for what cannot be served; returns params with the max_tokens that will hold."""
        return self._client.validate(prompt_ids, params)

    async def plan_output(
        self, params: SamplingParams, spec: ChatOutputSpec | None = None, prompt_ids: Sequence[int] = ()
    ) -> OutputPlan:
        """The grammar and the reader that an answer needs; format None: it is plain text that goes on from the prompt.

        prompt_ids: of plain text with a thinking budget, whose prompt may have opened a section.

        Raises a RequestError for what cannot be enforced. Runs beside the loop; a grammar may take seconds.
        """
        if params.structured_outputs is None and (spec is None or not spec.tools) and not prompt_ids:
            return self._client.output_planner.plan(params, spec)  # nothing to compile, nothing to decode
        prepare = partial(self._client.output_planner.plan, params, spec, prompt_ids)
        return await self._run_in(prepare, self._grammar_threads)

    async def generate(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        *,
        cache_salt: str | None = None,
        output_plan: OutputPlan | None = None,
    ) -> AsyncGenerator[TextDelta, None]:
        """Deltas of all choices, interleaved, told apart by index; each ends with a finish_reason.

        prepared is what `prepare` returned for these params; without it the answer is plain text.

        Closing the generator, or cancelling the task that reads it, aborts what is still running.
        Raises GenerationFailed or EngineStopped when the engine could not go on.
        """
        self._client.admit(params.n)
        if output_plan is None:
            output_plan = await self.plan_output(params, prompt_ids=prompt_ids if params.has_thinking_budget else ())
        stream = self._client.create_stream(
            *self._client.truncate_and_validate(prompt_ids, params), output_plan, cache_salt
        )
        queue = self._register(stream)
        try:
            self._client.submit(stream)
            while stream.unfinished_ids:
                for output in await queue.get_all():
                    delta, ends_early = stream.push(output)
                    if ends_early:
                        self._client.finish_requests([output.request_id], FinishReason.STOP)
                    if delta is not None:
                        yield delta
        finally:
            for choice_id in stream.choice_ids:
                self._queues.pop(choice_id, None)
            self._client.finish_requests(list(stream.unfinished_ids))

    def stats(self) -> StatsSnapshot:
        return self._client.stats()

    async def close(self) -> None:
        """Ends the engine and frees device memory."""
        await asyncio.to_thread(self._client.close)
        self._text_threads.shutdown(wait=False)
        self._worker_threads.shutdown(wait=False)
        self._grammar_threads.shutdown(wait=False)

    def _register(self, answer: OutputStream) -> _OutputQueue:
        self._loop = asyncio.get_running_loop()
        mailbox = _OutputQueue()
        for choice_id in answer.choice_ids:
            self._queues[choice_id] = mailbox
        return mailbox

    def _on_outputs(self, outputs: list[TokenOutput]) -> None:
        """On the engine's thread: one call to the loop for a whole step."""
        loop = self._loop
        if outputs and loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._dispatch, outputs)

    def _dispatch(self, outputs: list[TokenOutput]) -> None:
        for output in outputs:
            self._client.record_output(output)
            mailbox = self._queues.get(output.request_id)
            if mailbox is not None:
                mailbox.put(output)

    async def _run_in(self, work: Any, threads: ThreadPoolExecutor) -> Any:
        return await asyncio.get_running_loop().run_in_executor(threads, work)
