"""The sizes that the chunks of one HTTP/1.1 body announce, known as soon as each chunk begins.

h11 hands out a chunk's bytes as they come and keeps its announced size to itself, so a client that announces more than
the server takes and then waits would be waited for. The framing itself (RFC 9112, section 7.1) is h11's to check.
"""

MAX_LINE_BYTES = 4096  # of a size with its extensions


class ChunkSizes:
    """Adds up what is announced; follows the bytes of one body, in pieces as they come."""

    def __init__(self) -> None:
        self.total_bytes = 0
        self._to_skip = 0  # of the current chunk, its closing line end included
        self._line = b""
        self._is_complete = False

    def read(self, data: bytes) -> None:
        """Follow the next bytes of the connection; what comes behind the last chunk is not looked at.

        Raises:
            ValueError: A line that should hold a size is longer than MAX_LINE_BYTES.
        """
        place = 0
        while place < len(data) and not self._is_complete:
            if self._to_skip:
                step = min(self._to_skip, len(data) - place)
                self._to_skip -= step
                place += step
            else:
                place = self._read_line(data, place)

    def _read_line(self, data: bytes, place: int) -> int:
        """Take one size line, or as much of it as is there; return the place behind it."""
        begun = len(self._line)
        self._line += data[place : place + MAX_LINE_BYTES + 2 - begun]
        line, end, _ = self._line.partition(b"\r\n")
        if not end:
            if len(self._line) >= MAX_LINE_BYTES + 2:
                raise ValueError(f"a chunk's size line is longer than {MAX_LINE_BYTES} bytes")
            return len(data)
        self._line = b""
        try:
            size = int(line.partition(b";")[0], 16)
        except ValueError:
            size = 0  # h11 refuses it
        self.total_bytes += size
        self._to_skip = size + 2
        self._is_complete = size <= 0
        return place + len(line) + 2 - begun
