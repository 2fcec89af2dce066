"""An EngineClient for threads that wait for their outputs. asyncio is not used, so an event loop may be running."""

import queue
from collections.abc import Iterator, Mapping, Sequence

from tqdm.auto import tqdm

from jaxserve.completion import merge_deltas
from jaxserve.config import EngineConfig
from jaxserve.engine.compile import ProgressCallback
from jaxserve.engine_client import EngineClient
from jaxserve.errors import EngineStopped
from jaxserve.memory import return_freed_memory
from jaxserve.output_stream import OutputStream
from jaxserve.outputs import Completion, FinishReason, TextDelta, TokenOutput
from jaxserve.preparation import Ready
from jaxserve.replica import Replica

OutputQueue = queue.SimpleQueue[TokenOutput]


class BlockingClient:
    """Runs requests on the engines and blocks until they end. Several threads may use it at once."""

    def __init__(self, config: EngineConfig, progress: ProgressCallback | None = None) -> None:
        """Load the model. Raises StartupError if it cannot be served."""
        self._queues: dict[int, OutputQueue] = {}  # by choice id; the engine's thread reads it
        self._client: EngineClient | None = EngineClient.load(config, self._on_outputs, progress)

    @property
    def is_open(self) -> bool:
        """Whether `close` has not been called yet."""
        return self._client is not None

    @property
    def client(self) -> EngineClient:
        """The EngineClient. Raises EngineStopped after `close`."""
        if self._client is None:
            raise EngineStopped("This LLM is closed; make another with LLM(…).")
        return self._client

    def run(self, requests: Sequence[Ready], *, show_progress: bool = False) -> list[Completion]:
        """Run requests together until all have ended. Returns one Completion for each, in order.

        Raises the error that ended a request; the other requests are aborted then.
        """
        streams = [self.client.create_stream(ready) for ready in requests]
        stream_of = {choice_id: stream for stream in streams for choice_id in stream.choice_ids}
        deltas: dict[OutputStream, list[TextDelta]] = {stream: [] for stream in streams}
        outputs, replicas = self._submit(streams, requests)
        with tqdm(total=len(streams), desc="answers", disable=not show_progress) as bar:
            try:
                while any(stream.unfinished_ids for stream in streams):
                    output = outputs.get()
                    stream = stream_of[output.request_id]
                    delta, ends_early = stream.push(output)
                    if ends_early:
                        replicas[stream].finish([output.request_id], FinishReason.STOP)
                    if delta is not None:
                        deltas[stream].append(delta)
                    if not stream.unfinished_ids:
                        bar.update(sum(not stream.unfinished_ids for stream in streams) - bar.n)
            finally:
                self._release(replicas)
        return [merge_deltas(stream, deltas[stream]) for stream in streams]

    def iterate(self, ready: Ready) -> Iterator[TextDelta]:
        """Run a request and yield its deltas as they arrive. Closing the generator aborts the request.

        Raises the error that ended the request.
        """
        stream = self.client.create_stream(ready)
        outputs, replicas = self._submit([stream], [ready])
        try:
            while stream.unfinished_ids:
                output = outputs.get()
                delta, ends_early = stream.push(output)
                if ends_early:
                    replicas[stream].finish([output.request_id], FinishReason.STOP)
                if delta is not None:
                    yield delta
        finally:
            self._release(replicas)

    def close(self) -> None:
        """End the engine and return its memory, the device's and the process's. Idempotent."""
        client, self._client = self._client, None
        if client is not None:
            client.close()
            del client
            return_freed_memory()

    def _submit(
        self, streams: Sequence[OutputStream], requests: Sequence[Ready]
    ) -> tuple[OutputQueue, dict[OutputStream, Replica]]:
        """Submit streams with one queue for the outputs of all; return it, and the replica of each."""
        outputs: OutputQueue = queue.SimpleQueue()
        for stream in streams:
            self._queues.update(dict.fromkeys(stream.unfinished_ids, outputs))
        replicas: dict[OutputStream, Replica] = {}
        for stream, ready in zip(streams, requests, strict=True):
            replicas[stream] = self.client.choose_replica(stream, ready.data_parallel_rank)
            replicas[stream].submit(stream.requests)
        return outputs, replicas

    def _release(self, replicas: Mapping[OutputStream, Replica]) -> None:
        for stream, replica in replicas.items():
            for choice_id in stream.choice_ids:
                self._queues.pop(choice_id, None)
            replica.finish(list(stream.unfinished_ids))

    def _on_outputs(self, outputs: list[TokenOutput]) -> None:
        """Distribute a step's outputs, on an engine's thread."""
        for output in outputs:
            waiting = self._queues.get(output.request_id)
            if waiting is not None:
                waiting.put(output)
