"""The model of the simulation: the real text side over 40 one-character tokens, and real engines over a FakeRunner."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

from tokenizers import AddedToken, decoders, pre_tokenizers
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE

from jaxserve import EngineConfig
from jaxserve.adapter_registry import AdapterRegistry
from jaxserve.cache.sizing import CacheSize, GroupNeeds
from jaxserve.engine.build import CheckedModel, LoadedEngine
from jaxserve.engine.engine import Engine
from jaxserve.engine.fault_injection import CacheManagerWithFaults, RunnerWithFaults
from jaxserve.engine.heartbeat import Heartbeat
from jaxserve.engine.plan import StepMasks, StepPlan, StepResult
from jaxserve.engine.request import TrackerFactory
from jaxserve.engine.scheduler import Scheduler
from jaxserve.engine.stats import Stats
from jaxserve.faults import Faults
from jaxserve.text.tokenizer import Tokenizer
from jaxserve.text.tokenizer_parts import TokenizerParts
from jaxserve.text_components import TextComponents
from tests.fake_runner import NUM_TOP, VOCAB, FakeRunner, GroupSize
from tests.simulation.virtual_threads import VirtualThreads

ALPHABET = 'abcdefghijklmnopqrstuvwxyz .,:?{}"[]01'  # with the two special tokens, one for each id of the FakeRunner
EOS_TEXT, STOP_TEXT = "</s>", "<stop>"
TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }} {% endfor %}"
    "{% if add_generation_prompt %}a:{% endif %}"
)
PAGE = 4


def make_tokenizer() -> Tokenizer:
    """Make the tokenizer: a character is a token; those that it does not have are question marks."""
    pieces = [EOS_TEXT, STOP_TEXT, *ALPHABET]
    assert len(pieces) == VOCAB
    backend = Backend(BPE({piece: id for id, piece in enumerate(pieces)}, [], unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens([AddedToken(piece, special=True, normalized=False) for piece in pieces[:2]])
    return Tokenizer(TokenizerParts(backend, {"eos_token": EOS_TEXT}, 0, None, {"default": TEMPLATE}))


class SimulatedFaults(Faults):
    """Faults that are armed while the simulation runs.

    hits     By point, how often a fault was injected.
    on_hit   Called with each.
    """

    def __init__(self) -> None:
        super().__init__(())
        self._armed: dict[str, list[float]] = {}
        self.hits: dict[str, int] = {}
        self.on_hit: Callable[[str], None] = lambda point: None

    def arm(self, point: str, argument: float) -> None:
        """Let the next time that a point is passed fail."""
        self._armed.setdefault(point, []).append(argument)

    def disarm(self) -> None:
        """Forget the faults that did not happen."""
        self._armed.clear()

    def hit(self, point: str, request_ids: Collection[int] = ()) -> float | None:
        armed = self._armed.get(point)
        if not armed:
            return None
        self.hits[point] = self.hits.get(point, 0) + 1
        self.on_hit(point)
        return armed.pop(0)


class TimedRunner:
    """A FakeRunner whose steps take virtual time on a device that does one after another.

    on_plan   Called with each plan.
    """

    def __init__(
        self,
        runner: FakeRunner,
        threads: VirtualThreads,
        step_s: tuple[float, float],
        on_plan: Callable[[StepPlan], None],
    ) -> None:
        self._runner, self._threads, self._step_s, self._on_plan = runner, threads, step_s, on_plan
        self._free_at_s = 0.0

    def forward(self, plan: StepPlan) -> Any:
        self._on_plan(plan)
        shortest, longest = self._step_s
        duration_s = self._threads.rng.uniform(shortest, longest) * (1 + plan.num_tokens / 64)
        self._free_at_s = max(self._free_at_s, self._threads.loop.time()) + duration_s
        return self._runner.forward(plan), self._free_at_s

    def sample(self, handle: Any, masks: StepMasks) -> Any:
        work, ready_at_s = handle
        return self._runner.sample(work, masks), ready_at_s

    def fetch(self, handle: Any) -> StepResult:
        result, ready_at_s = handle
        self._threads.sleep(max(1e-5, ready_at_s - self._threads.loop.time()))
        return self._runner.fetch(result)

    def reset(self) -> None:
        self._threads.sleep(0.05)
        self._runner.reset()

    def close(self) -> None:
        """There is nothing to free."""


@dataclass
class SimulatedModel:
    """Loads engines for one start of the server; `load_engines` replaces the function of this name.

    settings   Of the plan.
    """

    settings: dict[str, Any]
    tokenizer: Tokenizer
    threads: VirtualThreads
    faults: SimulatedFaults
    on_plan: Callable[[StepPlan], None]
    engine: Engine | None = None

    def make_config(self, seed: int) -> EngineConfig:
        """Make the configuration of the engine."""
        settings = self.settings
        return EngineConfig(
            model="simulated",
            max_model_len=settings["max_model_len"],
            max_num_seqs=settings["max_num_seqs"],
            max_num_batched_tokens=settings["max_num_batched_tokens"],
            block_size=PAGE,
            num_gpu_blocks_override=settings["num_pages"],
            enable_prefix_caching=settings["enable_prefix_caching"],
            overlap=settings["overlap"],
            scheduling_policy=settings["scheduling_policy"],
            max_num_queued_reqs=settings["max_num_queued_reqs"],
            max_num_queued_tokens=settings["max_num_queued_tokens"],
            step_timeout_s=settings["step_timeout_s"],
            max_logprobs=NUM_TOP,
            compilation_cache_dir="none",
            roofline=False,
            seed=seed,
        )

    def load_engines(
        self, config: EngineConfig, progress: Any = None
    ) -> tuple[tuple[LoadedEngine, ...], TextComponents, AdapterRegistry]:
        """Make one engine, the text side, and no adapters."""
        spec: Any = SimpleNamespace(vocab_size=VOCAB, pooled_width=64)
        text = TextComponents.from_model(CheckedModel(config, spec, Path("simulated"), {}, {}, {}), self.tokenizer)
        groups = self._make_groups()
        self.engine = self._make_engine(config, groups, text.output_planner.trackers)
        loaded = LoadedEngine(
            engine=self.engine,
            config=config,
            spec=spec,
            path=Path("simulated"),
            model_config={},
            generation_config={},
            buckets=None,  # type: ignore[arg-type]
            cache_size=CacheSize(groups=groups, max_model_len=self.settings["max_model_len"], reason="simulated"),
            description={"device": "simulated"},
        )
        return (loaded,), text, AdapterRegistry(config, {})

    def _make_groups(self) -> tuple[GroupSize, ...]:
        settings = self.settings
        most, rows = settings["num_pages"], settings["max_num_seqs"]
        groups = []
        for window in settings["windows"]:
            needs = GroupNeeds(window=window, page_bytes=1)
            longest_step = max(settings["chunk"], settings["max_tokens_per_row"])
            num_pages = needs.request_pages(settings["max_model_len"], longest_step, PAGE) + 4
            groups.append(GroupSize(num_pages=most if window is None else min(most, num_pages), window=window))
        num_host = settings.get("num_host_states", 0)
        states = GroupSize(num_pages=rows + 5, num_rows=rows, num_host_pages=num_host, name="recurrent state")
        return (*groups, *[states] * settings.get("num_states", 0))

    def _make_engine(self, config: EngineConfig, groups: tuple[GroupSize, ...], trackers: TrackerFactory) -> Engine:
        settings, clock = self.settings, self.threads.loop.time
        cache = CacheManagerWithFaults(
            groups, page_size=PAGE, has_prefix_cache=config.enable_prefix_caching, faults=self.faults
        )
        scheduler = Scheduler(
            cache,
            Stats(settings["max_model_len"]),
            max_num_seqs=settings["max_num_seqs"],
            max_num_batched_tokens=settings["max_num_batched_tokens"],
            max_chunk_tokens=settings["chunk"],
            max_pages_per_row=-(-settings["max_model_len"] // PAGE),
            vocab_size=VOCAB,
            max_logprobs=NUM_TOP,
            max_tokens_per_row=settings["max_tokens_per_row"],
            trackers=trackers,
            clock=clock,
        )
        device = FakeRunner(
            groups,
            page_size=PAGE,
            max_num_seqs=settings["max_num_seqs"],
            max_tokens_per_row=settings["max_tokens_per_row"],
        )
        timed = TimedRunner(device, self.threads, settings["step_s"], self.on_plan)
        return Engine(
            scheduler,
            RunnerWithFaults(timed, self.faults),
            overlap=config.overlap,
            heartbeat=Heartbeat(config.step_timeout_s, clock),
        )


def digest_plan(plan: StepPlan) -> bytes:
    """Return a digest of what a step computes: requests, token counts and pages."""
    digest = sha256()
    for batch in (*((plan.decode,) if plan.decode is not None else ()), *plan.beams):
        digest.update(repr((batch.request_ids, list(batch.positions))).encode())
        for table_BW in batch.page_tables_BW:
            digest.update(table_BW.tobytes())
    for chunk in plan.chunks:
        digest.update(repr((chunk.request_id, chunk.row, chunk.start, chunk.end)).encode())
        for table_W in chunk.page_tables_W:
            digest.update(table_W.tobytes())
    return digest.digest()


def make_rng(*parts: Any) -> Random:
    """Make a generator of its own for a part of the simulation."""
    return Random(repr(parts))
