"""EngineClient: a loaded model with its replicas, shared by LLM and AsyncLLM."""

import atexit
import logging
import random
import struct
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import count, islice

from jaxserve.adapter_registry import AdapterRegistry
from jaxserve.admission import AdmissionQueue, QueueSlot
from jaxserve.cache.prefix import CacheContext
from jaxserve.config import EngineConfig
from jaxserve.config_check import check_config
from jaxserve.engine.build import LoadedEngine
from jaxserve.engine.compile import ProgressCallback, compile_counter
from jaxserve.engine.fault_injection import limit_disk
from jaxserve.engine.request import Request
from jaxserve.engine_snapshot import StatsSnapshot
from jaxserve.errors import EngineStopped
from jaxserve.faults import Faults
from jaxserve.loading import load_engines
from jaxserve.models.routing import find_routed_layers
from jaxserve.output_stream import OutputStream
from jaxserve.outputs import TokenOutput
from jaxserve.pooling_preparation import PoolingPreparer
from jaxserve.preparation import Ready, RequestPreparer
from jaxserve.replica import Replica, sum_stats
from jaxserve.request_limits import RequestLimits, check_rank
from jaxserve.router import PrefixRouter, hash_prompt
from jaxserve.sampling_params import SamplingParams
from jaxserve.text_components import TextComponents

log = logging.getLogger(__name__)


