"""RunningRequest: one request between the outputs of the engine and whoever takes its text."""

from collections.abc import Callable

from jaxserve.output_stream import OutputStream
from jaxserve.outputs import FinishReason, TextDelta, TokenOutput
from jaxserve.replica import Replica


class RunningRequest:
    """A request that runs: outputs of the engine are decoded as they arrive. For one thread."""

    def __init__(
        self,
        stream: OutputStream,
        replica: Replica,
        on_delta: Callable[[TextDelta], None],
        on_error: Callable[[Exception], None],
        on_end: Callable[[], None],
    ) -> None:
        self._stream, self._replica = stream, replica
        self._on_delta, self._on_error, self._on_end = on_delta, on_error, on_end
        self._has_ended = False

    def push(self, output: TokenOutput) -> None:
        """Decode an output and hand on the delta that it brings. An error ends the request."""
        if self._has_ended:
            return
        try:
            delta, ends_early = self._stream.push(output)
            if ends_early:
                self._replica.finish([output.request_id], FinishReason.STOP)
            if not self._stream.unfinished_ids:
                self._end()
            if delta is not None:
                self._on_delta(delta)
        except Exception as error:
            self.cancel()
            self._on_error(error)

    def cancel(self) -> None:
        """Abort the choices that have not ended. Nothing is handed on any more. Idempotent."""
        self._replica.finish(list(self._stream.unfinished_ids))
        self._end()

    def _end(self) -> None:
        if not self._has_ended:
            self._has_ended = True
            self._on_end()
