"""An EngineClient for threads that wait for their outputs. asyncio is not used, so an event loop may be running."""

import queue
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence

from tqdm.auto import tqdm

from jaxserve.completion import merge_deltas
from jaxserve.config import EngineConfig
from jaxserve.engine.compile import ProgressCallback
from jaxserve.engine_client import EngineClient
from jaxserve.errors import EngineStopped
from jaxserve.memory import return_freed_memory
from jaxserve.outputs import Completion, TextDelta, TokenOutput
from jaxserve.preparation import Ready
from jaxserve.running_request import RunningRequest

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
        deltas = self.run_all(requests, show_progress=show_progress)
        return [merge_deltas(ready, own_deltas) for ready, own_deltas in zip(requests, deltas, strict=True)]

    def run_all(self, requests: Sequence[Ready], *, show_progress: bool = False) -> list[list[TextDelta]]:
        """Run requests together until all have ended. Returns the deltas of each, in order.

        Raises the error that ended a request; the other requests are aborted then.
        """
        outputs, errors, deltas = _Outputs(), [], [[] for _ in requests]
        running = [
            self._create(ready, outputs, own_deltas.append, errors.append)
            for ready, own_deltas in zip(requests, deltas, strict=True)
        ]
        try:
            for request in running:
                request.start()
            with tqdm(total=len(running), desc="answers", disable=not show_progress) as bar:
                unfinished = set(running)
                while unfinished:
                    request = outputs.push_next()
                    _raise_first(errors)
                    if request.is_finished and request in unfinished:
                        unfinished.remove(request)
                        bar.update()
        finally:
            for request in running:
                request.cancel()
        return deltas

    def iterate(self, ready: Ready) -> Iterator[TextDelta]:
        """Run a request and yield its deltas as they arrive. Closing the generator aborts the request.

        Raises the error that ended the request.
        """
        outputs, errors, deltas = _Outputs(), [], deque()
        request = self._create(ready, outputs, deltas.append, errors.append)
        try:
            request.start()
            while not request.is_finished:
                outputs.push_next()
                _raise_first(errors)
                while deltas:
                    yield deltas.popleft()
        finally:
            request.cancel()

    def close(self) -> None:
        """End the engine and return its memory, the device's and the process's. Idempotent."""
        client, self._client = self._client, None
        if client is not None:
            client.close()
            del client
            return_freed_memory()

    def _create(
        self,
        ready: Ready,
        outputs: "_Outputs",
        on_delta: Callable[[TextDelta], None],
        on_error: Callable[[Exception], None],
    ) -> RunningRequest:
        """Create a request whose outputs go to `outputs`, from where the caller pushes them."""

        def register(request: RunningRequest, choice_ids: Collection[int]) -> None:
            outputs.running.update(dict.fromkeys(choice_ids, request))
            self._queues.update(dict.fromkeys(choice_ids, outputs.queue))

        def forget(choice_ids: Collection[int]) -> None:
            for choice_id in choice_ids:
                self._queues.pop(choice_id, None)

        client = self.client
        stream, replica = client.create_stream(ready), client.choose_replica(ready)
        return RunningRequest(stream, replica, on_delta, on_error, register, forget)

    def _on_outputs(self, outputs: list[TokenOutput]) -> None:
        """Distribute a step's outputs, on an engine's thread."""
        for output in outputs:
            waiting = self._queues.get(output.request_id)
            if waiting is not None:
                waiting.put(output)


class _Outputs:
    """The outputs of requests that run together, and whose they are.

    queue     Outputs, put by the engine's thread.
    running   The requests by choice id.
    """

    def __init__(self) -> None:
        self.queue: OutputQueue = queue.SimpleQueue()
        self.running: dict[int, RunningRequest] = {}

    def push_next(self) -> RunningRequest:
        """Wait for an output, push it to its request and return that."""
        output = self.queue.get()
        request = self.running[output.request_id]
        if output.finish_reason is not None:
            del self.running[output.request_id]
        request.push(output)
        return request


def _raise_first(errors: Sequence[Exception]) -> None:
    if errors:
        raise errors[0]
