"""CallDeltas: the tool calls of one choice as deltas for the client."""

from collections.abc import Callable

from jaxserve.chat_output_spec import ChatOutputSpec
from jaxserve.outputs import ToolCallDelta


class CallDeltas:
    """A ToolCallSink that makes deltas. A call counts from its first argument text on.

    num_calls        The number of calls that have begun.
    num_unfinished   The number of reported calls that have not ended.
    has_begun        Whether the call that was named last has begun.
    """

    def __init__(self, spec: ChatOutputSpec, new_id: Callable[[str, int], str]) -> None:
        self.num_calls = 0
        self.num_unfinished = 0
        self.has_begun = False
        self._num_past_calls, self._is_parallel = spec.num_past_tool_calls, spec.parallel_tool_calls
        self._new_id = new_id
        self._name = ""
        self._arguments: list[str] = []
        self._deltas: list[ToolCallDelta] = []

    def begin_call(self, name: str) -> None:
        """Note the function of the next call; the call itself begins with its first argument text."""
        self._flush()
        self._name, self.has_begun = name, False

    def add_arguments(self, arguments: str) -> None:
        """Receive a piece of the arguments, which is JSON text."""
        if not self.has_begun:
            self.has_begun = True
            self.num_calls += 1
            if self._is_reported:
                self.num_unfinished += 1
                id = self._new_id(self._name, self._num_past_calls + self.num_calls - 1)
                self._deltas.append(ToolCallDelta(self.num_calls - 1, "", id, self._name))
        self._arguments.append(arguments)

    def end_call(self) -> None:
        """Mark the call as complete."""
        if self._is_reported:
            self.num_unfinished -= 1

    def take_deltas(self) -> tuple[ToolCallDelta, ...]:
        """Return the deltas since the last call of this method."""
        if not self.num_calls:
            return ()
        self._flush()
        deltas = tuple(self._deltas)
        self._deltas.clear()
        return deltas

    @property
    def _is_reported(self) -> bool:
        """Whether the client sees the newest call: without parallel calls it sees only the first."""
        return self.num_calls == 1 or self._is_parallel

    def _flush(self) -> None:
        if self._arguments and self._is_reported:
            self._deltas.append(ToolCallDelta(self.num_calls - 1, "".join(self._arguments)))
        self._arguments.clear()
