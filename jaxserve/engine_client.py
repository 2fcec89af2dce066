"""EngineClient: a loaded model with its engine thread, shared by LLM and AsyncLLM."""

import atexit
import itertools
import random
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

from jaxserve.config import EngineConfig
from jaxserve.config_check import check_config
from jaxserve.engine.beam_manager import max_beam_tokens
from jaxserve.engine.build import CheckedModel, LoadedEngine, ProgressCallback, build
from jaxserve.engine.compile import compile_counter
from jaxserve.engine.request import Request, TrackerFactory
from jaxserve.engine.thread import AddRequests, CountRejection, EngineThread, FinishRequests
from jaxserve.errors import EngineStopped, InvalidParameter, Overloaded, PromptTooLong
from jaxserve.output_plan import PLAIN_TEXT, OutputPlan
from jaxserve.output_stream import OutputStream
from jaxserve.outputs import FinishReason, StatsSnapshot, TokenOutput
from jaxserve.sampling_params import SamplingParams
from jaxserve.text.bad_words import encode_bad_words
from jaxserve.text.tokenizer import Tokenizer
from jaxserve.text_components import TextComponents

STEP_TIMEOUT_S = 120.0  # with a longer step the engine counts as unhealthy


class EngineClient:
    """A loaded model: checks requests, submits them to the engine and counts those in the queue.

    config            The configuration as resolved: every limit is a number.
    tokenizer         The model's tokenizer.
    vocab_size        The number of logits.
    num_pages         The number of pages of the key-value cache, page 0 included, which holds no tokens.
    defaults          Sampling defaults and end tokens.
    prompts           Renders and tokenizes prompts.
    output_planner    Prepares grammars and parsers.
    eos_id            The primary end-of-sequence token, None if there is none.
    further_eos_ids   The other end-of-sequence tokens.
    description       Facts for people, in the order to print them.
    """

    def __init__(
        self, loaded: LoadedEngine, text: TextComponents, on_outputs: Callable[[list[TokenOutput]], None]
    ) -> None:
        """Start the engine's thread, which calls `on_outputs` with the outputs of every step."""
        self.config, self.tokenizer = loaded.config, text.tokenizer
        self.vocab_size, self.num_pages = loaded.spec.vocab_size, loaded.num_pages
        self.defaults, self.prompts, self.output_planner = text.defaults, text.prompts, text.output_planner
        self.eos_id, self.further_eos_ids = text.tokenizer.eos_token_id, text.further_eos_ids
        self.description = loaded.description | text.description
        self._request_ids = itertools.count(1)
        seed = loaded.config.seed
        self._rng = random.SystemRandom() if seed is None else random.Random(seed)
        self._lock = threading.Lock()
        self._pending_prompt_tokens: dict[int, int] = {}  # request id → prompt tokens that still wait
        self._loaded = loaded
        self._thread = EngineThread(loaded.engine, on_outputs)
        self._thread.start()
        # A step that still runs while the interpreter ends would abort the process.
        self._at_exit = partial(_close_if_alive, weakref.ref(self))
        atexit.register(self._at_exit)

    @classmethod
    def load(
        cls,
        config: EngineConfig,
        on_outputs: Callable[[list[TokenOutput]], None],
        progress: ProgressCallback | None = None,
    ) -> "EngineClient":
        """Fetch and load a model and compile its programs. Blocks until the first request can be served.

        Faults in the configuration and in the model's small files are found before any weight is read.

        on_outputs   called on the engine's thread with the outputs of every step
        progress     called with (phase, done, total)

        Raises StartupError if the model cannot be served.
        """
        check_config(config)
        tokenizers: list[Future[Tokenizer]] = []
        texts: list[TextComponents] = []
        with ThreadPoolExecutor(1, "tokenizer") as threads, ExitStack() as cleanup:

            def read_tokenizer(path: Path) -> None:  # runs while the checkpoint is opened
                tokenizers.append(threads.submit(Tokenizer.load, Path(config.tokenizer) if config.tokenizer else path))

            def prepare_text(model: CheckedModel) -> TrackerFactory:
                texts.append(TextComponents.from_model(model, tokenizers[0].result()))
                cleanup.callback(texts[0].close)
                return texts[0].output_planner.trackers

            loaded = build(config, progress, read_tokenizer, prepare_text)
            cleanup.pop_all()
            return cls(loaded, texts[0], on_outputs)

    def admit(self, num_choices: int = 1) -> None:
        """Check that the queue has room for a request, before its prompt is rendered or tokenized.

        Raises EngineStopped if no request can be served, InvalidParameter if the queue could never hold so many
        choices, Overloaded if it is full.
        """
        if not self._thread.is_alive:
            raise EngineStopped("The engine is not running; no request can be served.")
        limit = self.config.max_num_queued_reqs
        assert limit and self.config.max_num_queued_tokens
        if num_choices > limit:
            raise InvalidParameter(f"n={num_choices} is more than the server's queue holds, {limit}.", "n")
        with self._lock:
            num_unfinished, waiting_tokens = len(self._pending_prompt_tokens), sum(self._pending_prompt_tokens.values())
        if num_unfinished + num_choices > limit:
            self._thread.submit(CountRejection("max_num_queued_reqs"))
            raise Overloaded(
                f"{num_unfinished} requests are unfinished, and {limit} is the limit; please try again later."
            )
        if waiting_tokens > self.config.max_num_queued_tokens:
            self._thread.submit(CountRejection("max_num_queued_tokens"))
            raise Overloaded(f"{waiting_tokens} prompt tokens are waiting; please try again later.")

    def truncate_and_validate(
        self, prompt_ids: Sequence[int], params: SamplingParams
    ) -> tuple[Sequence[int], SamplingParams]:
        """Truncate the prompt if params ask for it, and validate the request.

        Returns the prompt that is read, and params with the max_tokens that applies.

        Raises RequestError for a request that cannot be served.
        """
        assert self.config.max_model_len
        kept = params.truncate(prompt_ids, self.config.max_model_len)
        return kept, self.validate(kept, params)

    def validate(self, prompt_ids: Sequence[int], params: SamplingParams) -> SamplingParams:
        """Check a request against the model's limits and return params with the max_tokens that applies.

        Raises PromptTooLong if the prompt leaves no room for an output, InvalidParameter, which names the field, for
        anything else that cannot be served.
        """
        limit = self.config.max_model_len
        assert limit
        self._validate_token_ids(prompt_ids, params)
        num_prompt_tokens = len(prompt_ids)
        if params.max_tokens is not None and params.max_tokens > limit:
            raise InvalidParameter(
                f"max_tokens={params.max_tokens} cannot be greater than max_model_len={limit}.", "max_tokens"
            )
        if num_prompt_tokens >= limit:
            raise PromptTooLong(
                f"The prompt is too long. This model's maximum context length is {limit} tokens, but the prompt has"
                f" {num_prompt_tokens} tokens, which leaves no room for an answer. Please reduce the length of the"
                " messages or the prompt."
            )
        if params.echo_only:
            return replace(params, max_tokens=0)
        requested = params.max_tokens or self.defaults.values.get("max_new_tokens") or limit
        max_tokens = min(limit - num_prompt_tokens, requested, self.defaults.hard_max_tokens or limit)
        if params.use_beam_search:
            max_tokens = min(max_tokens, self._max_beam_tokens(num_prompt_tokens, params.n))
        if params.min_tokens > max_tokens:
            raise InvalidParameter(
                f"min_tokens={params.min_tokens} is more than the {max_tokens} tokens that can be generated.",
                "min_tokens",
            )
        return replace(params, max_tokens=max_tokens)

    def _max_beam_tokens(self, num_prompt_tokens: int, width: int) -> int:
        """Return the number of tokens that each beam can have before all of them fill the cache."""
        rows = self.config.max_num_seqs
        assert rows
        if width > rows:
            raise InvalidParameter(
                f"n={width} beams are more than the {rows} sequences that run at once (max_num_seqs).", "n"
            )
        return max_beam_tokens(num_prompt_tokens, width, self.num_pages - 1, self.config.block_size)

    def _validate_token_ids(self, prompt_ids: Sequence[int], params: SamplingParams) -> None:
        if not prompt_ids:
            raise InvalidParameter("The prompt is empty; at least one token is needed.", "prompt")
        if min(prompt_ids) < 0 or max(prompt_ids) >= self.vocab_size:
            unknown = next(token for token in prompt_ids if not 0 <= token < self.vocab_size)
            raise InvalidParameter(
                f"Token id {unknown} is out of vocabulary: ids are 0 to {self.vocab_size - 1}.", "prompt"
            )
        params.check_vocabulary(self.vocab_size)
        encode_bad_words(params.bad_words, self.tokenizer)
        params.check_priority(self.config.scheduling_policy)
        for name in ("logprobs", "prompt_logprobs"):
            value = getattr(params, name)
            if value is not None and value > self.config.max_logprobs >= 0:
                raise InvalidParameter(
                    f"{name}={value} is more than this server's limit of {self.config.max_logprobs}.", name
                )

    def create_stream(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        output_plan: OutputPlan = PLAIN_TEXT,
        cache_salt: str | None = None,
    ) -> OutputStream:
        """Create the engine requests of a validated request: one for each choice, or one for a beam search.

        prompt_ids    the prompt, as `truncate_and_validate` returned it
        params        the sampling parameters, as it returned them; choice j gets seed + j
        output_plan   what the output planner prepared for them
        cache_salt    cached prefixes are shared only among requests with the same salt
        """
        assert params.max_tokens is not None
        prompt = tuple(prompt_ids)
        seed = params.seed if params.seed is not None and params.seed != -1 else None
        further_eos_ids: frozenset[int] = frozenset() if params.ignore_eos else self.further_eos_ids
        eos_ids = self.further_eos_ids if self.eos_id is None else self.further_eos_ids | {self.eos_id}
        all_stop_ids = eos_ids | frozenset(params.stop_token_ids)
        suppresses_stop = bool(params.min_tokens or output_plan.grammar)
        bad_sequences = encode_bad_words(params.bad_words, self.tokenizer)
        ids = [next(self._request_ids) for _ in range(params.n)]
        is_beam_search = params.use_beam_search and not params.echo_only
        sibling_params = replace(params, prompt_logprobs=None)  # the first choice returns them
        requests = [
            Request(
                request_id=request_id,
                prompt_ids=prompt,
                params=sibling_params if choice else params,
                seed=self._rng.getrandbits(64) - 2**63 if seed is None else seed + choice,
                max_total_tokens=len(prompt) + params.max_tokens,
                eos_id=None if params.ignore_eos else self.eos_id,
                stop_ids=frozenset(params.stop_token_ids) | further_eos_ids,
                stop_ids_until_min_tokens=tuple(sorted(all_stop_ids)) if suppresses_stop else (),
                bad_sequences=bad_sequences,
                parent_id=ids[0] if choice else None,
                num_siblings=0 if choice or is_beam_search else params.n - 1,
                choice_ids=tuple(ids) if is_beam_search else (),
                grammar=output_plan.grammar and output_plan.grammar.spec,
                reasoning=output_plan.reasoning,
                reasoning_end_ids=output_plan.reasoning_end_ids,
                cache_salt=cache_salt,
                arrival_s=time.monotonic(),
            )
            for choice, request_id in enumerate(ids[:1] if is_beam_search else ids)
        ]
        return OutputStream(requests, self.tokenizer, params, output_plan)

    def submit(self, stream: OutputStream) -> None:
        """Hand the requests of a stream to the engine; `on_outputs` gets their outputs."""
        with self._lock:
            for request in stream.requests:
                self._pending_prompt_tokens.update(dict.fromkeys(request.output_ids, 0))
                self._pending_prompt_tokens[request.request_id] = stream.num_prompt_tokens
        self._thread.submit(AddRequests(stream.requests))

    def record_output(self, output: TokenOutput) -> None:
        """Update the counts of the queue: the first output means a computed prompt, the last one an ended request."""
        with self._lock:
            if output.request_id in self._pending_prompt_tokens:
                self._pending_prompt_tokens[output.request_id] = 0
                if output.finish_reason is not None:
                    del self._pending_prompt_tokens[output.request_id]

    def finish_requests(self, request_ids: Sequence[int], reason: FinishReason = FinishReason.ABORT) -> None:
        """End requests whose caller has left or whose text has ended; finished and unknown ids are ignored."""
        if not request_ids:
            return
        with self._lock:
            for request_id in request_ids:
                self._pending_prompt_tokens.pop(request_id, None)
        self._thread.submit(FinishRequests(tuple(request_ids), reason))

    @property
    def num_unfinished(self) -> int:
        """The number of sequences that have not ended."""
        return len(self._pending_prompt_tokens)

    @property
    def is_healthy(self) -> bool:
        """Whether a new request could be served."""
        return self._thread.is_responsive(STEP_TIMEOUT_S)

    def stats(self) -> StatsSnapshot:
        """Return the engine's metrics, with the compilations of this process and the restarts of its workers."""
        snapshot = self._loaded.engine.stats()
        restarts = {"helper_restarts": self.prompts.num_restarts + self.output_planner.num_restarts}
        return replace(snapshot, counters={**snapshot.counters, **compile_counter.counters(), **restarts})

    def close(self) -> None:
        """End the engine and the worker processes and free the device memory. Idempotent.

        Requests that still run end with EngineStopped.
        """
        atexit.unregister(self._at_exit)
        self._thread.stop()
        self.prompts.close()
        self.output_planner.close()
        self._loaded.engine.close()


def _close_if_alive(reference: "weakref.ref[EngineClient]") -> None:
    """Close a client that its owner has not closed, at the interpreter's exit."""
    if (client := reference()) is not None:
        client.close()
