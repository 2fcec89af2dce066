"""The head of a GGUF file, checked while it is read: metadata values and the place of each tensor.

Standard library only, so the text package may use it for tokenizers. Every count and length is compared with the bytes
that are left before anything of that size is made. Much quicker than building an array per value, as `gguf.GGUFReader`
does (0.1 s against 5 s for a vocabulary of 49k on one core of a cloud machine).
Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian.
"""

import mmap
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NoReturn

from jaxserve.errors import BadCheckpoint
from jaxserve.model_files import check_ordinary

MAX_KEYS = 1 << 16
MAX_TENSORS = 1 << 18
MAX_VALUES = 1 << 24  # array elements in all; the largest vocabularies have 2**18 tokens, 2**19 merges
MAX_NAME_BYTES = 1 << 16
MAX_TENSOR_NAME_BYTES = 128  # llama.cpp allows 64
MAX_DEPTH = 4  # of arrays in arrays
MAX_DIMS = 4
MAX_TENSOR_VALUES = 1 << 48
DEFAULT_ALIGNMENT = 32

# value type -> struct code
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9


@dataclass(frozen=True, slots=True)
class GGUFTensor:
    """One tensor in a file. shape is outermost axis first (numpy's order); offset counts from the file's start.

    part: which file of a model in several parts has it, from 0 on.
    """

    name: str
    shape: tuple[int, ...]
    ggml_type: int
    offset: int
    part: int = 0


@dataclass(frozen=True, slots=True)
class GGUFHeader:
    """Metadata as plain Python values (arrays as lists) and the tensors by name."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, GGUFTensor]
    num_bytes: int


def read_header(path: Path) -> GGUFHeader:
    """Read and check the head of the file. Raises BadCheckpoint, naming the file and the field at fault."""
    try:
        check_ordinary(path)
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as buffer:
            return _HeaderReader(path, buffer).read_header()
    except FileNotFoundError:
        raise BadCheckpoint(f"{path} is missing.") from None
    except (OSError, ValueError) as error:
        raise BadCheckpoint(f"{path} cannot be read as GGUF: {error}.") from error


class _HeaderReader:
    """A cursor over the file's head; `what` is the field being read, for messages."""

    def __init__(self, path: Path, buffer: mmap.mmap) -> None:
        self.path, self.buffer, self.end = path, buffer, len(buffer)
        self.offset = 0
        self.values_left = MAX_VALUES
        self.field_name = "the head of the file"

    def fail(self, reason: str) -> NoReturn:
        raise BadCheckpoint(f"{self.path}: {self.field_name} {reason}.")

    def advance(self, num_bytes: int) -> int:
        """Advance over num_bytes and return where they start."""
        if num_bytes > self.end - self.offset:
            self.fail(f"runs past the end of the file ({num_bytes} bytes wanted, {self.end - self.offset} left)")
        start, self.offset = self.offset, self.offset + num_bytes
        return start

    def read_scalar(self, code: str) -> Any:
        layout = "<" + code
        return struct.unpack_from(layout, self.buffer, self.advance(struct.calcsize(layout)))[0]

    def read_count(self, limit: int, min_bytes: int, noun: str) -> int:
        """Read a count of things of at least min_bytes each."""
        count = self.read_scalar("Q")
        if count > limit or count * min_bytes > self.end - self.offset:
            self.fail(f"claims {count} {noun}, more than the file can hold or we accept")
        return count

    def read_string(self, max_bytes: int | None = None) -> str:
        length = self.read_scalar("Q")
        if max_bytes is not None and length > max_bytes:
            self.fail(f"has a name of {length} bytes; at most {max_bytes} are allowed")
        start = self.advance(length)
        try:
            return self.buffer[start : self.offset].decode()
        except UnicodeDecodeError:
            self.fail("is not valid UTF-8")

    def read_value(self, kind: int, depth: int = 0) -> Any:
        if kind == STRING:
            return self.read_string()
        if kind == ARRAY:
            return self.read_array(depth + 1)
        if kind not in SCALARS:
            self.fail(f"has the unknown value type {kind}")
        return self.read_scalar(SCALARS[kind])

    def read_array(self, depth: int) -> list[Any]:
        if depth > MAX_DEPTH:
            self.fail(f"nests arrays deeper than {MAX_DEPTH}")
        kind = self.read_scalar("I")
        code = SCALARS.get(kind)
        item_bytes = struct.calcsize("<" + code) if code else 8
        count = self.read_count(self.values_left, item_bytes, "values")
        self.values_left -= count
        if code:
            return list(struct.unpack_from(f"<{count}{code}", self.buffer, self.advance(count * item_bytes)))
        return [self.read_value(kind, depth) for _ in range(count)]

    def read_header(self) -> GGUFHeader:
        self.check_magic()
        num_tensors = self.read_count(MAX_TENSORS, 24, "tensors")
        num_keys = self.read_count(MAX_KEYS, 13, "metadata keys")
        metadata: dict[str, Any] = {}
        for _ in range(num_keys):
            self.field_name = "a metadata key"
            key = self.read_string(MAX_NAME_BYTES)
            self.field_name = f"metadata {key[:200]!r}"
            if key in metadata:
                self.fail("appears twice")
            metadata[key] = self.read_value(self.read_scalar("I"))
        return self.read_tensors(metadata, num_tensors)

    def check_magic(self) -> None:
        if self.buffer[self.advance(4) : self.offset] != b"GGUF":
            raise BadCheckpoint(f"{self.path} is not a GGUF file: it does not start with 'GGUF'.")
        version = self.read_scalar("I")
        if version & 0xFFFF == 0:
            raise BadCheckpoint(f"{self.path} is a big-endian GGUF file; only little-endian ones are read.")
        if version not in (2, 3):
            raise BadCheckpoint(f"{self.path} is GGUF version {version}; versions 2 and 3 are read.")

    def read_tensors(self, metadata: dict[str, Any], num_tensors: int) -> GGUFHeader:
        alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or not 1 <= alignment <= 1 << 20 or alignment & (alignment - 1):
            raise BadCheckpoint(f"{self.path}: general.alignment is {alignment!r}, not a sensible power of two.")
        tensors: dict[str, GGUFTensor] = {}
        for _ in range(num_tensors):
            self.field_name = "a tensor's name"
            name = self.read_string(MAX_TENSOR_NAME_BYTES)
            self.field_name = f"tensor {name!r}"
            if name in tensors:
                self.fail("appears twice")
            tensors[name] = self.read_tensor(name, alignment)
        data_start = -(-self.offset // alignment) * alignment
        placed = {n: GGUFTensor(n, t.shape, t.ggml_type, data_start + t.offset) for n, t in tensors.items()}
        return GGUFHeader(self.path, metadata, placed, self.end)

    def read_tensor(self, name: str, alignment: int) -> GGUFTensor:
        num_dims = self.read_scalar("I")
        if not 1 <= num_dims <= MAX_DIMS:
            self.fail(f"has {num_dims} axes; 1 to {MAX_DIMS} are allowed")
        shape = tuple(self.read_scalar("Q") for _ in range(num_dims))[::-1]
        if not 1 <= prod(shape) <= MAX_TENSOR_VALUES:
            self.fail(f"has the impossible shape {shape}")
        kind, offset = self.read_scalar("I"), self.read_scalar("Q")
        if offset % alignment:
            self.fail(f"starts at {offset}, which is no multiple of the alignment {alignment}")
        return GGUFTensor(name, shape, kind, offset)
