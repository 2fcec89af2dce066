"""AsyncLLM: the API for servers. The only file of the library that uses asyncio."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from jaxserve.chat_output_spec import ChatOutputSpec
from jaxserve.config import EngineConfig
from jaxserve.engine.build import ProgressCallback
from jaxserve.engine_client import EngineClient
from jaxserve.errors import Overloaded
from jaxserve.output_plan import OutputPlan
from jaxserve.output_stream import OutputStream
from jaxserve.outputs import FinishReason, RenderedPrompt, StatsSnapshot, TextDelta, TokenOutput
from jaxserve.sampling_params import SamplingParams
from jaxserve.text.tokenizer import Tokenizer

MAX_REQUEST_TEMPLATES = 64  # requests with templates of their own that are rendered or wait for it
T = TypeVar("T")


class _OutputQueue:
    """Outputs of one stream that its reader has not taken yet. Used on the event loop's thread alone."""

    def __init__(self) -> None:
        self._outputs: deque[TokenOutput] = deque()
        self._arrived = asyncio.Event()

    def put(self, output: TokenOutput) -> None:
        self._outputs.append(output)
        self._arrived.set()

    async def get_all(self) -> list[TokenOutput]:
        """Wait for at least one output and return all that have arrived."""
        await self._arrived.wait()
        self._arrived.clear()
        outputs = list(self._outputs)
        self._outputs.clear()
        return outputs


