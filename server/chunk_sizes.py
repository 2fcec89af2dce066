"""The announced sizes of the chunks of one HTTP/1.1 body, known as soon as each chunk begins.

h11 passes on a chunk's bytes as they come and does not tell its announced size, so the server would wait for a client
that announces more than is allowed and then sends nothing. h11 checks the framing itself (RFC 9112, section 7.1).
"""

MAX_LINE_BYTES = 4096  # of a chunk size with its extensions
# Each chunk costs about 30 us of the event loop, whatever its size; honest clients send some thousands.
MAX_SMALL_CHUNKS = 4096
MIN_MEAN_CHUNK_BYTES = 16  # of the chunks beyond these


class InvalidChunks(Exception):
    """The chunks are refused; the text says why, for the client."""


class ChunkSizes:
    """The sum of the announced chunk sizes of one body, whose bytes are read in pieces as they come.

    total_bytes: announced so far.
    """

    def __init__(self) -> None:
        self.total_bytes = 0
        self._num_chunks = 0
        self._to_skip = 0  # rest of the current chunk, the line end behind it included
        self._line = b""
        self._is_complete = False

    def read(self, data: bytes) -> None:
        """Read the next bytes of the connection; those behind the last chunk are ignored.

        Raises InvalidChunks if a line that should hold a size is longer than MAX_LINE_BYTES, or there are more than
        MAX_SMALL_CHUNKS chunks of less than MIN_MEAN_CHUNK_BYTES on average.
        """
        position = 0
        while position < len(data) and not self._is_complete:
            if self._to_skip:
                step = min(self._to_skip, len(data) - position)
                self._to_skip -= step
                position += step
            else:
                position = self._read_line(data, position)

    def _read_line(self, data: bytes, position: int) -> int:
        """Read one size line, or as much of it as is there; return the position behind it."""
        num_buffered = len(self._line)
        self._line += data[position : position + MAX_LINE_BYTES + 2 - num_buffered]
        line, end, _ = self._line.partition(b"\r\n")
        if not end:
            if len(self._line) >= MAX_LINE_BYTES + 2:
                raise InvalidChunks(f"The size line of a chunk is longer than {MAX_LINE_BYTES} bytes.")
            return len(data)
        self._line = b""
        try:
            size = int(line.partition(b";")[0], 16)
        except ValueError:
            size = 0  # h11 rejects it
        self.total_bytes += size
        self._num_chunks += 1
        if self._num_chunks > MAX_SMALL_CHUNKS + self.total_bytes // MIN_MEAN_CHUNK_BYTES:
            raise InvalidChunks(f"The body has too many small chunks: {self._num_chunks} of {self.total_bytes} bytes.")
        self._to_skip = size + 2
        self._is_complete = size <= 0
        return position + len(line) + 2 - num_buffered
