"""Writer: the interface of what writes the reply of an endpoint, whole or as server-sent events."""

from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

from jaxserve import TextDelta
from server.errors import ApiError
from server.json_bytes import encode_json

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"
ESCAPED_LINE_ENDS = tuple((end.encode(), b"\\u%04x" % ord(end)) for end in "\u0085\u2028\u2029")


class Event(NamedTuple):
    """A server-sent event.

    name   its type; None: it has no line for it, as in OpenAI's chat streams
    data   a JSON object
    """

    name: str | None
    data: dict[str, Any]

    def encode(self) -> bytes:
        """Return the bytes of the event.

        U+0085, U+2028 and U+2029 are escaped: legal in JSON and in events, but str.splitlines, and with it httpx, ends
        a line there.
        """
        data = encode_json(self.data)
        if not data.isascii():
            for raw, escaped in ESCAPED_LINE_ENDS:
                data = data.replace(raw, escaped)
        name = b"" if self.name is None else b"event: " + self.name.encode() + b"\n"
        return name + b"data: " + data + b"\n\n"


class Writer(Protocol):
    """The writer of one reply: `write_whole`, or `opening`, any number of `delta`, then `closing` or `failure`."""

    @property
    def end(self) -> bytes:
        """The bytes that end every stream."""
        ...

    @property
    def keep_alive(self) -> bytes:
        """The bytes that are sent when there has been nothing else for a while."""
        ...

    async def write_whole(self) -> dict[str, Any]:
        """Wait for all choices, and make the reply in one object. Raises ApiError if the generation failed."""
        ...

    def opening(self) -> Iterable[Event]:
        """Make the events before the first delta."""
        ...

    def delta(self, delta: TextDelta) -> Iterable[Event]:
        """Make the events of a delta."""
        ...

    def closing(self) -> Iterable[Event]:
        """Make the events after the last delta of a generation without an error."""
        ...

    def failure(self, error: ApiError) -> Iterable[Event]:
        """Make the events that tell of an error in mid-stream."""
        ...
