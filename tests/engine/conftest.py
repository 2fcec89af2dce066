"""One tiny network, compiled once; each test gets a fresh scheduler over the same device."""

import pytest

from jaxserve.cache.pool import PagePool
from jaxserve.cache.prefix import PrefixIndex
from jaxserve.config import EngineConfig
from jaxserve.engine.build import LoadedEngine, build
from jaxserve.engine.engine import Engine
from jaxserve.engine.request import Request
from jaxserve.engine.scheduler import Scheduler
from jaxserve.engine.stats import Stats
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


class Bench:
    """Runs requests to their ends and remembers what each one got."""

    def __init__(self, built: LoadedEngine, *, overlap=True, num_pages=PAGES, prefix_caching=True, chunk=64, budget=64):
        config = built.config
        self.pool, self.vocab_size = PagePool(num_pages), built.spec.vocab_size
        self.scheduler = Scheduler(
            self.pool,
            PrefixIndex(self.pool, PAGE) if prefix_caching else None,
            Stats(config.max_model_len),
            page_size=PAGE,
            max_num_seqs=config.max_num_seqs,
            max_num_batched_tokens=budget,
            max_chunk_tokens=chunk,
            max_pages_per_row=config.max_model_len // PAGE,
            vocab_size=built.spec.vocab_size,
            max_logprobs=config.max_logprobs,
            trackers=TRACKERS,
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
        assert self.pool.num_active == 0
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