class AsyncLLM:
    """A language model for many concurrent requests on one event loop.

    Construct it before the loop runs, or in a thread. A request goes through these calls: `admit` (cheap, before the
    prompt is looked at), `render_chat` or `encode`, `validate`, `plan_output`, `generate`. Text work runs in threads of
    its own, so that a long prompt does not block the loop.
    """

    def __init__(self, config: EngineConfig, progress: ProgressCallback | None = None) -> None:
        """Load a model and compile its programs. Blocks until the first request can be served.

        progress   called with (phase, done, total) while the model loads

        Raises StartupError if the model cannot be served.
        """
        self._queues: dict[int, _OutputQueue] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client = EngineClient.load(config, self._on_outputs, progress)
        # Rendering and tokenizing a long prompt takes longer than the loop may be blocked.
        self._text_threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="jaxserve-text")
        self._num_request_templates = 0
        # These wait for worker processes: a slow template of a request does not delay the model's own template.
        self._worker_threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="jaxserve-worker")
        self._grammar_threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="jaxserve-grammar")

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
        return self._client.tokenizer

    @property
    def sampling_defaults(self) -> Mapping[str, Any]:
        """The model's sampling defaults under the names of a generation_config.json; only those that are set."""
        return self._client.defaults.values

    @property
    def vocab_size(self) -> int:
        """The number of logits, and so the bound of token ids."""
        return self._client.vocab_size

    @property
    def num_pages(self) -> int:
        """The number of pages of the key-value cache."""
        return self._client.num_pages

    @property
    def description(self) -> dict[str, str]:
        """Facts about the loaded model for people, in the order to print them."""
        return self._client.description

    @property
    def is_healthy(self) -> bool:
        """Whether a new request could be served."""
        return self._client.is_healthy

    @property
    def tool_parser(self) -> str | None:
        """The dialect by which tool calls are parsed; None if the model's is not known, or it has none."""
        return self._client.output_planner.tool_parser.name

    @property
    def reasoning_parser(self) -> str | None:
        """The dialect by which reasoning is separated from content; None if there is none."""
        return self._client.output_planner.reasoning_parser.name

    @property
    def reasoning_efforts(self) -> tuple[str, ...] | None:
        """The reasoning efforts that the model knows; None: its chat template decides."""
        return self._client.output_planner.reasoning_efforts

    @property
    def num_unfinished(self) -> int:
        """The number of sequences (choices of requests) that have not ended."""
        return self._client.num_unfinished

    async def render_chat(
        self,
        messages: list[dict[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        add_special_tokens: bool = False,
        chat_template: str | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
        counting: bool = False,
    ) -> RenderedPrompt:
        """Render messages into a prompt with the model's chat template, or with the one given. Runs in a thread.

        tools                   functions that the model may call, as in the chat completions API
        documents               documents for the template
        add_generation_prompt   end the prompt with the start of an assistant message
        continue_final_message  end the prompt where the last message ends
        add_special_tokens      add the tokenizer's special tokens to those that the template writes
        chat_template           a template that came with the request and is not trusted: a worker process renders it
        template_kwargs         further variables for the template
        counting                only the number of tokens is wanted: the prompt may be longer than the model's length

        Raises RequestError for messages that cannot be rendered, Overloaded if too many requests with templates of
        their own wait.
        """
        render = partial(
            self._client.prompts.render_chat,
            messages,
            tools=tools,
            documents=documents,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            add_special_tokens=add_special_tokens,
            chat_template=chat_template,
            template_kwargs=template_kwargs,
            counting=counting,
        )
        if chat_template is None:
            return await self._run_in(self._text_threads, render)
        if self._num_request_templates >= MAX_REQUEST_TEMPLATES:
            raise Overloaded(f"{MAX_REQUEST_TEMPLATES} requests wait for their chat templates; please try again later.")
        self._num_request_templates += 1
        try:
            return await self._run_in(self._worker_threads, render)
        finally:
            self._num_request_templates -= 1

    async def encode(self, text: str, *, add_special_tokens: bool = True, counting: bool = False) -> list[int]:
        """Return the token ids of a text. Runs in a thread.

        counting   only the number of tokens is wanted: the text may be longer than the model's length

        Raises RequestError if the text is too long or no valid Unicode.
        """
        encode = partial(self._client.prompts.encode, text, add_special_tokens=add_special_tokens, counting=counting)
        return await self._run_in(self._text_threads, encode)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of token ids."""
        return self._client.tokenizer.decode(token_ids)

    def admit(self, num_choices: int = 1) -> None:
        """Check that the queue has room for a request, before its prompt is looked at.

        Raises Overloaded if it is full, EngineStopped if no request can be served, InvalidParameter if it could never
        hold so many choices.
        """
        self._client.admit(num_choices)

    def validate(self, prompt_ids: Sequence[int], params: SamplingParams) -> SamplingParams:
        """Check a request against the model's limits and return params with the max_tokens that applies.

        Raises RequestError, which names the field, for a request that cannot be served.
        """
        return self._client.validate(prompt_ids, params)

    async def plan_output(
        self, params: SamplingParams, spec: ChatOutputSpec | None = None, prompt_ids: Sequence[int] = ()
    ) -> OutputPlan:
        """Prepare the grammar and the parser of an output. Runs in a thread; a grammar may take seconds to compile.

        spec         how a chat output is parsed; None for text that continues the prompt
        prompt_ids   the prompt of such a text if it has a thinking budget: it may have opened a reasoning section

        Raises RequestError for a constraint that cannot be enforced.
        """
        if params.structured_outputs is None and (spec is None or not spec.tools) and not prompt_ids:
            return self._client.output_planner.plan(params, spec)  # nothing to compile, nothing to decode
        plan = partial(self._client.output_planner.plan, params, spec, prompt_ids)
        return await self._run_in(self._grammar_threads, plan)

    async def generate(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        *,
        cache_salt: str | None = None,
        output_plan: OutputPlan | None = None,
    ) -> AsyncGenerator[TextDelta, None]:
        """Generate and yield text deltas of all choices, interleaved; the last of each has a finish_reason.

        prompt_ids    token ids of the prompt
        cache_salt    cached prefixes are shared only among requests with the same salt
        output_plan   what `plan_output` returned for these params; None means plain text

        Closing the generator, or cancelling the task that reads it, aborts the request.

        Raises RequestError or Overloaded before the first delta, GenerationFailed or EngineStopped if the engine could
        not finish.
        """
        self._client.admit(params.n)
        if output_plan is None:
            output_plan = await self.plan_output(params, prompt_ids=prompt_ids if params.has_thinking_budget else ())
        prompt_ids, params = self._client.truncate_and_validate(prompt_ids, params)
        stream = self._client.create_stream(prompt_ids, params, output_plan, cache_salt)
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
        """Return the engine's metrics."""
        return self._client.stats()

    async def close(self) -> None:
        """End the engine and free the device memory. Requests that still run get EngineStopped."""
        await asyncio.to_thread(self._client.close)
        self._text_threads.shutdown(wait=False)
        self._worker_threads.shutdown(wait=False)
        self._grammar_threads.shutdown(wait=False)

    def _register(self, stream: OutputStream) -> _OutputQueue:
        self._loop = asyncio.get_running_loop()
        queue = _OutputQueue()
        for choice_id in stream.choice_ids:
            self._queues[choice_id] = queue
        return queue

    def _on_outputs(self, outputs: list[TokenOutput]) -> None:
        """Hand a step's outputs to the event loop with one call. Runs on the engine's thread."""
        loop = self._loop
        if outputs and loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._dispatch, outputs)

    def _dispatch(self, outputs: list[TokenOutput]) -> None:
        for output in outputs:
            self._client.record_output(output)
            queue = self._queues.get(output.request_id)
            if queue is not None:
                queue.put(output)

    async def _run_in(self, threads: ThreadPoolExecutor, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(threads, function)
