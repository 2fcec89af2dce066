"""The server's door: async iteration, abort on close. The only file that knows event loops exist."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from jaxserve.answer import Answer
from jaxserve.answer_format import AnswerFormat
from jaxserve.config import EngineConfig
from jaxserve.engine.build import Progress
from jaxserve.errors import Overloaded
from jaxserve.outputs import FinishReason, RenderedPrompt, StatsSnapshot, TextDelta, TokenOutput
from jaxserve.preparing import Prepared
from jaxserve.sampling_params import SamplingParams
from jaxserve.served import ServedModel
from jaxserve.text.tokenizer import Tokenizer

MAX_IN_HELPERS = 64  # requests whose own templates are rendered or wait for it


class _Mailbox:
    """Where one answer's outputs wait for its reader. Used on the event loop alone."""

    def __init__(self) -> None:
        self._outputs: deque[TokenOutput] = deque()
        self._arrived = asyncio.Event()

    def put(self, output: TokenOutput) -> None:
        self._outputs.append(output)
        self._arrived.set()

    async def take(self) -> list[TokenOutput]:
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
        self._mailboxes: dict[int, _Mailbox] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._model = ServedModel.load(config, self._deliver, progress)
        # Rendering and tokenizing a long prompt takes longer than the loop may stand still.
        self._text_threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="jaxserve-text")
        self._num_in_helpers = 0
        # These wait for helpers, so that nobody's strange template delays the model's own.
        self._helper_threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="jaxserve-helper")
        self._grammar_threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="jaxserve-grammar")

    @classmethod
    def load(cls, config: EngineConfig, progress: Progress | None = None) -> "AsyncLLM":
        return cls(config, progress)

    @property
    def config(self) -> EngineConfig:
        """As resolved: every limit is a number."""
        return self._model.config

    @property
    def tokenizer(self) -> Tokenizer:
        return self._model.tokenizer

    @property
    def sampling_defaults(self) -> Mapping[str, Any]:
        """What a request that names no value gets, under the generation config's names; only what is set."""
        return self._model.defaults.values

    @property
    def vocab_size(self) -> int:
        return self._model.vocab_size

    @property
    def num_pages(self) -> int:
        return self._model.num_pages

    @property
    def description(self) -> dict[str, str]:
        return self._model.description

    @property
    def is_healthy(self) -> bool:
        return self._model.is_healthy

    @property
    def tool_parser(self) -> str | None:
        """By which dialect tool calls are read; None: the model's is not known, or it has none."""
        return self._model.preparer.tool_parser.name

    @property
    def reasoning_parser(self) -> str | None:
        """By which dialect reasoning is told from content, likewise."""
        return self._model.preparer.reasoning_parser.name

    @property
    def num_open(self) -> int:
        """Requests (choices counted one by one) that have not ended."""
        return self._model.num_open

    async def render_chat(self, messages: list[dict[str, Any]], **how: Any) -> RenderedPrompt:
        """The messages' prompt; `how` as Prompts.render_chat takes it. Runs beside the loop."""
        work = partial(self._model.prompts.render_chat, messages, **how)
        if how.get("chat_template") is None:
            return await self._beside(work, self._text_threads)
        if self._num_in_helpers >= MAX_IN_HELPERS:
            raise Overloaded(f"{MAX_IN_HELPERS} requests wait for their chat templates; please try again later.")
        self._num_in_helpers += 1
        try:
            return await self._beside(work, self._helper_threads)
        finally:
            self._num_in_helpers -= 1

    async def encode(self, text: str, **how: bool) -> list[int]:
        """Text → ids; `how` as Prompts.encode takes it. Runs beside the loop."""
        return await self._beside(partial(self._model.prompts.encode, text, **how), self._text_threads)

    def decode(self, token_ids: Sequence[int]) -> str:
        return self._model.tokenizer.decode(token_ids)

    def admit(self, num_choices: int = 1) -> None:
        """Raises Overloaded or EngineStopped, cheaply, before a prompt is looked at."""
        self._model.admit(num_choices)

    def check(self, prompt_ids: Sequence[int], params: SamplingParams) -> SamplingParams:
        """Raises RequestError for what cannot be served; returns params with the max_tokens that will hold."""
        return self._model.check(prompt_ids, params)

    async def prepare(
        self, params: SamplingParams, format: AnswerFormat | None = None, prompt_ids: Sequence[int] = ()
    ) -> Prepared:
        """The grammar and the reader that an answer needs; format None: it is plain text that goes on from the prompt.

        prompt_ids: of plain text with a thinking budget, whose prompt may have opened a section.

        Raises a RequestError for what cannot be enforced. Runs beside the loop; a grammar may take seconds.
        """
        if params.structured_outputs is None and (format is None or not format.tools) and not prompt_ids:
            return self._model.preparer.prepare(params, format)  # nothing to compile, nothing to decode
        prepare = partial(self._model.preparer.prepare, params, format, prompt_ids)
        return await self._beside(prepare, self._grammar_threads)

    async def generate(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        *,
        cache_salt: str | None = None,
        prepared: Prepared | None = None,
    ) -> AsyncGenerator[TextDelta, None]:
        """Deltas of all choices, interleaved, told apart by index; each ends with a finish_reason.

        prepared is what `prepare` returned for these params; without it the answer is plain text.

        Closing the generator, or cancelling the task that reads it, aborts what is still running.
        Raises GenerationFailed or EngineStopped when the engine could not go on.
        """
        self._model.admit(params.n)
        if prepared is None:
            prepared = await self.prepare(params, prompt_ids=prompt_ids if params.thinks_within_budget else ())
        answer = self._model.open(*self._model.fit(prompt_ids, params), prepared, cache_salt)
        mailbox = self._register(answer)
        try:
            self._model.start(answer)
            while answer.unfinished:
                for output in await mailbox.take():
                    delta, ends_early = answer.receive(output)
                    if ends_early:
                        self._model.end([output.request_id], FinishReason.STOP)
                    if delta is not None:
                        yield delta
        finally:
            for choice_id in answer.choice_ids:
                self._mailboxes.pop(choice_id, None)
            self._model.end(list(answer.unfinished))

    def stats(self) -> StatsSnapshot:
        return self._model.stats()

    async def close(self) -> None:
        """Ends the engine and frees device memory."""
        await asyncio.to_thread(self._model.close)
        self._text_threads.shutdown(wait=False)
        self._helper_threads.shutdown(wait=False)
        self._grammar_threads.shutdown(wait=False)

    def _register(self, answer: Answer) -> _Mailbox:
        self._loop = asyncio.get_running_loop()
        mailbox = _Mailbox()
        for choice_id in answer.choice_ids:
            self._mailboxes[choice_id] = mailbox
        return mailbox

    def _deliver(self, outputs: list[TokenOutput]) -> None:
        """On the engine's thread: one call to the loop for a whole step."""
        loop = self._loop
        if outputs and loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._distribute, outputs)

    def _distribute(self, outputs: list[TokenOutput]) -> None:
        for output in outputs:
            self._model.heard(output)
            mailbox = self._mailboxes.get(output.request_id)
            if mailbox is not None:
                mailbox.put(output)

    async def _beside(self, work: Any, threads: ThreadPoolExecutor) -> Any:
        return await asyncio.get_running_loop().run_in_executor(threads, work)
