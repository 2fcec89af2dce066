"""One tiny network, compiled once; each test gets a fresh scheduler over the same device.

module → what proves it:

    scheduler, prefill_scheduler, decode_scheduler, request_table, row_table, sequence, request → test_scheduler.py,
        test_scheduler_life.py, test_priorities.py
    prefix_reuse, decode_batch_cache, output_processor, request_outputs → test_scheduler.py, test_equalities.py
    invariants → test_invariants.py, test_scheduler_life.py
    beam_manager → test_beam_manager.py, test_beam_oracle.py
    beam_search → test_beams.py
    adapter_slots → test_adapter_slots.py, test_adapters.py
    token_restrictions → test_guided.py, test_guided_on_device.py
    repetition → test_repetition.py
    logprobs → test_mixes.py
    plan, values → test_portable.py
    multi_step → test_multi_step.py; of the scheduler's side test_many_tokens.py
    batch, step, runner → test_equalities.py, test_contracts.py, test_batch_invariance.py, test_mixes.py
    buckets → test_buckets.py
    program_table, programs, program_files, compile → test_programs.py, test_compile.py
    built_programs, program_build, program_environment → test_built_programs.py
    host_states → test_host_states.py
    program_memory → test_program_memory.py
    routed_experts, and models/routing → api/test_expert_choices.py, parallel/two_devices
    build, opened_model, program_plan → test_overrides.py, test_packed.py, test_model_families.py,
        test_kv_cache_dtype.py
    limits → test_device_defaults.py, test_host_states.py, test_overrides.py
    description → test_start_log.py
    weight_form → test_weight_form.py
    request_faults → test_request_faults.py, test_scheduler_life.py
    fault_search → test_step_faults.py, test_scheduler_life.py
    fault_injection → test_fault_injection.py
    heartbeat → test_heartbeat.py
    event_publisher → test_event_publisher.py, api/test_kv_events.py
    engine, thread → test_thread.py, test_contracts.py
    stats → test_stats.py
    roofline → test_roofline.py
    profiler → test_profiler.py
"""

from dataclasses import replace

import pytest

from jaxserve.cache.manager import CacheManager
from jaxserve.config import EngineConfig
from jaxserve.engine import limits
from jaxserve.engine.buckets import Buckets
from jaxserve.engine.build import LoadedEngine, build
from jaxserve.engine.engine import Engine
from jaxserve.engine.program_table import ProgramTable
from jaxserve.engine.request import Request
from jaxserve.engine.scheduler import Scheduler
from jaxserve.engine.stats import Stats
from jaxserve.sampling.sampler import SampleMode
from jaxserve.sampling_params import SamplingParams
from tests.grammars import TRACKERS
from tests.models.tiny import write

PAGE, MAX_LEN, ROWS, PAGES = 16, 256, 8, 160


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    return write(tmp_path_factory.mktemp("tiny"), "llama", seed=3)


@pytest.fixture(scope="session")
def built(tiny_model) -> LoadedEngine:
    return build(
        EngineConfig(
            model=str(tiny_model),
            max_model_len=MAX_LEN,
            max_num_seqs=ROWS,
            max_num_batched_tokens=64,
            num_gpu_blocks_override=PAGES,
            max_logprobs=5,
        )
    )


@pytest.fixture(scope="module")
def fewest_programs():
    """Leave out all programs that tests of families do not run; what is left out and asked for is a KeyError."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "choose_buckets", lambda **_: Buckets(decode=(2,), prefill=(16, 64)))
        patch.setattr(ProgramTable, "modes", (SampleMode.GREEDY, SampleMode.SAMPLE))
        patch.setattr(ProgramTable, "prompt_logprobs", ())
        yield


class Bench:
    """Runs requests to their ends and remembers what each one got."""

    def __init__(
        self,
        built: LoadedEngine,
        *,
        overlap=True,
        num_pages=PAGES,
        prefix_caching=True,
        chunk=64,
        budget=64,
        max_tokens_per_row=1,
    ):
        config = built.config
        sizes = [replace(size, num_pages=min(num_pages, size.num_pages)) for size in built.cache_size.groups]
        self.cache = CacheManager(sizes, page_size=PAGE, has_prefix_cache=prefix_caching)
        self.vocab_size = built.spec.vocab_size
        self.scheduler = Scheduler(
            self.cache,
            Stats(config.max_model_len),
            max_num_seqs=config.max_num_seqs,
            max_num_batched_tokens=budget,
            max_chunk_tokens=chunk,
            max_pages_per_row=config.max_model_len // PAGE,
            vocab_size=built.spec.vocab_size,
            max_logprobs=config.max_logprobs,
            max_tokens_per_row=max_tokens_per_row,
            trackers=TRACKERS,
            num_adapter_slots=config.max_loras if config.has_adapters else 0,
        )
        self.engine = Engine(self.scheduler, built.engine.runner, overlap=overlap)
        self.outputs: dict[int, list] = {}

    def add(self, request_id, prompt, *, tokens=24, seed=0, guided=None, **params):
        """guided: the fields of a request that say what its answer must be."""
        params = SamplingParams(**({"temperature": 0.0} | params), max_tokens=tokens)
        self.engine.add(Request(request_id, tuple(prompt), params, seed, len(prompt) + tokens, **guided or {}))

    def step(self):
        for output in self.engine.step():
            self.outputs.setdefault(output.request_id, []).append(output)
        self.engine.audit()

    def run(self):
        while self.engine.has_work:
            self.step()
        assert self.cache.num_active == 0
        return {request_id: self.tokens(request_id) for request_id in self.outputs}

    def tokens(self, request_id):
        return [token for output in self.outputs[request_id] for token in output.token_ids]

    def logprobs(self, request_id):
        return [entry for output in self.outputs[request_id] for entry in output.logprobs or ()]

    def counter(self, name):
        return self.engine.stats().counters[name]


@pytest.fixture
def bench(built):
    return lambda **how: Bench(built, **how)