class EngineClient:
    """A loaded model: admits requests, has them prepared, and submits them to the engine of one of its replicas.

    config            The configuration as resolved: every limit is a number.
    text              The text side of the model.
    width             The length of what is pooled, of a model that pools.
    limits            The limits of requests.
    preparer          Prepares requests that generate.
    pooling_preparer  Prepares requests that are embedded, scored or classified.
    adapters          The adapters that requests may name.
    replicas          The engines, by rank.
    description       Facts for people, in the order to print them.
    expert_bytes      The bytes of the experts of one token, as outputs return them; 0: they return none.
    """

    def __init__(
        self,
        engines: Sequence[LoadedEngine],
        text: TextComponents,
        adapters: AdapterRegistry,
        on_outputs: Callable[[list[TokenOutput]], None],
    ) -> None:
        """Start the threads of the engines, which call `on_outputs` with the outputs of every step."""
        first = engines[0]
        self.config, self.text, self.adapters = first.config, text, adapters
        self.width = first.spec.pooled_width
        returns_experts = first.config.enable_return_routed_experts
        self.expert_bytes = find_routed_layers(first.spec).token_bytes if returns_experts else 0
        self.limits = RequestLimits(
            first.config, text.defaults, first.spec.vocab_size, first.cache_size.groups, first.task
        )
        self.preparer = RequestPreparer(text.tokenizer, text.prompts, text.output_planner, self.limits)
        self.pooling_preparer = PoolingPreparer(text.tokenizer, text.prompts, self.limits)
        devices = "; ".join(engine.description["device"] for engine in engines)
        replicas = {"replicas": f"{len(engines)}: {devices}"} if len(engines) > 1 else {}
        self.description = first.description | replicas | text.description
        config = first.config
        assert config.max_num_queued_reqs and config.max_num_queued_tokens
        self._queue = AdmissionQueue(config.max_num_queued_reqs, config.max_num_queued_tokens)
        self._request_ids = count(1)
        self._faults = Faults.from_config(config)
        self._rng = random.SystemRandom() if config.seed is None else random.Random(config.seed)
        self._router, self._route_lock = PrefixRouter[int](), threading.Lock()
        self.replicas = tuple(Replica(rank, engine, on_outputs) for rank, engine in enumerate(engines))
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

        on_outputs   called on the engines' threads with the outputs of every step
        progress     called with (phase, done, total)

        Raises StartupError if the model cannot be served.
        """
        check_config(config)
        if (faults := Faults.from_config(config)) is not None:
            limit_disk(faults)
            log.warning("FAULT INJECTION IS ON: requests will fail on purpose (%s)", ", ".join(config.fault))
        return cls(*load_engines(config, progress), on_outputs)

    def admit(self, num_choices: int = 1, caller: str = "") -> QueueSlot:
        """Admit a request to the queue, before its prompt is looked at. caller: who sends it.

        Raises EngineStopped if no request can be served, InvalidParameter if the queue could never hold so many
        choices, Overloaded if it is full.
        """
        if not self.can_serve:
            raise EngineStopped("The engine is not running; no request can be served.")
        num_waiting_tokens = sum(replica.num_waiting_tokens for replica in self.replicas)
        return self._queue.admit(num_choices, num_waiting_tokens, caller)

    def check_data_parallel_rank(self, rank: int, name: str = "data_parallel_rank") -> None:
        """Check the number of a replica. name: what the caller has called it.

        Raises InvalidParameter if there is no such replica.
        """
        check_rank(rank, len(self.replicas), name)

    def create_stream(self, ready: Ready) -> OutputStream:
        """Create the stream of a prepared request, which makes its engine requests."""
        rows = self.config.max_num_seqs
        assert rows
        # As many again as there are rows: while one ends, the next one waits in the engine already.
        return OutputStream(
            ready, self._make_requests(ready), self.text.tokenizer, max_unfinished=2 * rows, faults=self._faults
        )

    def _make_requests(self, ready: Ready) -> Iterator[Request]:
        """Make the engine requests of a prepared request one after another. They share what they have in common."""
        params = ready.params
        is_beam_search = params.use_beam_search and not params.echo_only
        seeds = self._draw_seeds(params, 1 if is_beam_search else params.n)
        first = self._make_first_request(ready, next(seeds))
        if is_beam_search:
            yield replace(first, choice_ids=(first.request_id, *islice(self._request_ids, params.n - 1)))
            return
        yield replace(first, num_siblings=params.n - 1)
        sibling_params = params.derive(prompt_logprobs=None)  # the first choice returns them
        for seed in seeds:
            request_id = next(self._request_ids)
            yield replace(first, request_id=request_id, params=sibling_params, seed=seed, parent_id=first.request_id)

    def _draw_seeds(self, params: SamplingParams, num_seeds: int) -> Iterator[int]:
        """Return the seeds of choices: j more than the request's seed, else random ones, which are drawn now."""
        if params.seed is not None and params.seed != -1:
            return iter(range(params.seed, params.seed + num_seeds))
        # One number of many bits has the bits of many numbers: no other request comes between them.
        drawn = self._rng.getrandbits(64 * num_seeds).to_bytes(8 * num_seeds, "little")
        return (seed - 2**63 for (seed,) in struct.iter_unpack("<Q", drawn))

    def _make_first_request(self, ready: Ready, seed: int) -> Request:
        params, plan, text = ready.params, ready.output_plan, self.text
        assert params.max_tokens is not None
        further_eos_ids: frozenset[int] = frozenset() if params.ignore_eos else text.further_eos_ids
        eos_id = text.tokenizer.eos_token_id
        eos_ids = text.further_eos_ids if eos_id is None else text.further_eos_ids | {eos_id}
        all_stop_ids = eos_ids | frozenset(params.stop_token_ids)
        suppresses_stop = bool(params.min_tokens or plan.grammar)
        returns_experts = self.config.enable_return_routed_experts and not params.use_beam_search
        return Request(
            request_id=next(self._request_ids),
            prompt_ids=ready.prompt_ids,
            params=params,
            seed=seed,
            max_total_tokens=len(ready.prompt_ids) + params.max_tokens,
            eos_id=None if params.ignore_eos else eos_id,
            stop_ids=frozenset(params.stop_token_ids) | further_eos_ids,
            stop_ids_until_min_tokens=tuple(sorted(all_stop_ids)) if suppresses_stop else (),
            bad_sequences=ready.bad_sequences,
            grammar=plan.grammar and plan.grammar.spec,
            reasoning=plan.reasoning,
            reasoning_end_ids=plan.reasoning_end_ids,
            is_parsed=plan.make_parser is not None,
            snapshot_borders=ready.snapshot_borders,
            cache_salt=ready.cache_salt,
            adapter=ready.adapter,
            arrival_s=time.monotonic(),
            caller="" if ready.slot is None else ready.slot.caller,
            label="" if ready.slot is None else ready.slot.label,
            is_timed=ready.slot is not None and ready.slot.is_timed,
            pooling=ready.pooling,
            second_start=ready.second_start,
            experts_start=params.routed_experts_prompt_start if returns_experts else None,
        )

    def choose_replica(self, ready: Ready) -> Replica:
        """Choose the replica to which all engine requests of a prepared request are to be submitted."""
        if len(self.replicas) == 1:
            return self.replicas[0]
        adapter = None if ready.adapter is None else ready.adapter.key
        context = CacheContext(salt=ready.cache_salt, adapter=adapter)
        prompt = hash_prompt(ready.prompt_ids, self.config.page_size, context)
        with self._route_lock:
            rank = ready.data_parallel_rank
            if rank is None:  # of replicas that are all dead the first one says so
                loads = {replica.rank: load for replica in self.replicas if (load := replica.load) is not None}
                rank = next(iter(self._router.rank(prompt, loads)), 0)
            self._router.record(prompt, rank)
        return self.replicas[rank]

    @property
    def num_unfinished(self) -> int:
        """The number of sequences that have not ended."""
        return sum(replica.num_unfinished for replica in self.replicas)

    @property
    def can_serve(self) -> bool:
        """Whether any replica runs."""
        return any(replica.is_alive for replica in self.replicas)

    @property
    def is_healthy(self) -> bool:
        """Whether all replicas run, none of them in a step that takes longer than expected, and workers can start."""
        return all(replica.is_responsive for replica in self.replicas) and not self.text.has_broken_workers

    @property
    def is_dead(self) -> bool:
        """Whether a replica's engine has died, a step exceeds the step timeout, or no worker can be started again."""
        return not all(replica.is_alive for replica in self.replicas) or self.text.has_broken_workers

    def replica_stats(self) -> tuple[StatsSnapshot, ...]:
        """Return the metrics of each replica, by rank.

        What is counted for the whole process is among the first's: requests that were refused, compilations, cached
        grammars, and restarts of worker processes.
        """
        first, *others = [replica.stats() for replica in self.replicas]
        shared = compile_counter.counters() | {"worker_restarts": self.text.num_restarts}
        nothing = dict.fromkeys(shared, 0)
        refused = self._queue.rejected()
        return (
            replace(
                first,
                counters={**first.counters, **shared},
                rejected=refused,
                grammar_cache_entries=self.text.output_planner.num_cached_grammars,
            ),
            *(
                replace(stats, counters={**stats.counters, **nothing}, rejected=dict.fromkeys(refused, 0))
                for stats in others
            ),
        )

    def stats(self) -> StatsSnapshot:
        """Return the metrics of all replicas together."""
        return sum_stats(self.replica_stats())

    def close(self) -> None:
        """End the engines and the worker processes and free the device memory. Idempotent.

        Requests that still run end with EngineStopped.
        """
        atexit.unregister(self._at_exit)
        for replica in self.replicas:
            replica.stop()
        self.text.close()
        for replica in self.replicas:
            replica.close()


def _close_if_alive(reference: "weakref.ref[EngineClient]") -> None:
    """Close a client that its owner has not closed, at the interpreter's exit."""
    if (client := reference()) is not None:
        client.close()
