"""What both doors share: a loaded model with its engine thread, and the checks at the door."""

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
from jaxserve.engine.request import Request
from jaxserve.engine.thread import AddRequests, CountRejection, EngineThread, FinishRequests
from jaxserve.errors import EngineStopped, InvalidParameter, Overloaded, PromptTooLong
from jaxserve.output_plan import PLAIN_TEXT, OutputPlan
from jaxserve.output_stream import OutputStream
from jaxserve.outputs import FinishReason, StatsSnapshot, TokenOutput
from jaxserve.sampling_params import SamplingParams
from jaxserve.text.bad_words import encode_bad_words
from jaxserve.text.stop_cursor import StopCursor
from jaxserve.text.tokenizer import Tokenizer
from jaxserve.text_components import TextComponents

STEP_TIMEOUT_S = 120.0  # a step that takes longer counts as hung


class EngineClient:
    """A model that is loaded and running. deliver gets each step's outputs, on the engine's thread."""

    def __init__(
        self, loaded: LoadedEngine, text: TextComponents, on_outputs: Callable[[list[TokenOutput]], None]
    ) -> None:
        self.config, self.tokenizer = loaded.config, text.tokenizer
        self.vocab_size, self.num_pages = loaded.spec.vocab_size, loaded.num_pages
        self.defaults, self.prompts, self.output_planner = text.defaults, text.prompts, text.output_planner
        self.eos_id, self.further_eos_ids = text.tokenizer.eos_token_id, text.further_eos_ids
        self.description = loaded.description | text.description
        self._request_ids = itertools.count(1)
        seed = loaded.config.seed
        self._rng = random.SystemRandom() if seed is None else random.Random(seed)
        self._lock = threading.Lock()
        self._pending_prompt_tokens: dict[int, int] = {}  # request id → prompt tokens not known to be computed yet
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
        """Fetches, loads and compiles; blocks until the first request could be served. Raises StartupError.

        Everything that the settings and the model's small files can be wrong about is found before that.
        """
        check_config(config)
        tokenizers: list[Future[Tokenizer]] = []
        texts: list[TextComponents] = []
        with ThreadPoolExecutor(1, "tokenizer") as beside, ExitStack() as undo:

            def read_tokenizer(path: Path) -> None:  # while the checkpoint is opened and checked
                tokenizers.append(beside.submit(Tokenizer.load, Path(config.tokenizer) if config.tokenizer else path))

            def prepare_text(model: CheckedModel) -> None:
                texts.append(TextComponents.from_model(model, tokenizers[0].result()))
                undo.callback(texts[0].close)

            built = build(config, progress, read_tokenizer, prepare_text)
            undo.pop_all()
            return cls(built, texts[0], on_outputs)

    # The door

    def admit(self, num_choices: int = 1) -> None:
        """Refuses what the queue cannot take, before anything is rendered or tokenized.

        Raises EngineStopped when nobody can be served, InvalidParameter when this can never fit, else Overloaded.
        """
        if not self._thread.is_alive:
            raise EngineStopped("The engine is not running; no request can be served.")
        limit = self.config.max_num_queued_reqs
        assert limit and self.config.max_num_queued_tokens
        if num_choices > limit:
            raise InvalidParameter(f"n={num_choices} is more than the server's queue holds, {limit}.", "n")
        with self._lock:
            live, waiting_tokens = len(self._pending_prompt_tokens), sum(self._pending_prompt_tokens.values())
        if live + num_choices > limit:
            self._thread.submit(CountRejection("max_num_queued_reqs"))
            raise Overloaded(f"{live} requests are unfinished, and {limit} is the limit; please try again later.")
        if waiting_tokens > self.config.max_num_queued_tokens:
            self._thread.submit(CountRejection("max_num_queued_tokens"))
            raise Overloaded(f"{waiting_tokens} prompt tokens are waiting; please try again later.")

    def truncate_and_validate(
        self, prompt_ids: Sequence[int], params: SamplingParams
    ) -> tuple[Sequence[int], SamplingParams]:
        """The prompt, cut if params say so, and params as `check` returns them."""
        assert self.config.max_model_len
        kept = params.truncate(prompt_ids, self.config.max_model_len)
        return kept, self.validate(kept, params)

    def validate(self, prompt_ids: Sequence[int], params: SamplingParams) -> SamplingParams:
        """Everything that can be known before running. Returns params with the max_tokens that will hold.

        Raises RequestError naming the field; see the contract's section on lengths.
        """
        limit = self.config.max_model_len
        assert limit
        self._validate_token_ids(prompt_ids, params)
        prompt = len(prompt_ids)
        if params.max_tokens is not None and params.max_tokens > limit:
            raise InvalidParameter(
                f"max_tokens={params.max_tokens} cannot be greater than max_model_len={limit}.", "max_tokens"
            )
        if prompt >= limit:
            raise PromptTooLong(
                f"The prompt is too long. This model's maximum context length is {limit} tokens, but the prompt has"
                f" {prompt} tokens, which leaves no room for an answer. Please reduce the length of the messages or the"
                " prompt."
            )
        if params.echo_only:
            return replace(params, max_tokens=0)
        wanted = params.max_tokens or self.defaults.values.get("max_new_tokens") or limit
        effective = min(limit - prompt, wanted, self.defaults.hard_max_tokens or limit)
        if params.use_beam_search:
            effective = min(effective, self._max_beam_tokens(prompt, params.n))
        if params.min_tokens > effective:
            raise InvalidParameter(
                f"min_tokens={params.min_tokens} is more than the {effective} tokens that can be generated.",
                "min_tokens",
            )
        return replace(params, max_tokens=effective)

    def _max_beam_tokens(self, prompt_tokens: int, width: int) -> int:
        """Tokens that the beams of a search can have before they fill the whole cache."""
        rows = self.config.max_num_seqs
        assert rows
        if width > rows:
            raise InvalidParameter(
                f"n={width} beams are more than the {rows} sequences that run at once (max_num_seqs).", "n"
            )
        return max_beam_tokens(prompt_tokens, width, self.num_pages - 1, self.config.block_size)

    def _validate_token_ids(self, prompt_ids: Sequence[int], params: SamplingParams) -> None:
        if not prompt_ids:
            raise InvalidParameter("The prompt is empty; at least one token is needed.", "prompt")
        if min(prompt_ids) < 0 or max(prompt_ids) >= self.vocab_size:
            wrong = next(token for token in prompt_ids if not 0 <= token < self.vocab_size)
            raise InvalidParameter(
                f"Token id {wrong} is out of vocabulary: ids are 0 to {self.vocab_size - 1}.", "prompt"
            )
        params.check_vocabulary(self.vocab_size)
        encode_bad_words(params.bad_words, self.tokenizer)
        params.check_priority(self.config.scheduling_policy)
        for name in ("logprobs", "prompt_logprobs"):
            wanted = getattr(params, name)
            if wanted is not None and wanted > self.config.max_logprobs >= 0:
                raise InvalidParameter(
                    f"{name}={wanted} is more than this server's limit of {self.config.max_logprobs}.", name
                )

    def create_stream(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        output_plan: OutputPlan = PLAIN_TEXT,
        cache_salt: str | None = None,
    ) -> OutputStream:
        """n engine requests, choice j with seed + j, or one beam search, for params that `check` has returned.

        prepared is what the preparer made of them.
        """
        assert params.max_tokens is not None
        prompt = tuple(prompt_ids)
        seed = params.seed if params.seed is not None and params.seed != -1 else None
        ends: frozenset[int] = frozenset() if params.ignore_eos else self.further_eos_ids
        primary = frozenset() if self.eos_id is None else frozenset([self.eos_id])
        all_ends = self.further_eos_ids | primary | frozenset(params.stop_token_ids)
        bad = encode_bad_words(params.bad_words, self.tokenizer)
        ids = [next(self._request_ids) for _ in range(params.n)]
        is_beam_search = params.use_beam_search and not params.echo_only
        followers = replace(params, prompt_logprobs=None)  # the prompt is scored once
        requests = [
            Request(
                request_id=request_id,
                prompt_ids=prompt,
                params=followers if choice else params,
                seed=self._rng.getrandbits(64) - 2**63 if seed is None else seed + choice,
                max_total_tokens=len(prompt) + params.max_tokens,
                eos_id=None if params.ignore_eos else self.eos_id,
                stop_ids=frozenset(params.stop_token_ids) | ends,
                stop_ids_until_min_tokens=tuple(sorted(all_ends)) if params.min_tokens or output_plan.grammar else (),
                bad_sequences=bad,
                parent_id=ids[0] if choice else None,
                num_siblings=0 if choice or is_beam_search else params.n - 1,
                choice_ids=tuple(ids) if is_beam_search else (),
                stop_cursor=StopCursor.from_params(self.tokenizer, params, prompt) if is_beam_search else None,
                grammar=output_plan.grammar,
                reasoning_state=output_plan.reasoning_state,
                reasoning_end_ids=output_plan.reasoning_end_ids,
                cache_salt=cache_salt,
                arrival_s=time.monotonic(),
            )
            for choice, request_id in enumerate(ids[:1] if is_beam_search else ids)
        ]
        return OutputStream(requests, self.tokenizer, params, output_plan)

    def submit(self, stream: OutputStream) -> None:
        """Hands an answer's requests to the engine. Results come through `deliver`."""
        with self._lock:
            for request in stream.requests:
                self._pending_prompt_tokens.update(dict.fromkeys(request.output_ids, 0))
                self._pending_prompt_tokens[request.request_id] = stream.num_prompt_tokens
        self._thread.submit(AddRequests(stream.requests, stream.request_group))

    def record_output(self, output: TokenOutput) -> None:
        """Keeps the queue's count: this request's prompt is computed, and perhaps the request has ended."""
        with self._lock:
            if output.request_id in self._pending_prompt_tokens:
                self._pending_prompt_tokens[output.request_id] = 0
                if output.finish_reason is not None:
                    del self._pending_prompt_tokens[output.request_id]

    def finish_requests(self, request_ids: Sequence[int], reason: FinishReason = FinishReason.ABORT) -> None:
        """Nobody waits for these any more, or their text has ended; finished and unknown ids are fine."""
        if not request_ids:
            return
        with self._lock:
            for request_id in request_ids:
                self._pending_prompt_tokens.pop(request_id, None)
        self._thread.submit(FinishRequests(tuple(request_ids), reason))

    @property
    def num_unfinished(self) -> int:
        """Requests that have not ended."""
        return len(self._pending_prompt_tokens)

    @property
    def is_healthy(self) -> bool:
        """Whether a new request could be served."""
        return self._thread.is_responsive(STEP_TIMEOUT_S)

    def stats(self) -> StatsSnapshot:
        """The engine's numbers, and this process's compiles: after readiness those must not move."""
        snapshot = self._loaded.engine.stats()
        helpers = {"helper_restarts": self.prompts.num_restarts + self.output_planner.num_restarts}
        return replace(snapshot, counters={**snapshot.counters, **compile_counter.counters(), **helpers})

    def close(self) -> None:
        """Ends the engine thread and the helpers, tells live requests, frees device memory. Idempotent."""
        atexit.unregister(self._at_exit)
        self._thread.stop()
        self.prompts.close()
        self.output_planner.close()
        self._loaded.engine.close()


def _close_if_alive(model: "weakref.ref[EngineClient]") -> None:
    """At the interpreter's exit, for who did not."""
    if (still_there := model()) is not None:
        still_there.close()
