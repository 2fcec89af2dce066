"""The calls of one choice on their way to the client, as deltas."""

from collections.abc import Callable

from jaxserve.chat_output_spec import ChatOutputSpec
from jaxserve.outputs import ToolCallDelta


class CallDeltas:
    """Takes calls as a reader finds them, and makes deltas of them. A call counts from its first argument text on.

    num_calls        that have begun
    num_unfinished   of them, that are told and have not ended
    has_begun        whether the call that was named last has begun
    """

    def __init__(self, format: ChatOutputSpec, new_id: Callable[[str, int], str]) -> None:
        self.num_calls = 0
        self.num_unfinished = 0
        self.has_begun = False
        self._num_past_calls, self._parallel = format.num_past_tool_calls, format.parallel_tool_calls
        self._new_id = new_id
        self._name = ""
        self._arguments: list[str] = []
        self._deltas: list[ToolCallDelta] = []

    def begin_call(self, name: str) -> None:
        self._flush()
        self._name, self.has_begun = name, False

    def add_arguments(self, arguments: str) -> None:
        if not self.has_begun:
            self.has_begun = True
            self.num_calls += 1
            if self._is_reported:
                self.num_unfinished += 1
                id = self._new_id(self._name, self._num_past_calls + self.num_calls - 1)
                self._deltas.append(ToolCallDelta(self.num_calls - 1, "", id, self._name))
        self._arguments.append(arguments)

    def end_call(self) -> None:
        if self._is_reported:
            self.num_unfinished -= 1

    def take_deltas(self) -> tuple[ToolCallDelta, ...]:
        """What is new since the last time."""
        if not self.num_calls:
            return ()
        self._flush()
        deltas = tuple(self._deltas)
        self._deltas.clear()
        return deltas

    @property
    def _is_reported(self) -> bool:
        """Whether the newest call is told: only the first is, where only one is allowed."""
        return self.num_calls == 1 or self._parallel

    def _flush(self) -> None:
        if self._arguments and self._is_reported:
            self._deltas.append(ToolCallDelta(self.num_calls - 1, "".join(self._arguments)))
        self._arguments.clear()
