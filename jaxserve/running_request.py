"""RunningRequest: one request between the outputs of the engine and whoever takes its text."""

from collections.abc import Callable, Collection

from jaxserve.output_stream import OutputStream
from jaxserve.outputs import FinishReason, TextDelta, TokenOutput
from jaxserve.replica import Replica


class RunningRequest:
    """A request that runs: outputs of the engine are decoded as they arrive. For one thread.

    Whoever distributes outputs is told which choices belong to it: many choices are started one after another.
    """

    def __init__(
        self,
        stream: OutputStream,
        replica: Replica,
        on_delta: Callable[[TextDelta], None],
        on_error: Callable[[Exception], None],
        on_start: Callable[["RunningRequest", Collection[int]], None],
        on_end: Callable[[Collection[int]], None],
    ) -> None:
        """Make a request that `start` starts.

        on_delta   called with each delta
        on_error   called at most once, with the error that has ended the request
        on_start   called with the ids of choices before the engine gets them
        on_end     called with the ids of choices that have ended
        """
        self._stream, self._replica = stream, replica
        self._on_delta, self._on_error = on_delta, on_error
        self._on_start, self._on_end = on_start, on_end
        self._is_cancelled = False

    @property
    def is_finished(self) -> bool:
        """Whether all of its choices have ended, or it was cancelled or ended by an error."""
        return self._is_cancelled or self._stream.is_finished

    def start(self) -> None:
        """Hand the engine the choices that may run now."""
        requests = self._stream.make_requests()
        if requests:
            self._on_start(self, [output_id for request in requests for output_id in request.output_ids])
            self._replica.submit(requests, self._stream.num_choices)

    def push(self, output: TokenOutput) -> None:
        """Decode an output and hand on the delta that it brings. An error ends the request."""
        if self._is_cancelled:
            return
        try:
            delta, ends_early = self._stream.push(output)
            if ends_early:
                self._replica.finish([output.request_id], FinishReason.STOP)
            if output.request_id not in self._stream.unfinished_ids:
                self._on_end([output.request_id])
                self.start()
            if delta is not None:
                self._on_delta(delta)
        except Exception as error:
            self.cancel()
            self._on_error(error)

    def cancel(self) -> None:
        """Abort the choices that have not ended. Nothing is handed on any more. Idempotent."""
        if not self.is_finished:
            self._is_cancelled = True
            self._replica.finish(self._stream.aborted_ids)
            self._on_end(self._stream.unfinished_ids)
