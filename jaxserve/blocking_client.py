"""An EngineClient for threads that wait for their outputs. asyncio is not used, so an event loop may be running."""

import queue
from collections.abc import Iterator, Sequence

from tqdm.auto import tqdm

from jaxserve.completion import merge_deltas
from jaxserve.config import EngineConfig
from jaxserve.engine.build import ProgressCallback
from jaxserve.engine_client import EngineClient
from jaxserve.errors import EngineStopped
from jaxserve.memory import return_freed_memory
from jaxserve.output_stream import OutputStream
from jaxserve.outputs import Completion, FinishReason, TextDelta, TokenOutput

OutputQueue = queue.SimpleQueue[TokenOutput]


class BlockingClient:
    """Runs output streams on an engine and blocks until they end. Several threads may use it at once."""

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

    def run(self, streams: Sequence[OutputStream], *, show_progress: bool = False) -> list[Completion]:
        """Run streams together until all have ended. Returns one Completion for each, in order.

        Raises the error that ended a request; the other requests are aborted then.
        """
        stream_of = {choice_id: stream for stream in streams for choice_id in stream.choice_ids}
        deltas: dict[OutputStream, list[TextDelta]] = {stream: [] for stream in streams}
        outputs = self._submit(streams)
        with tqdm(total=len(streams), desc="answers", disable=not show_progress) as bar:
            try:
                while any(stream.unfinished_ids for stream in streams):
                    output = outputs.get()
                    stream = stream_of[output.request_id]
                    delta = self._push(stream, output)
                    if delta is not None:
                        deltas[stream].append(delta)
                    if not stream.unfinished_ids:
                        bar.update(sum(not stream.unfinished_ids for stream in streams) - bar.n)
            finally:
                self._release(streams)
        return [merge_deltas(stream, deltas[stream]) for stream in streams]

    def iterate(self, stream: OutputStream) -> Iterator[TextDelta]:
        """Run a stream and yield its deltas as they arrive. Closing the generator aborts the request.

        Raises the error that ended the request.
        """
        outputs = self._submit([stream])
        try:
            while stream.unfinished_ids:
                delta = self._push(stream, outputs.get())
                if delta is not None:
                    yield delta
        finally:
            self._release([stream])

    def close(self) -> None:
        """End the engine and return its memory, the device's and the process's. Idempotent."""
        client, self._client = self._client, None
        if client is not None:
            client.close()
            del client
            return_freed_memory()

    def _submit(self, streams: Sequence[OutputStream]) -> OutputQueue:
        """Submit streams with one queue for the outputs of all."""
        outputs: OutputQueue = queue.SimpleQueue()
        for stream in streams:
            self._queues.update(dict.fromkeys(stream.unfinished_ids, outputs))
        for stream in streams:
            self.client.submit(stream)
        return outputs

    def _push(self, stream: OutputStream, output: TokenOutput) -> TextDelta | None:
        delta, ends_early = stream.push(output)
        if ends_early and self._client is not None:
            self._client.finish_requests([output.request_id], FinishReason.STOP)
        return delta

    def _release(self, streams: Sequence[OutputStream]) -> None:
        for stream in streams:
            for choice_id in stream.choice_ids:
                self._queues.pop(choice_id, None)
            if self._client is not None:
                self._client.finish_requests(list(stream.unfinished_ids))

    def _on_outputs(self, outputs: list[TokenOutput]) -> None:
        """Distribute a step's outputs, on the engine's thread. While the engine ends there is no client any more."""
        client = self._client
        for output in outputs:
            if client is not None:
                client.record_output(output)
            waiting = self._queues.get(output.request_id)
            if waiting is not None:
                waiting.put(output)
