"""load_engines: the engine of each replica of one model, its text side and its adapters, read once."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from jaxserve.adapter_registry import AdapterRegistry
from jaxserve.config import EngineConfig
from jaxserve.engine.build import CheckedModel, LoadedEngine, build
from jaxserve.engine.compile import ProgressCallback
from jaxserve.engine.event_publisher import EventPublisher, KVEventsConfig
from jaxserve.engine.request import TrackerFactory
from jaxserve.errors import OutOfMemory
from jaxserve.model_files import blame_model_files
from jaxserve.parallel.placement import choose_placements
from jaxserve.text.tokenizer import Tokenizer
from jaxserve.text_components import TextComponents


def load_engines(
    config: EngineConfig, progress: ProgressCallback | None = None
) -> tuple[tuple[LoadedEngine, ...], TextComponents, AdapterRegistry]:
    """Load a model once for each replica. Blocks until all of them can serve requests.

    Faults in the configuration and in the model's small files are found before any weight is read. All replicas take
    requests as long as the first does, in pages of as many tokens: a request may be routed to any of them.

    progress   called with (phase, done, total)

    Raises StartupError if the model cannot be served, OutOfMemory if a later replica holds less than the first.
    """
    tokenizers: list[Future[Tokenizer]] = []
    texts: list[TextComponents] = []
    registries: list[AdapterRegistry] = []
    with ThreadPoolExecutor(1, "tokenizer") as threads, ExitStack() as cleanup:

        def read_tokenizer(path: Path) -> None:  # runs while the checkpoint is opened
            if not tokenizers:
                tokenizers.append(threads.submit(_load_tokenizer, Path(config.tokenizer) if config.tokenizer else path))

        def prepare(model: CheckedModel) -> TrackerFactory:
            if not texts:
                texts.append(TextComponents.from_model(model, tokenizers[0].result()))
                cleanup.callback(texts[0].close)
                registries.append(AdapterRegistry(model.config, model.params))
            return texts[0].output_planner.trackers

        engines: list[LoadedEngine] = []
        shared, events = config, KVEventsConfig.from_config(config)
        for rank, placement in enumerate(choose_placements(config)):
            publisher = None
            if events is not None:
                publisher = EventPublisher(events, rank)
                cleanup.callback(publisher.close)
            with _name_replica(rank):
                engines.append(build(shared, progress, read_tokenizer, prepare, placement, publisher))
            cleanup.callback(engines[-1].engine.close)
            first = engines[0].config
            shared = replace(config, max_model_len=first.max_model_len, block_size=first.block_size)
        cleanup.pop_all()
        return tuple(engines), texts[0], registries[0]


@contextmanager
def _name_replica(rank: int) -> Iterator[None]:
    try:
        yield
    except OutOfMemory as error:
        if rank == 0:
            raise
        raise OutOfMemory(
            f"Replica {rank} must take requests as long as the first, which the default and -1 go by: {error}"
        ) from error


def _load_tokenizer(path: Path) -> Tokenizer:
    with blame_model_files(f"the tokenizer of {path}"):
        return Tokenizer.load(path)
